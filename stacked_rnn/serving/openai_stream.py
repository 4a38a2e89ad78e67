"""The texts of one request, from the batcher to the wire."""

import asyncio
import contextlib
import copy
import json
import time

from stacked_rnn.configs import UserError
from stacked_rnn.serving import (
    openai_completions,
    pools,
    scheduler,
    top_logprobs,
)
from stacked_rnn.serving.errors import ApiError
from stacked_rnn.serving.repository import NotReadyError

_LONG = 5_000  # characters of all prompts
_MOST_ECHOED = 50_000  # tokens of prompts, each as often as it is given back
_MOST_UNREAD = 10_000  # updates that a client leaves unread
_SILENCE = 15.0  # seconds, after which a proxy hears that we are alive
_FAILURES = {  # by finish_reason
    "timeout": (503, "The request took longer than this server allows"),
    "error": (500, "The model failed: the log of the server says how"),
    "unread": (503, "The answer was read too slowly"),
}


def deliver(updates) -> None:
    """Hands what is new of texts to the requests that wait for it.

    Called from the threads of the batchers, with one call into the event loop
    for each of theirs.
    """
    by_loop = {}
    for text, update in updates:
        by_loop.setdefault(text.listener.loop, []).append((text, update))
    for loop, own in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits
            loop.call_soon_threadsafe(_dispatch, own)


def _dispatch(updates):
    for text, update in updates:
        text.listener.receive(text, update)


