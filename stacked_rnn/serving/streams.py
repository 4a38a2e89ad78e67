"""The texts of one request, from the batcher to the wire."""

import asyncio
import contextlib
import copy
import json
import time

from fastapi.concurrency import run_in_threadpool

from stacked_rnn import batching
from stacked_rnn.configs import UserError
from stacked_rnn.serving import completions, rankings
from stacked_rnn.serving.completions import ApiError

_LONG = 5_000  # characters of a prompt
_FAILURES = {  # by finish_reason
    "timeout": (503, "The request took longer than this server allows"),
    "error": (500, "The model failed: the log of the server says how"),
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
        text.listener.queue.put_nowait((text, update))


class Stream:
    """The texts of a request.

    Args:
        body: a `completions.CompletionRequest`.
        repository: a `Repository`.
        config: a `ServeConfig`.
        metrics: a `Metrics`.
    """

    def __init__(self, body, repository, config, metrics):
        self._body, self._repository = body, repository
        self._config, self._metrics = config, metrics
        self._began = time.monotonic()
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue()
        self._texts = []

    async def start(self) -> None:
        """Has the texts begin to grow.

        Raises:
            ApiError: they cannot.
        """
        body, limit = self._body, self._config.max_tokens
        if body.max_tokens > limit:
            raise ApiError(400, f"max_tokens: at most {limit}", "max_tokens")
        if len(body.prompts) * body.n > completions.MAX_TEXTS:
            raise ApiError(
                400, f"n: more than {completions.MAX_TEXTS} texts at once", "n"
            )
        for _ in range(2):  # a version that is being replaced takes no more
            try:
                served = self._repository[body.model]
                if not served.batcher:
                    raise ApiError(
                        400, f"The model {body.model!r} ({served.task}) "
                        "continues no texts: POST "
                        f"/v1/models/{body.model}:predict", "model",
                    )  # fmt: skip
                self._make_texts(served)
                prompts = ()
                if body.echo or body.logprobs or self._is_long:
                    prompts = await run_in_threadpool(self._prepare, served)
                served.batcher.submit(self._texts)
            except KeyError:
                raise ApiError(
                    404, f"The model {body.model!r} does not exist", "model",
                    "model_not_found",
                ) from None  # fmt: skip
            except UserError as error:
                raise ApiError(400, f"prompt: {error}", "prompt") from None
            except batching.BusyError:
                raise ApiError(
                    429, "Too many texts are waiting: try again later"
                ) from None
            except batching.ClosedError:
                continue
            self._answer = completions.Answer(body, prompts)
            self._counts = {
                name: getattr(self._metrics, name).labels(served.name)
                for name in (
                    "prompt_tokens", "generated_tokens", "first_token",
                    "between_tokens",
                )
            }  # fmt: skip
            return
        raise ApiError(503, "The server is shutting down")

    @property
    def _is_long(self):
        """Whether the other texts of the model should not wait meanwhile."""
        return sum(map(len, self._body.prompts)) >= _LONG

    def _make_texts(self, served):
        deadline = self._began + self._config.request_seconds
        self._texts = [
            served.batcher.text(prompt, sampling, self._body.stops, deadline)
            for prompt in self._body.prompts
            for sampling in self._body.samplings()
        ]
        for index, text in enumerate(self._texts):
            text.listener, text.index, text.ranking = self, index, None

    def _prepare(self, served):
        """Looks at the prompts; what `completions.Answer` wants of each."""
        body, prompts = self._body, []
        served.batcher.tokenize(self._texts)
        if body.logprobs and self._num_prompt_tokens > rankings.MOST_READ:
            raise UserError(
                f"with logprobs from 1 on at most {rankings.MOST_READ} tokens"
            )
        for first in range(0, len(self._texts), body.n):
            texts = self._texts[first : first + body.n]
            prompt_ids = texts[0].prompt_ids
            ranking, likely = None, []
            if body.logprobs:
                ranking = rankings.Ranking(served.model, served.rank)
                likely = ranking.read(prompt_ids.tolist())
            for text in texts:
                text.ranking = copy.copy(ranking)
            scores = body.echo and body.logprobs is not None
            prompts.append(
                (*served.prompt(prompt_ids, scores), likely)
                if texts[0].num_prompt_tokens
                else ("", [], [], [])
            )
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
            async for pieces in self._pieces():
                yield b"".join(_event(answer.event([one])) for one in pieces)
        except ApiError as error:
            yield _event(error.body)
            return
        if body.stream_options.include_usage:
            yield _event(
                answer.event([], answer.usage(self._num_prompt_tokens))
            )
        yield b"data: [DONE]\n\n"

    async def whole(self, request) -> dict:
        """The answer in one; ends early where the client leaves.

        Raises:
            ApiError: a text failed, or nobody waits for it.
        """
        pieces = self._answer.echoes() if self._body.echo else []
        async with contextlib.aclosing(self._pieces()) as arriving:
            async for more in arriving:
                pieces += more
                if await request.is_disconnected():
                    raise ApiError(499, "The client left")
        return self._answer.whole(pieces, self._num_prompt_tokens)

    async def _pieces(self):
        """Yields lists of what `Answer.piece` makes, until all texts end."""
        unfinished, before = len(self._texts), None
        try:
            while unfinished:
                updates = [await self.queue.get()]
                while not self.queue.empty():
                    updates.append(self.queue.get_nowait())
                now = time.monotonic()
                if before is None:
                    self._counts["first_token"].observe(now - self._began)
                else:
                    self._counts["between_tokens"].observe(now - before)
                before, pieces = now, []
                for text, update in updates:
                    if update.finish_reason in _FAILURES:
                        raise ApiError(*_FAILURES[update.finish_reason])
                    likely = ()
                    if text.ranking:
                        likely = await run_in_threadpool(
                            text.ranking.read, update.token_ids
                        )
                    unfinished -= update.finish_reason is not None
                    self._counts["generated_tokens"].inc(len(update.tokens))
                    pieces.append(
                        self._answer.piece(
                            text.index, update.text, update.tokens,
                            update.log_probs, likely, update.finish_reason,
                        )
                    )  # fmt: skip
                yield pieces
        finally:
            self._counts["prompt_tokens"].inc(self._num_prompt_tokens)
            for text in self._texts:
                text.cancelled = True


def _event(value) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"
