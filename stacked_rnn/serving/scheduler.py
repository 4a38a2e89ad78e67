"""Continuous batching: texts join and leave a batch between any two calls.

No sockets, no HTTP. A recurrent state has one size whatever was read, so a text
is a row of a batch from the first token of its prompt to its last, and nothing
else of it is kept. A call takes all rows some tokens on: what is left of a
prompt is read through the same steps in which the other rows draw.

    waiting ---> a row of the batch ---> done

One thread does all calls.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import SamplingConfig, UserError
from stacked_rnn.decoding import generation
from stacked_rnn.decoding.incremental_text import Continuation
from stacked_rnn.serving import decode_functions

SIZES = (1, 4, 8, 16, 64)  # of batches; the last is how many places there are
CHUNK = 64  # most tokens of a call
# Seconds that a call should take: with few texts somebody waits for each one,
# with many what counts is that all get on.
_FEW, _FEW_SECONDS, _MANY_SECONDS = 8, 0.01, 0.03


class BusyError(Exception):
    """As many texts wait as may."""


class ClosedError(Exception):
    """No more texts are taken."""


@dataclasses.dataclass(frozen=True)
class Update:
    """What is new of a text.

    Attributes:
        text: characters that can be shown.
        tokens, token_ids, log_probs: the bytes of the tokens in it, their ids,
            and log p of each.
        finish_reason: "stop" or "length" (see `Continuation`), "cancelled",
            "timeout" or "error"; None: there will be more.
    """

    text: str = ""
    tokens: Sequence[bytes] = ()
    token_ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    finish_reason: str | None = None


class Text:
    """A text to be continued.

    Args:
        prompt: its bytes.
        prompt_ids: its token ids; None: `Batcher.tokenize` finds them.
        sampling: a `SamplingConfig`.
        stop: strings that end it, themselves left out.
        deadline: `time.monotonic()` at which it ends wherever it is.

    Attributes:
        prompt_ids: int32 [tokens]; once it grows, not empty.
        num_prompt_tokens: how many tokens the prompt has, 0 if it is empty.
        cancelled: set it, and the text ends after the current call.
        submitted, placed, first_drawn: `time.monotonic()` at which it was
            submitted, had a place, and had its first token; None until then.
    """

    def __init__(self, prompt, prompt_ids, sampling, stop=(), deadline=np.inf):
        self.prompt, self.prompt_ids = prompt, prompt_ids
        self.num_prompt_tokens = 0
        self.sampling, self.stop, self.deadline = sampling, stop, deadline
        self.cancelled = False
        self.submitted = self.placed = self.first_drawn = None
        self.num_read = 1  # the first is in the carry, see `generation`
        self.token_ids = []  # drawn
        self.continuation = None  # until it is tokenized

    def again(self, sampling) -> "Text":
        """This text, which is tokenized, with another `SamplingConfig`."""
        text = Text(
            self.prompt, self.prompt_ids, sampling, self.stop, self.deadline
        )
        text.num_prompt_tokens = self.num_prompt_tokens
        # What is left of the seed is that of the prompt.
        seed = self.continuation.seed ^ self.sampling.seed ^ sampling.seed
        text.continuation = Continuation("", seed, self.stop)
        return text


class Batcher:
    """Grows texts, many at a time, in a thread of its own.

    Args:
        model: an `inference.SavedLanguageModel`.
        deliver: called from that thread, after each call, with a list of
            (Text, Update): all that is new.
        max_waiting: most texts that wait for a place.
        jit_compile: whether XLA compiles: it takes some twenty seconds, while
            the first texts grow already, and makes all that follow faster.

    Attributes:
        is_compiled: an event, when that is done.
        max_waiting: as given.
    """

    def __init__(self, model, deliver, max_waiting=1024, jit_compile=True):
        self._model, self._deliver = model, deliver
        self.max_waiting = max_waiting
        self._waiting = collections.deque()  # of deques, one for each request
        self._changed = threading.Condition()
        self._is_closing = self._is_over = False
        self._look_at = _prompt_function(model)
        self._nothing = self.text([model.tokenizer.start_id], SamplingConfig())
        self.tokenize([self._nothing])
        self._nobody = _Rows([], self._fresh([self._nothing]))
        self._rows, self._admitted = self._nobody, []
        decode_chunk = _chunk_function(model, self._nobody, jit_compile=False)
        self._chunks = {
            size: self._fastest([decode_chunk], size) for size in SIZES
        }
        self.is_compiled = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        if jit_compile:
            self._threads.append(
                threading.Thread(target=self.compile, daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def text(self, prompt, sampling, stop=(), deadline=np.inf) -> Text:
        """A `Text` of a prompt: a string, or a sequence of token ids."""
        if isinstance(prompt, str):
            prompt, prompt_ids = prompt.encode("utf-8", "replace"), None
        else:
            if max(prompt) >= self._model.tokenizer.vocabulary_size():
                raise UserError(f"there is no token id {max(prompt)}")
            prompt_ids = np.array(prompt, np.int32)
            prompt = b"".join(self._model.token_bytes[prompt_ids].tolist())
        return Text(prompt, prompt_ids, sampling, stop, deadline)

    def tokenize(self, texts) -> None:
        """Tokenizes the prompts of texts, in the caller's thread.

        Where nobody has done it before, those that get a place are tokenized
        together.
        """
        texts = [text for text in texts if text.continuation is None]
        if not texts:
            return
        token_ids, lengths, hashes = (
            tensor.numpy()
            for tensor in self._look_at(
                tf.constant([text.prompt for text in texts])
            )
        )
        tokenized = np.split(token_ids, np.cumsum(lengths)[:-1])
        for text, prompt_ids, prompt_hash in zip(texts, tokenized, hashes):
            if text.prompt_ids is None:
                text.prompt_ids = prompt_ids
            text.num_prompt_tokens = len(text.prompt_ids)
            if not text.num_prompt_tokens:
                text.prompt_ids = self._nothing.prompt_ids
            seed = text.sampling.seed ^ int(prompt_hash)
            text.continuation = Continuation("", seed, text.stop)

    @property
    def num_waiting(self) -> int:
        """Texts that have no place yet, and that somebody waits for."""
        with self._changed:
            return sum(
                not text.cancelled
                for text in itertools.chain.from_iterable(self._waiting)
            )

    @property
    def num_active(self) -> int:
        """Texts that have one."""
        return len(self._rows.texts)

    def submit(self, texts) -> None:
        """Lets texts grow. Those of different calls take turns for places.

        Raises:
            BusyError: too many wait already; more than `max_waiting` texts
                at once always are.
            ClosedError: `close` was called.
        """
        with self._changed:
            if self._is_closing:
                raise ClosedError
            if self.num_waiting + len(texts) > self.max_waiting:
                raise BusyError
            now = time.monotonic()
            for text in texts:
                text.submitted = now
            self._waiting.append(collections.deque(texts))
            self._changed.notify()

    def close(self, seconds=None) -> None:
        """Takes no more texts, and ends those that are here, in time or then.

        Args:
            seconds: that they may go on; None: to their ends.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._threads[0].join(seconds)
        self._is_over = True
        for thread in self._threads:
            thread.join()

    # In the thread ------------------------------------------------------------

    def _run(self):
        while self._wait():
            try:
                self._drop()
                self._admit()
                if self._rows.texts:
                    self._grow()
            except Exception:
                # Whatever it is, those who wait for later texts get them.
                logging.exception("a batch of texts is lost")
                lost = {*self._admitted, *self._rows.texts}
                self._rows = self._nobody
                self._deliver(
                    [(text, Update(finish_reason="error")) for text in lost]
                )

    def _wait(self) -> bool:
        """Until there is work, or never will be: whether there is."""
        with self._changed:
            while not (self._waiting or self.num_active or self._is_closing):
                self._changed.wait()
            return bool(self._waiting or self.num_active)

    def _admit(self):
        """Gives free places to texts that wait, to each request in turn."""
        admitted = self._admitted = []
        with self._changed:
            free = SIZES[-1] - self.num_active
            while self._waiting and len(admitted) < free:
                group = self._waiting.popleft()
                admitted.append(group.popleft())
                if group:
                    self._waiting.append(group)
        if admitted:
            now = time.monotonic()
            for text in admitted:
                text.placed = now
            self.tokenize(admitted)
            new = _Rows(admitted, self._fresh(admitted))
            self._rows = self._join(self._rows, new)
            self._admitted = []

    def _drop(self):
        """Ends those that wait for a place, and that nobody waits for."""
        ended = []

        def goes_on(text):
            reason = self._early_end(text)
            if reason:
                ended.append((text, Update(finish_reason=reason)))
            return not reason

        with self._changed:
            groups = [
                collections.deque(filter(goes_on, group))
                for group in self._waiting
            ]
            self._waiting = collections.deque(filter(None, groups))
        if ended:
            self._deliver(ended)

    def _early_end(self, text) -> str | None:
        """Why a text ends though it might go on; None where it does."""
        if text.cancelled:
            return "cancelled"
        is_late = self._is_over or time.monotonic() >= text.deadline
        return "timeout" if is_late else None

    def _grow(self):
        """Some tokens more of each text."""
        rows = self._rows
        chunk = self._chunks[rows.size]
        is_few = len(rows.texts) <= _FEW
        budget = _FEW_SECONDS if is_few else _MANY_SECONDS
        count = max(
            int(budget / chunk.seconds_a_step),
            # Before that there is nothing to show to anybody.
            min(len(text.prompt_ids) - text.num_read for text in rows.texts)
            + 1,
        )
        count = min(count, CHUNK)
        given = np.full((rows.size, CHUNK), -1, np.int32)
        starts = []
        for row, text in enumerate(rows.texts):
            part = text.prompt_ids[text.num_read :][:count]
            given[row, : len(part)] = part
            text.num_read += len(part)
            starts.append(len(part))
        began = time.monotonic()
        drawn = chunk.function(
            tf.nest.map_structure(tf.constant, rows.carry),
            rows.options,
            tf.constant(given),
            tf.constant(count),
        )
        rows.carry = drawn.pop("carry")
        drawn = tf.nest.map_structure(np.asarray, drawn)
        is_finished, positions = (
            rows.carry[name].numpy() for name in ("finished", "positions")
        )
        seconds = time.monotonic() - began
        num_steps = max(starts + drawn["lengths"][: len(starts)])
        updates, goes_on = [], []
        for row, (text, start) in enumerate(zip(rows.texts, starts)):
            own = row, slice(start, start + drawn["lengths"][row])
            finished, position = bool(is_finished[row]), positions[row]
            token_ids = drawn["token_ids"][own]
            if text.first_drawn is None and len(token_ids):
                # The steps of a call take the same time each.
                text.first_drawn = began + seconds * (start + 1) / num_steps
            text.token_ids += token_ids.tolist()
            text.continuation.add(
                self._model.token_bytes[token_ids].tolist(),
                drawn["log_probs"][own],
                finished and position < text.sampling.max_new_tokens,
            )
            reason = self._early_end(text)
            if text.continuation.stopped:
                reason = "stop"
            elif finished:
                reason = "length"
            shown = text.continuation.show(last=reason is not None)
            new = text.continuation.show_tokens()
            update = Update(
                shown,
                text.continuation.tokens[new],
                text.token_ids[new],
                text.continuation.log_probs[new].tolist(),
                reason,
            )
            if shown or update.tokens or reason:
                updates.append((text, update))
            goes_on.append(reason is None)
        self._deliver(updates)
        if not all(goes_on):
            self._rows = self._join(rows, self._nobody, goes_on)

    # Rows ---------------------------------------------------------------------

    def _fresh(self, texts):
        """The carry (see `generation`) of texts of which nothing was read."""
        seen = np.zeros(
            (len(texts), self._model.tokenizer.vocabulary_size()), bool
        )
        for row, text in enumerate(texts):
            seen[row, text.prompt_ids] = True
        carry = generation.start(
            np.array([text.prompt_ids[0] for text in texts], np.int32),
            self._model.initial_states(len(texts)),
            seen,
            np.array([text.continuation.seed for text in texts], np.int64),
        )
        return tf.nest.map_structure(np.asarray, carry)

    def _join(self, first, second, stays=None):
        """The texts of both, without those of the first that do not stay."""
        stays = [True] * len(first.texts) if stays is None else stays
        texts = [text for text, one in zip(first.texts, stays) if one]
        places = np.flatnonzero(stays).tolist()
        texts += second.texts
        places += range(first.size, first.size + len(second.texts))
        if not texts:
            return self._nobody
        size = min(size for size in SIZES if size >= len(texts))
        places += [places[0]] * (size - len(places))
        carry = tf.nest.map_structure(
            lambda *both: np.concatenate(both)[places],
            first.carry,
            second.carry,
        )
        return _Rows(texts, carry)

    def compile(self) -> None:
        """Has XLA compile, and takes what it makes where that is the faster.

        `close` ends it after the size of batch that it is at.
        """
        try:
            compiled = _chunk_function(self._model, self._nobody, True)
            for size in SIZES:
                if self._is_closing:
                    return
                self._chunks[size] = self._fastest(
                    [self._chunks[size].function, compiled], size
                )
        except tf.errors.OpError:
            logging.exception("XLA cannot compile: it goes on without")
        finally:
            self.is_compiled.set()

    def _fastest(self, functions, size):
        """The `_Chunk` of the fastest function, all of them ready for a size.

        Each is measured in turn, and its best counts: others are at work too.
        """
        texts = [self._nothing] * size
        rows = _Rows(texts, self._fresh(texts))
        given = np.full([size, CHUNK], -1, np.int32)
        best = collections.defaultdict(lambda: np.inf)
        few, many = 1, 17
        for _, function, count in itertools.product(
            range(4), functions, (few, many)
        ):
            arguments = tf.nest.map_structure(
                tf.constant, (rows.carry, rows.options, given, count)
            )
            start = time.perf_counter()
            function(*arguments)
            seconds = time.perf_counter() - start
            best[function, count] = min(best[function, count], seconds)
        chunks = []
        for function in functions:
            seconds = best[function, many] - best[function, few]
            chunks.append(_Chunk(function, max(seconds / (many - few), 1e-6)))
        return min(chunks, key=lambda chunk: chunk.seconds_a_step)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """What takes the rows of a size of batch some tokens on."""

    function: Callable
    seconds_a_step: float


