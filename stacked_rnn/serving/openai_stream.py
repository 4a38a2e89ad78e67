"""Answering one completion request, from the scheduler to the wire."""

import asyncio
import contextlib
import copy
import itertools
import json
import time

from stacked_rnn.configs import UserError
from stacked_rnn.serving import (
    openai_completions,
    scheduler,
    tokenization,
    top_logprobs,
)
from stacked_rnn.serving.errors import TOO_LONG, ApiError, BusyError
from stacked_rnn.serving.repository import NotReadyError

_LONG = 5_000  # characters of all prompts
_MOST_ECHOED = 50_000  # tokens of prompts, counted for each of `n`
_MOST_UNREAD = 10_000  # updates that arrive while a slow client reads one part
_MOST_NAMED = 10  # models, where one that is asked for does not exist
_SILENCE = 15.0  # seconds without an update before a keep-alive comment is sent
_FAILURES = {  # by finish_reason
    "timeout": (503, TOO_LONG),
    "error": (500, "The model failed: the log of the server says how"),
    "unread": (503, "The answer was read too slowly"),
}


def deliver(updates) -> None:
    """Hands updates of sequences to the `Stream`s that they belong to.

    Runs in the thread of a scheduler, and calls each event loop once.

    Args:
        updates: list of (`Sequence`, `Update`). The attribute `stream` of each
            sequence is its `Stream`.
    """
    by_loop = {}
    for sequence, update in updates:
        by_loop.setdefault(sequence.stream.loop, []).append((sequence, update))
    for loop, own in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_dispatch, own)


def _dispatch(updates):
    for sequence, update in updates:
        sequence.stream.receive(sequence, update)


async def find(repository, name, deadline):
    """Looks a model up, and waits for one that is loaded on demand.

    Args:
        repository: a `Repository`.
        name: the name of the model.
        deadline: the `time.monotonic()` until which to wait.

    Returns:
        A `ServedModel`.

    Raises:
        KeyError: there is no such model.
        NotReadyError: it is not ready yet.
    """
    while True:
        try:
            return repository[name]
        except NotReadyError as error:
            if not error.is_on_demand or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def find_writer(repository, name, deadline):
    """Looks up a model that continues texts; see `find`.

    Raises:
        ApiError: there is no such model, or it is not ready.
    """
    try:
        served = await find(repository, name, deadline)
    except KeyError:
        raise no_model(name, repository) from None
    except NotReadyError as error:
        raise ApiError(503, str(error)) from None
    if not served.scheduler:
        raise ApiError(
            400, f"The model {name!r} ({served.task}) does not continue texts: "
            f"POST /v1/models/{name}:predict", "model",
        )  # fmt: skip
    return served