async def find(repository, name, seconds):
    """The model of a name; waits for one that is loaded on demand.

    Args:
        repository: a `Repository`.
        name: of a model.
        seconds: to wait at most.

    Raises:
        KeyError: there is none.
        NotReadyError: it is not there yet.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return repository[name]
        except NotReadyError as error:
            if not error.is_on_demand or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


class Stream:
    """The texts of a request.

    Args:
        body: a `openai_completions.CompletionRequest`.
        repository: a `Repository`.
        readers: a `pools.Pool`, for what takes long.
        config: a `ServeConfig`.
        metrics: a `Metrics`.
    """

    def __init__(self, body, repository, readers, config, metrics):
        self._body, self._repository = body, repository
        self._readers, self._config = readers, config
        self._metrics = metrics
        self._began = time.monotonic()
        self.loop, self._queue = asyncio.get_running_loop(), asyncio.Queue()
        self._texts, self._unfinished = [], set()
        self._rankings = []  # of each text, where the likeliest are wanted
        self._is_unread = self._has_left = False

    def receive(self, text, update) -> None:
        """Takes what is new of a text, until somebody reads it."""
        if self._queue.qsize() < _MOST_UNREAD:
            self._queue.put_nowait((text, update))
        else:  # whoever reads on is told, see `_pieces`
            self._is_unread = True
            self._cancel()

    async def start(self) -> None:
        """Has the texts begin to grow.

        Raises:
            ApiError: they cannot.
        """
        body = self._body
        self._check_limits()
        for _ in range(2):  # a version that is being replaced takes no more
            try:
                served = await find(
                    self._repository, body.model, self._config.request_seconds
                )
                if not served.batcher:
                    raise ApiError(
                        400, f"The model {body.model!r} ({served.task}) "
                        "continues no texts: POST "
                        f"/v1/models/{body.model}:predict", "model",
                    )  # fmt: skip
                if self._needs_a_look:
                    prompts = await self._readers.run(self._look, served)
                else:
                    prompts = ()
                    self._texts = self._make(served, body.samplings())
                for index, text in enumerate(self._texts):
                    text.listener, text.index = self, index
                served.batcher.submit(self._texts)
            except KeyError:
                raise no_model(body.model) from None
            except NotReadyError as error:
                raise ApiError(503, str(error)) from None
            except UserError as error:
                raise ApiError(400, f"prompt: {error}", "prompt") from None
            except (scheduler.BusyError, pools.BusyError):
                raise ApiError(
                    429, "Too many texts are waiting: try again later"
                ) from None
            except scheduler.ClosedError:
                continue
            self._answer = openai_completions.Answer(body, prompts)
            self._counts = self._metrics.of(served.name)
            self._unfinished = {*self._texts}
            return
        raise ApiError(503, "The server is shutting down")

    def _check_limits(self):
        body, config = self._body, self._config
        if body.max_tokens > config.max_tokens:
            raise ApiError(
                400, f"max_tokens: at most {config.max_tokens}", "max_tokens"
            )
        count = len(body.prompts) * body.n
        most = min(openai_completions.MAX_TEXTS, config.max_waiting)
        if count > most:
            raise ApiError(400, f"n: more than {most} texts at once", "n")
        most = scheduler.SIZES[-1] * config.max_tokens
        if count * body.max_tokens > most:
            raise ApiError(
                400, f"n: {count} texts of {body.max_tokens} tokens: more than "
                f"{most:,} tokens at once", "n",
            )  # fmt: skip

    @property
    def _needs_a_look(self):
        """Whether the prompts are read before the texts get a place."""
        length = sum(map(len, self._body.prompts)) * self._body.n
        return self._body.echo or self._body.logprobs or length >= _LONG

    def _make(self, served, samplings):
        """A text of each prompt for each sampling."""
        deadline = self._began + self._config.request_seconds
        return [
            served.batcher.text(prompt, sampling, self._body.stops, deadline)
            for prompt in self._body.prompts
            for sampling in samplings
        ]

    def _look(self, served):
        """Makes the texts; returns what `Answer` needs of each prompt."""
        body, prompts = self._body, []
        self._texts, self._rankings = [], []
        first, *others = body.samplings()
        texts = self._make(served, [first])
        served.batcher.tokenize(texts)
        num_tokens = sum(text.num_prompt_tokens for text in texts)
        if body.logprobs and num_tokens > top_logprobs.MOST_READ:
            raise UserError(
                "with logprobs from 1 on at most "
                f"{top_logprobs.MOST_READ} tokens"
            )
        if body.echo and num_tokens * body.n > _MOST_ECHOED:
            raise UserError(
                f"with echo at most {_MOST_ECHOED} tokens, each counted for "
                "each of n"
            )
        for text in texts:
            likely = []
            if body.logprobs:
                ranking = top_logprobs.TopLogprobs(served.model, served.rank)
                likely = ranking.read(text.prompt_ids.tolist())
                self._rankings += [copy.copy(ranking) for _ in range(body.n)]
            scores = body.echo and body.logprobs is not None
            prompts.append(
                (*served.prompt(text.prompt_ids, scores), likely)
                if text.num_prompt_tokens
                else ("", [], [], [])
            )
            self._texts += [text, *map(text.again, others)]
        return prompts

    @property
    def _num_prompt_tokens(self):
        """Of the prompts that were tokenized already."""
        return sum(
            text.num_prompt_tokens for text in self._texts[:: self._body.n]
        )

    async def events(self):
        """Yields the answer as server-sent events, bytes."""
        body, answer = self._body, self._answer
        try:
            if body.echo:
                yield _event(answer.event(answer.echoes()))
            async with contextlib.aclosing(self._pieces()) as arriving:
                async for pieces in arriving:
                    yield (
                        b"".join(_event(answer.event([one])) for one in pieces)
                        or b": nothing new\n\n"
                    )
        except ApiError as error:
            yield _event(error.body)
            return
        if body.stream_options.include_usage:
            yield _event(
                answer.event([], answer.usage(self._num_prompt_tokens))
            )
        yield b"data: [DONE]\n\n"

    async def whole(self) -> bytes:
        """The answer in one, JSON.

        Raises:
            ApiError: a text failed.
        """
        pieces = self._answer.echoes() if self._body.echo else []
        async with contextlib.aclosing(self._pieces()) as arriving:
            async for more in arriving:
                pieces += more
        parts = []
        for part in self._answer.whole(pieces, self._num_prompt_tokens):
            parts.append(part)
            await asyncio.sleep(0)  # others have their turn
        return "".join(parts).encode()

    async def _pieces(self):
        """Yields lists of what `Answer.piece` makes, until all texts end.

        After some seconds in which nothing came an empty one.
        """
        before = None
        while self._unfinished:
            try:
                async with asyncio.timeout(_SILENCE):
                    updates = [await self._queue.get()]
            except TimeoutError:
                yield []
                continue
            while not self._queue.empty():
                updates.append(self._queue.get_nowait())
            if self._is_unread:
                raise ApiError(*_FAILURES["unread"])
            now = time.monotonic()
            if before is None:
                self._counts.first_token(now - self._began)
            else:
                self._counts.between(now - before)
            before, pieces = now, []
            for text, update in updates:
                if update.finish_reason:
                    self._unfinished.discard(text)
                    self._counts.finished(text, update.finish_reason)
                if update.finish_reason in _FAILURES:
                    raise ApiError(*_FAILURES[update.finish_reason])
                self._counts.generated(len(update.tokens))
                pieces.append(
                    self._answer.piece(
                        text.index, update.text, update.tokens,
                        update.log_probs, await self._likeliest(text, update),
                        update.finish_reason,
                    )
                )  # fmt: skip
            yield pieces

    async def _likeliest(self, text, update):
        """What else was likely in the places of new tokens, where wanted."""
        if not self._rankings:
            return ()
        try:
            return await self._readers.run(
                self._rankings[text.index].read, update.token_ids
            )
        except pools.BusyError:
            raise ApiError(
                503, "Too many requests want logprobs: try again later"
            ) from None

    def leave(self) -> None:
        """Lets go of what nobody waits for any more: safe to call twice."""
        if not self._has_left:
            self._has_left = True
            self._counts.prompt(self._num_prompt_tokens)
        self._cancel()
        for text in self._unfinished:
            self._counts.finished(text, "cancelled")
        self._unfinished = set()

    def _cancel(self):
        for text in self._unfinished:
            text.cancelled = True


def no_model(name) -> ApiError:
    """That there is no model of a name."""
    return ApiError(
        404, f"The model {name[:100]!r} does not exist", "model",
        "model_not_found",
    )  # fmt: skip


def _event(value) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"