class _Rows:
    """Texts and the batch that they are the first rows of.

    What joins it is NumPy's: that is the faster one at taking rows out and
    putting them together. What a call gives goes into the next as it is.
    """

    def __init__(self, texts, carry):
        self.texts, self.size = texts, len(carry["token_ids"])
        padding = [SamplingConfig(max_new_tokens=0)] * (self.size - len(texts))
        settings = [text.sampling for text in texts] + padding
        self.options = {
            name: tf.constant([getattr(one, name) for one in settings], dtype)
            for name, dtype in _OPTIONS.items()
        }
        self.carry = carry | {"finished": np.arange(self.size) >= len(texts)}


_OPTIONS = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_k": tf.int32,
    "top_p": tf.float32,
    "repetition_penalty": tf.float32,
}


# Concrete functions: a call of another costs half a millisecond more.


def _prompt_function(model):
    """Prompts, string [batch] -> token ids of all, how many of each, hashes."""

    @functools.partial(
        tf.function,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    def look_at(prompts):
        # As `TextGenerator.begin` has it: the same seed gives the same text.
        hashes = tf.strings.to_hash_bucket_fast(prompts, 2**63 - 1)
        token_ids = model.functions.tokenize(prompts)
        return token_ids.flat_values, token_ids.row_lengths(), hashes

    return look_at.get_concrete_function()


def _chunk_function(model, rows, jit_compile):
    """(carry, options, given, count) -> what `generation.generate` gives.

    The signature `decode_step` is all that it needs of the model.
    """
    return decode_functions.decode_loop(
        model.functions.signatures["decode_step"],
        model.functions.weights,
        (rows.carry, rows.options, np.zeros([1, CHUNK], np.int32)),
        size=CHUNK,
        jit_compile=jit_compile,
        never=model.tokenizer.unknown_id,
        end_id=model.tokenizer.end_id,
    )