class Stream:
    """The sequences of one completion request, and the answer to it.

    Call `start`, then `events` or `whole`, and `leave` in any case.

    Args:
        model_name: the model that is asked for.
        completion: its `ServedModel` -> a `CompletionRequest`.
        deadline: the `time.monotonic()` at which the request is cut off.
        repository: a `Repository`.
        readers: a `pools.Pool` for reading long prompts.
        config: a `ServeConfig`.
        metrics: a `Metrics`.
        answer_class: `openai_completions.Answer` or a subclass.

    Attributes:
        loop: the event loop of the request.
    """

    def __init__(
        self, model_name, completion, deadline, repository, readers, config,
        metrics, answer_class,
    ):  # fmt: skip
        self._model_name, self._completion = model_name, completion
        self._deadline, self._repository = deadline, repository
        self._readers, self._config = readers, config
        self._metrics, self._answer_class = metrics, answer_class
        self._start_time = time.monotonic()
        self.loop = asyncio.get_running_loop()
        self._updates, self._has_news = [], asyncio.Event()
        self._news_time = self._beats = None  # see `_beat`
        self._sequences, self._unfinished = [], set()
        self._rankings = []  # a `TopLogprobs` per sequence, if `logprobs` > 0
        self._is_sending = self._has_left = False
        self._num_unread = 0  # updates since the last part was handed on

    def receive(self, sequence, update) -> None:
        """Queues an update for the client; call it in the event loop."""
        # Not those that came while the server itself was at work.
        self._num_unread += self._is_sending
        if self._num_unread <= _MOST_UNREAD:
            self._updates.append((sequence, update))
        else:  # `_pieces` raises an error then
            self._cancel()
        self._news_time = time.monotonic()
        self._has_news.set()

    def _beat(self):
        """Wakes `_pieces` after `_SILENCE`, with one timer for all updates."""
        silent = time.monotonic() - self._news_time
        if silent >= _SILENCE:
            self._has_news.set()
            self._news_time, silent = time.monotonic(), 0
        self._beats = self.loop.call_later(_SILENCE - silent, self._beat)

    async def start(self) -> None:
        """Checks the request and submits its sequences.

        Raises:
            ApiError: the request is refused.
        """
        served = None
        for _ in range(2):  # again if the version has just been replaced
            before = served
            served = await find_writer(
                self._repository, self._model_name, self._deadline
            )
            if served is before:
                raise ApiError(503, "The server is shutting down")
            self._served = served
            served.preparing.add(self)  # so that it is not unloaded meanwhile
            try:
                prompts = await self._submit()
            except UserError as error:
                raise ApiError(400, f"prompt: {error}", "prompt") from None
            except BusyError:
                raise ApiError(
                    429, "Too many sequences are waiting: try again later"
                ) from None
            except TimeoutError:
                raise ApiError(*_FAILURES["timeout"]) from None
            except scheduler.ClosedError:
                continue
            finally:
                served.preparing.discard(self)
            self._answer = self._answer_class(
                self._body, prompts, f"version-{served.version}"
            )
            self._counts = self._metrics.of(served.name)
            self._unfinished = {*self._sequences}
            self._news_time = time.monotonic()
            self._beat()
            return
        raise ApiError(
            503, "The model was replaced twice meanwhile: try again later"
        )

    async def _submit(self):
        """Makes the sequences and submits them.

        Returns:
            The argument `prompts` of `openai_completions.Answer`.
        """
        served, prompts, most = self._served, (), self._config.max_tokens
        body = self._completion(served)
        is_default = "max_tokens" not in body.model_fields_set
        if body.max_tokens < 0 or (is_default and body.max_tokens > most):
            body = body.model_copy(update={"max_tokens": most})
        self._body = body
        self._check_limits()
        self._check_token_ids(served.model)
        if self._reads_prompts:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                prompts = await self._readers.run(self._read, served)
        else:
            self._sequences = self._make(served, body.samplings())
        for index, sequence in enumerate(self._sequences):
            sequence.stream, sequence.index = self, index
        served.scheduler.submit(self._sequences)
        return prompts

    def _check_limits(self):
        body, config = self._body, self._config
        if body.max_tokens > config.max_tokens:
            raise ApiError(
                400, f"max_tokens: at most {config.max_tokens}", "max_tokens"
            )
        count = len(body.prompts) * body.n
        most = min(openai_completions.MAX_SEQUENCES, config.max_waiting)
        if count > most:
            raise ApiError(400, f"n: more than {most} sequences at once", "n")
        most = scheduler.NUM_SLOTS * config.max_tokens
        if count * body.max_tokens > most:
            raise ApiError(
                400, f"n: {count} sequences of {body.max_tokens} tokens: more "
                f"than {most:,} tokens at once", "n",
            )  # fmt: skip

    def _check_token_ids(self, model):
        for name in ("logit_bias", "stop_token_ids"):
            token_ids = [*map(int, getattr(self._body, name))]
            tokenization.check_token_ids(model, token_ids, name)

    @property
    def _reads_prompts(self):
        """Whether prompts are tokenized here, before they wait for a slot."""
        length = sum(map(len, self._body.prompts)) * self._body.n
        return self._body.echo or self._body.logprobs or length >= _LONG

    def _make(self, served, samplings):
        """Makes a sequence per prompt and sampling."""
        make, stops = served.scheduler.sequence, self._body.stops
        adjustment = self._body.adjustment()
        return [
            make(prompt, sampling, stops, self._deadline, adjustment)
            for prompt in self._body.prompts
            for sampling in samplings
        ]

    def _read(self, served):
        """Makes the sequences, and scores prompts if the request asks for it.

        Returns:
            The argument `prompts` of `openai_completions.Answer`.
        """
        body, prompts = self._body, []
        self._sequences, self._rankings = [], []
        first, *others = body.samplings()
        sequences = self._make(served, [first])
        served.scheduler.tokenize(sequences)
        num_tokens = sum(one.num_prompt_tokens for one in sequences)
        if body.logprobs and num_tokens > top_logprobs.MOST_READ:
            raise UserError(
                f"at most {top_logprobs.MOST_READ} tokens if logprobs is 1 or "
                "more"
            )
        if body.echo and num_tokens * body.n > _MOST_ECHOED:
            raise UserError(
                f"at most {_MOST_ECHOED} tokens, times n, if echo is true"
            )
        is_scored = body.echo and body.logprobs is not None
        for prompt, sequence in zip(body.prompts, sequences, strict=True):
            prompt_ids, likeliest = sequence.prompt_ids, []
            if body.logprobs:
                ranking = top_logprobs.TopLogprobs(
                    served.model, served.rank, served.token_names
                )
                likeliest = ranking.read(prompt_ids.tolist())
                self._rankings += [copy.copy(ranking) for _ in range(body.n)]
            # As it was sent: the tokens may lack what the model does not know.
            text = prompt
            if not isinstance(prompt, str):
                text = sequence.prompt.decode("utf-8", "replace")
            prompts.append(
                (text, *served.echo(prompt_ids, is_scored), likeliest)
                if sequence.num_prompt_tokens
                else (text, [], [], [])
            )
            self._sequences += [sequence, *map(sequence.fork, others)]
        return prompts

    @property
    def _prompt_tokens(self):
        """Tokens of the prompts so far: tokenized, and in the prefix cache."""
        firsts = self._sequences[:: self._body.n]
        return (
            sum(sequence.num_prompt_tokens for sequence in firsts),
            sum(sequence.num_cached for sequence in firsts),
        )

    async def events(self):
        """Yields the answer as server-sent events, bytes.

        After `_SILENCE` without an update it yields a comment, so that no proxy
        takes the connection for dead.
        """
        body, answer, last = self._body, self._answer, b""
        try:
            if body.echo:
                yield _event(answer.event(answer.echoes(), self._usage()))
            async with contextlib.aclosing(self._pieces()) as arriving:
                async for pieces in arriving:
                    usage = self._usage()
                    new = b"".join(
                        _event(answer.event([one], usage)) for one in pieces
                    )
                    if self._unfinished:
                        yield new or b": nothing new\n\n"
                    else:
                        last = new
        except ApiError as error:
            yield _event(error.body)
            return
        if body.stream_options.include_usage:
            last += _event(answer.event([], answer.usage(*self._prompt_tokens)))
        yield last + b"data: [DONE]\n\n"

    def _usage(self):
        """The usage so far, if each part of a stream is to have it."""
        if self._body.stream_options.continuous_usage_stats:
            return self._answer.usage(*self._prompt_tokens)
        return None

    async def whole(self) -> bytes:
        """Waits for the whole answer and returns its JSON.

        Raises:
            ApiError: a sequence failed.
        """
        pieces = self._answer.echoes() if self._body.echo else []
        async with contextlib.aclosing(self._pieces()) as arriving:
            async for more in arriving:
                pieces += more
        parts = []
        for part in self._answer.whole(pieces, *self._prompt_tokens):
            parts.append(part)
            await asyncio.sleep(0)  # lets other requests run
        return "".join(parts).encode()

    async def _pieces(self):
        """Yields lists of `Answer.piece`s until all sequences have ended.

        An empty list after `_SILENCE` without an update.
        """
        last = None
        while self._unfinished:
            await self._has_news.wait()
            self._has_news.clear()
            updates, self._updates = self._updates, []
            if not updates:
                yield []
                continue
            now = time.monotonic()
            if last is None:
                self._counts.first_token(now - self._start_time)
            else:
                self._counts.between(now - last)
            last, pieces = now, []
            for sequence, update in _merged(updates):
                if update.finish_reason:
                    self._unfinished.discard(sequence)
                    self._counts.finished(sequence, update.finish_reason)
                if update.finish_reason in _FAILURES:
                    raise ApiError(*_FAILURES[update.finish_reason])
                self._counts.generated(len(update.tokens))
                pieces.append(
                    self._answer.piece(
                        sequence.index, update.text, update.tokens,
                        update.log_probs,
                        await self._likeliest(sequence, update),
                        update.finish_reason,
                        self._stop_reason(sequence, update),
                        self._end_token(update),
                        update.end_log_prob,
                    )
                )  # fmt: skip
            self._is_sending = True
            yield pieces
            if self._num_unread > _MOST_UNREAD:
                raise ApiError(*_FAILURES["unread"])
            self._is_sending, self._num_unread = False, 0

    def _stop_reason(self, sequence, update):
        """The stop string or the id in `stop_token_ids` that ended it."""
        if update.end_id in self._body.stop_token_ids:
            return update.end_id
        return sequence.continuation.stop_string

    def _end_token(self, update):
        if update.end_id is None:
            return None
        return self._served.token_names[update.end_id]

    async def _likeliest(self, sequence, update):
        """The likeliest tokens at the position of each new one, if wanted."""
        if not self._rankings:
            return ()
        if time.monotonic() > self._deadline:
            raise ApiError(*_FAILURES["timeout"])
        try:
            token_ids = update.token_ids
            if update.end_log_prob is not None:
                # Any token: what is likely at its place does not depend on it.
                token_ids = [*token_ids, 0]
            return await self._readers.run(
                self._rankings[sequence.index].read, token_ids
            )
        except BusyError:
            raise ApiError(
                503, "Too many requests ask for logprobs: try again later"
            ) from None

    def leave(self) -> None:
        """Cancels unfinished sequences. It may be called more than once."""
        if not self._has_left:
            self._has_left = True
            self._beats.cancel()
            self._counts.prompt(*self._prompt_tokens)
        self._cancel()
        for sequence in self._unfinished:
            self._counts.finished(sequence, "cancelled")
        self._unfinished = set()

    def _cancel(self):
        for sequence in self._unfinished:
            sequence.is_cancelled = True


def no_model(name, repository) -> ApiError:
    """The error for a model that does not exist: it names some that do."""
    some = itertools.islice(repository.listed(), _MOST_NAMED)
    names = ", ".join(listed.name for listed in some)
    return ApiError(
        404,
        f"The model {name[:100]!r} does not exist"
        + (names and f": /v1/models has {names}"),
        "model",
        "model_not_found",
    )


def _merged(updates):
    """Joins the updates of each sequence to one.

    Args:
        updates: list of (`Sequence`, `Update`).

    Yields:
        The same, each sequence once.
    """
    by_sequence = {}
    for sequence, update in updates:
        by_sequence.setdefault(sequence, []).append(update)
    for sequence, own in by_sequence.items():
        if len(own) == 1:
            yield sequence, own[0]
            continue
        lists = [
            [*itertools.chain.from_iterable(parts)]
            for parts in zip(
                *((one.tokens, one.token_ids, one.log_probs) for one in own)
            )
        ]
        text, last = "".join(one.text for one in own), own[-1]
        yield (
            sequence,
            scheduler.Update(
                text, *lists, last.finish_reason, last.end_id, last.end_log_prob
            ),
        )


def _event(value) -> bytes:
    """Formats a server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"
