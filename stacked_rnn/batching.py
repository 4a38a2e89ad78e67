"""Continuous batching: texts join and leave a batch between any two calls.

No sockets, no HTTP. A recurrent state has one size whatever was read, so a text
is a row of a batch for as long as it grows, and nothing else of it is kept:

    waiting ---> reading ---> growing ---> done
             (a window of     (a chunk of
              the prompt       tokens
              a call)          a call)

One thread does all calls, and shares them out: a long prompt is read window by
window while the others grow.
"""

import collections
import dataclasses
import functools
import logging
import threading
import time

import numpy as np
import tensorflow as tf

from stacked_rnn import generation, samplers
from stacked_rnn.configs import SamplingConfig, UserError
from stacked_rnn.continuations import Continuation

SIZES = (1, 8, 64)  # of batches; the last is how many places there are
CHUNK = 32  # most tokens of a call
_WINDOW = 128  # tokens of a prompt that are read in a call
# Seconds that a call should take: with few texts somebody waits for each one,
# with many what counts is that all get on.
_FEW, _FEW_SECONDS, _MANY_SECONDS = 8, 0.005, 0.02


class BusyError(Exception):
    """As many texts wait as may."""


class ClosedError(Exception):
    """No more texts are taken."""


@dataclasses.dataclass(frozen=True)
class Update:
    """What is new of a text.

    Attributes:
        text: characters that can be shown.
        tokens, log_probs: the bytes of the tokens in it, and log p of each.
        finish_reason: "stop" or "length" (see `Continuation`), "cancelled",
            "timeout" or "error"; None: there will be more.
    """

    text: str = ""
    tokens: tuple[bytes, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish_reason: str | None = None


class Text:
    """A text to be continued.

    Args:
        prompt_ids: int32 [tokens], not empty.
        seed: of its random numbers, the prompt's hash mixed in.
        sampling: a `SamplingConfig`.
        stop: strings that end it, themselves left out.
        deadline: `time.monotonic()` at which it ends wherever it is.

    Attributes:
        cancelled: set it, and the text ends after the current call.
    """

    def __init__(self, prompt_ids, seed, sampling, stop=(), deadline=np.inf):
        self.prompt_ids, self.seed = prompt_ids, seed
        self.sampling, self.deadline = sampling, deadline
        self.cancelled = False
        self.num_read = 0
        self.continuation = Continuation("", seed, stop)


class Batcher:
    """Grows texts, many at a time, in a thread of its own.

    Args:
        model: an `inference.SavedModel`.
        deliver: called from that thread, after each call, with a list of
            (Text, Update): all that is new.
        max_waiting: most texts that wait for a place.
        jit_compile: whether XLA compiles: it takes some ten seconds for each
            of `SIZES`, while the first texts grow already, and makes all of
            them faster.

    Attributes:
        is_compiled: an event, when that is done.
    """

    def __init__(self, model, deliver, max_waiting=1024, jit_compile=True):
        self._model, self._deliver = model, deliver
        self._max_waiting = max_waiting
        self._waiting = collections.deque()  # of deques, one for each request
        self._changed = threading.Condition()
        self._is_closing = self._is_over = False
        self._nothing = Text([model.tokenizer.start_id], 0, SamplingConfig())
        self._nobody = _Rows([], self._fresh([self._nothing]))
        self._gather = _gather_function(self._nobody.carry)
        self._admitted = []
        self._reading = self._growing = self._nobody
        self._decode_chunk = dict.fromkeys(SIZES, model.functions.decode_chunk)
        self._seconds_a_step = dict.fromkeys(SIZES, 0.001)
        self._warm_up()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.is_compiled = threading.Event()
        if jit_compile:
            threading.Thread(target=self._compile, daemon=True).start()

    def text(self, prompt, sampling, stop=(), deadline=np.inf) -> Text:
        """A `Text` of a prompt: a string, or a sequence of token ids."""
        model = self._model
        if isinstance(prompt, str):
            prompt = prompt.encode("utf-8", "replace")
            prompt_ids = model.functions.tokenize(tf.constant([prompt]))
            prompt_ids = prompt_ids.flat_values.numpy()
        else:
            if max(prompt) >= model.tokenizer.vocabulary_size():
                raise UserError(f"there is no token id {max(prompt)}")
            prompt_ids = np.array(prompt, np.int32)
            prompt = b"".join(model.token_bytes[prompt_ids].tolist())
        if not len(prompt_ids):
            prompt_ids = np.array([model.tokenizer.start_id], np.int32)
        # As `TextGenerator.begin` does it: the same seed gives the same text.
        hashed = int(tf.strings.to_hash_bucket_fast(prompt, 2**63 - 1))
        return Text(
            prompt_ids, sampling.seed ^ hashed, sampling, stop, deadline
        )

    @property
    def num_waiting(self) -> int:
        """Texts that have no place yet."""
        with self._changed:
            return sum(map(len, self._waiting))

    @property
    def num_active(self) -> int:
        """Texts that have one."""
        return len(self._reading.texts) + len(self._growing.texts)

    def submit(self, texts) -> None:
        """Lets texts grow. Those of different calls take turns for places.

        Raises:
            BusyError: too many wait already.
            ClosedError: `close` was called.
        """
        with self._changed:
            if self._is_closing:
                raise ClosedError
            if self.num_waiting + len(texts) > self._max_waiting:
                raise BusyError
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
        self._thread.join(seconds)
        self._is_over = True
        self._thread.join()

    # In the thread ------------------------------------------------------------

    def _run(self):
        while self._wait():
            try:
                self._admit()
                if self._reading.texts:
                    self._read()
                if self._growing.texts:
                    self._grow()
            except Exception:
                # Whatever it is, those who wait for later texts get them.
                logging.exception("a batch of texts is lost")
                lost = {
                    *self._admitted, *self._reading.texts, *self._growing.texts
                }  # fmt: skip
                self._reading = self._growing = self._nobody
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
        admitted, ended = [], []
        self._admitted = admitted
        with self._changed:
            while self._waiting and self.num_active + len(admitted) < SIZES[-1]:
                group = self._waiting.popleft()
                text = group.popleft()
                if reason := self._early_end(text):
                    ended.append((text, Update(finish_reason=reason)))
                else:
                    admitted.append(text)
                if group:
                    self._waiting.append(group)
        if ended:
            self._deliver(ended)
        if admitted:
            new = _Rows(admitted, self._fresh(admitted))
            self._reading = self._join(self._reading, new)
            self._admitted = []

    def _early_end(self, text) -> str | None:
        """Why a text ends though it might go on; None where it does."""
        if text.cancelled:
            return "cancelled"
        is_late = self._is_over or time.monotonic() >= text.deadline
        return "timeout" if is_late else None

    def _read(self):
        """A window of each prompt that is read."""
        rows = self._reading
        token_ids = np.zeros((rows.size, _WINDOW), np.int32)
        lengths = np.zeros(rows.size, np.int32)
        for row, text in enumerate(rows.texts):
            window = text.prompt_ids[text.num_read :][:_WINDOW]
            window = window[: len(text.prompt_ids) - 1 - text.num_read]
            token_ids[row, : len(window)] = window
            lengths[row] = len(window)
            text.num_read += len(window)
        longest = lengths.max()
        if longest:
            rows.carry["states"] = self._model.functions.read_window(
                tf.constant(token_ids[:, :longest]),
                tf.constant(np.arange(longest) < lengths[:, None]),
                rows.carry["states"],
            )
        read = [
            text.num_read == len(text.prompt_ids) - 1 for text in rows.texts
        ]
        ready = self._join(rows, self._nobody, read)
        self._growing = self._join(self._growing, ready)
        self._reading = self._join(rows, self._nobody, np.logical_not(read))

    def _grow(self):
        """A chunk of tokens of each text."""
        rows = self._growing
        start = time.perf_counter()
        is_few = len(rows.texts) <= _FEW
        budget = _FEW_SECONDS if is_few else _MANY_SECONDS
        count = int(budget / self._seconds_a_step[rows.size])
        drawn = self._decode_chunk[rows.size](
            rows.carry, rows.options, tf.constant(min(max(count, 1), CHUNK))
        )
        token_ids, log_probs = (
            drawn["token_ids"].numpy(),
            drawn["log_probs"].numpy(),
        )
        lengths = drawn["lengths"].numpy()
        finished = drawn["carry"]["finished"].numpy()
        positions = drawn["carry"]["positions"].numpy()
        steps = max(1, lengths.max())
        self._seconds_a_step[rows.size] = (
            0.9 * self._seconds_a_step[rows.size]
            + 0.1 * (time.perf_counter() - start) / steps
        )
        rows.carry = drawn["carry"]
        updates, goes_on = [], []
        for row, text in enumerate(rows.texts):
            length = lengths[row]
            text.continuation.add(
                self._model.token_bytes[token_ids[row, :length]].tolist(),
                log_probs[row, :length].tolist(),
                bool(
                    finished[row]
                    and positions[row] < text.sampling.max_new_tokens
                ),
            )
            reason = self._early_end(text)
            if text.continuation.stopped:
                reason = "stop"
            elif finished[row]:
                reason = "length"
            shown = text.continuation.show(last=reason is not None)
            tokens = text.continuation.show_tokens()
            updates.append((text, Update(shown, *tokens, reason)))
            goes_on.append(reason is None)
        self._deliver(updates)
        if not all(goes_on):
            self._growing = self._join(rows, self._nobody, goes_on)

    # Rows ---------------------------------------------------------------------

    def _fresh(self, texts):
        """The carry (see `generation`) of texts of which nothing was read."""
        seen = np.zeros(
            (len(texts), self._model.tokenizer.vocabulary_size()), bool
        )
        for row, text in enumerate(texts):
            seen[row, text.prompt_ids] = True
        return generation.start(
            tf.constant([text.prompt_ids[-1] for text in texts], tf.int32),
            self._model.functions.initial_states(tf.constant(len(texts))),
            tf.constant(seen),
            tf.constant([text.seed for text in texts], tf.int64),
        )

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
        carry = self._gather(first.carry, second.carry, tf.constant(places))
        return _Rows(texts, carry)

    def _warm_up(self):
        """Calls once what TensorFlow makes ready at the first call."""
        rows = _Rows([self._nothing], self._fresh([self._nothing]))
        rows = self._join(self._nobody, rows)
        self._model.functions.read_window(
            tf.zeros([1, 1], tf.int32), tf.ones([1, 1], tf.bool),
            rows.carry["states"],
        )  # fmt: skip
        self._decode_chunk[1](rows.carry, rows.options, tf.constant(1))

    def _compile(self):
        """Compiles for each size of batch, and measures it."""
        try:
            for size in reversed(SIZES):
                decode_chunk = _compiled_chunk(self._model)
                texts = [self._nothing] * size
                rows = _Rows(texts, self._fresh(texts))
                for _ in range(2):
                    start = time.perf_counter()
                    decode_chunk(rows.carry, rows.options, tf.constant(CHUNK))
                    seconds = time.perf_counter() - start
                self._seconds_a_step[size] = seconds / CHUNK
                self._decode_chunk[size] = decode_chunk
        except tf.errors.OpError:
            logging.exception("XLA cannot compile: it goes on without")
        finally:
            self.is_compiled.set()


class _Rows:
    """Texts and the batch that they are the first rows of."""

    def __init__(self, texts, carry):
        self.texts, self.size = texts, carry["token_ids"].shape[0]
        padding = [SamplingConfig(max_new_tokens=0)] * (self.size - len(texts))
        settings = [text.sampling for text in texts] + padding
        self.options = {
            name: tf.constant([getattr(one, name) for one in settings], dtype)
            for name, dtype in _OPTIONS.items()
        }
        finished = tf.constant([False] * len(texts) + [True] * len(padding))
        self.carry = carry | {"finished": finished}


_OPTIONS = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_k": tf.int32,
    "top_p": tf.float32,
    "repetition_penalty": tf.float32,
}


def _compiled_chunk(model):
    """`decode_chunk` of a SavedModel, compiled by XLA for `CHUNK` tokens."""
    decode_step = model.functions.signatures["decode_step"]

    def step(token_ids, states):
        names = ("h", "c")
        named = {
            f"state_{layer}_{part}": state
            for layer, parts in enumerate(states)
            for part, state in zip(names, parts)
        }
        new = decode_step(token_ids=token_ids, **named)
        return new["logits"], tuple(
            tuple(new[f"state_{layer}_{part}"] for part, _ in zip(names, parts))
            for layer, parts in enumerate(states)
        )

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def decode_chunk(carry, options, count):
        options = dict(options)
        return generation.generate(
            step,
            carry,
            max_new_tokens=options.pop("max_new_tokens"),
            options=samplers.SamplingOptions(**options),
            count=count,
            size=CHUNK,
            never=model.tokenizer.unknown_id,
            end_id=model.tokenizer.end_id,
        )

    return decode_chunk


def _gather_function(carry):
    """(carry, carry, places) -> the rows at some places of both together."""
    specs = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype),
        carry,
    )

    @functools.partial(
        tf.function,
        input_signature=[specs, specs, tf.TensorSpec([None], tf.int32)],
        autograph=False,
    )
    def gather(first, second, places):
        return tf.nest.map_structure(
            lambda *both: tf.gather(tf.concat(both, axis=0), places),
            first,
            second,
        )

    return gather
