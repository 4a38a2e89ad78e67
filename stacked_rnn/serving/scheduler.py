"""Continuous batching: sequences join and leave a batch between any two calls.

A sequence is one prompt and one continuation of it; a request over HTTP has one
per prompt and per `n`. The state of a recurrent model has the same size however
long the prompt is, so a sequence takes one row of the batch, its slot, from the
first token of its prompt to its last token, and needs no cache beside it.

    waiting ---> in a slot: the prompt is read, then tokens are drawn ---> done

A call of the decode function takes every row a few steps further: some rows
read prompts while others draw. There is a batch per core, each with a thread
that makes its calls: XLA gains little from a second core for one batch of a
narrow model, and while one thread turns tokens into text, the others decode.
This module knows neither sockets nor HTTP.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import threading
import time
from collections import abc

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import SamplingConfig, UserError
from stacked_rnn.decoding import generation, options
from stacked_rnn.decoding.incremental_text import Continuation
from stacked_rnn.serving import adjustments, decode_functions, prefix_cache
from stacked_rnn.serving.errors import BusyError
from stacked_rnn.utils import devices

BATCH_SIZES = (1, 4, 8, 16, 64)
NUM_SLOTS = BATCH_SIZES[-1]  # most slots of all batches together
_MOST_LANES = 4  # batches
_SHARED = 8  # as few sequences that wait together share a lane
CHUNK = 128  # most steps per call
_LEAST_KEPT = 32  # tokens: the states after a shorter beginning are not kept
_KEPT_EVERY = 128  # tokens of a long prompt
# Most steps of a call, and the seconds that it should take. Short calls show
# new tokens sooner; long ones, for more than _FEW sequences, give more tokens
# per second.
_FEW = 8
_FOR_FEW, _FOR_MANY = (64, 0.01), (CHUNK, 0.03)


class ClosedError(Exception):
    """The scheduler accepts no more sequences."""


@dataclasses.dataclass(frozen=True)
class Update:
    """The part of a sequence that is new since its last update.

    Attributes:
        text: characters that are safe to display.
        tokens, token_ids, log_probs: the tokens of that text: their bytes,
            their ids, and log p of each, in nats.
        finish_reason: "stop" or "length" (see `Continuation`), "cancelled",
            "timeout" or "error"; None while the sequence continues.
        end_id, end_log_prob: the id of the token that ended the sequence, and
            its log p, in nats; None if none did.
    """

    text: str = ""
    tokens: abc.Sequence[bytes] = ()
    token_ids: abc.Sequence[int] = ()
    log_probs: abc.Sequence[float] = ()
    finish_reason: str | None = None
    end_id: int | None = None
    end_log_prob: float | None = None


class Sequence:
    """A prompt and its continuation.

    Args:
        prompt: the text of the prompt, bytes.
        prompt_ids: the token ids of the prompt; None until
            `Scheduler.tokenize` sets them.
        sampling: a `SamplingConfig`.
        stop: strings that end the sequence, themselves left out.
        deadline: the `time.monotonic()` at which the sequence is cut off.
        adjustment: an `Adjustment`.

    Attributes:
        prompt_ids: int32 [tokens]; the start token where the prompt is empty.
        num_prompt_tokens: length of the prompt; 0 if it is empty.
        num_cached: how many of `prompt_ids` were not read, because the states
            after them were known.
        kept: the longest `Beginning` whose states are in the cache.
        num_read: how many of `prompt_ids` were read or are in the carry (see
            `generation`), those not read included.
        token_ids: list of the ids drawn.
        continuation: a `Continuation`; None until the prompt is tokenized.
        is_cancelled: set it to end the sequence after the current call.
        arrival_time, slot_time, first_token_time: the `time.monotonic()` at
            which it was submitted, was given a slot, and drew its first token;
            None before.
    """

    def __init__(
        self,
        prompt,
        prompt_ids,
        sampling,
        stop=(),
        deadline=np.inf,
        adjustment=adjustments.NONE,
    ):
        self.prompt, self.prompt_ids = prompt, prompt_ids
        self.num_prompt_tokens, self.adjustment = 0, adjustment
        self.sampling, self.stop, self.deadline = sampling, stop, deadline
        self.is_cancelled = False
        self.arrival_time = self.slot_time = self.first_token_time = None
        self.num_cached, self.num_read = 0, 1
        self.kept = prefix_cache.Beginning()
        self.token_ids = []
        self.continuation = None

    def fork(self, sampling) -> "Sequence":
        """Copies this sequence, tokenized, with another `SamplingConfig`."""
        fork = Sequence(
            self.prompt,
            self.prompt_ids,
            sampling,
            self.stop,
            self.deadline,
            self.adjustment,
        )
        fork.num_prompt_tokens = self.num_prompt_tokens
        # Xor takes the old seed out: the hash of the prompt remains.
        seed = self.continuation.seed ^ self.sampling.seed ^ sampling.seed
        fork.continuation = Continuation("", seed, self.stop)
        return fork


class Scheduler:
    """Continues sequences, many at a time, in threads of its own.

    Args:
        model: an `inference.SavedLanguageModel`.
        deliver: called from these threads after each call of the model, with a
            list of (`Sequence`, `Update`).
        max_waiting: most sequences that may wait for a slot.
        cache_bytes: see `prefixes`.

    Attributes:
        prefixes: a `PrefixCache` of `cache_bytes`: the states after beginnings
            of texts.
        is_compiled: an event, set once `compile` has finished.
        max_waiting: see above.
        num_slots: sequences that have a slot at a time, at most: as many for
            each lane.
    """

    def __init__(self, model, deliver, max_waiting=1024, cache_bytes=0):
        self._model, self._deliver = model, deliver
        self.prefixes = prefix_cache.PrefixCache(cache_bytes)
        self.max_waiting = max_waiting
        self._waiting = collections.deque()  # one deque per `submit`
        self._changed = threading.Condition()
        self._is_closing = self._is_over = False
        self._tokenize_prompts = _tokenize_function(model)
        start_ids = [model.tokenizer.start_id]
        self._padding = self.sequence(start_ids, SamplingConfig())
        self.tokenize([self._padding])
        self._empty = self._make_batch([], self._initial_carry([self._padding]))
        num_lanes = 1
        if not model.prefers_one_batch:
            num_lanes = min(devices.cores(), _MOST_LANES)
        self._lanes = [_Lane(self._empty) for _ in range(num_lanes)]
        self._lane_slots = NUM_SLOTS // num_lanes
        self.num_slots = num_lanes * self._lane_slots
        self._batch_sizes = (
            *(size for size in BATCH_SIZES if size < self._lane_slots),
            self._lane_slots,
        )
        self._finding = threading.Lock()
        self._loops = {}  # (adjusts, jit_compile) -> function
        self._decode_functions = {}  # (batch size, adjusts) -> _DecodeFunction
        for size in self._batch_sizes:
            self._find_function(size, adjusts=False, jit_compile=False)
        self.is_compiled = threading.Event()
        self._compiles_adjusting = False
        self._threads = [
            threading.Thread(target=self._run, args=[lane], daemon=True)
            for lane in self._lanes
        ]
        for thread in self._threads:
            thread.start()

    def sequence(
        self,
        prompt,
        sampling,
        stop=(),
        deadline=np.inf,
        adjustment=adjustments.NONE,
    ) -> Sequence:
        """Makes a `Sequence`.

        Args:
            prompt: a string, or a list of token ids.
            sampling, stop, deadline, adjustment: see `Sequence`.

        Raises:
            UserError: a token id is not in the vocabulary.
        """
        if isinstance(prompt, str):
            prompt, prompt_ids = prompt.encode("utf-8", "replace"), None
        else:
            if max(prompt) >= self._model.tokenizer.vocabulary_size():
                raise UserError(f"there is no token id {max(prompt)}")
            prompt_ids = np.array(prompt, np.int32)
            prompt = b"".join(self._model.token_texts[prompt_ids].tolist())
        return Sequence(
            prompt,
            prompt_ids,
            sampling,
            stop,
            deadline,
            adjustment.for_model(self._model.tokenizer.end_id),
        )

    def tokenize(self, sequences) -> None:
        """Tokenizes the prompts of sequences, in the caller's thread.

        Sequences that were not tokenized before are when they get a slot,
        together with the others that get one at that moment.
        """
        new = [one for one in sequences if one.continuation is None]
        if not new:
            return
        token_ids, lengths, hashes = (
            tensor.numpy()
            for tensor in self._tokenize_prompts(
                tf.constant([sequence.prompt for sequence in new])
            )
        )
        tokenized = np.split(token_ids, np.cumsum(lengths)[:-1])
        for sequence, prompt_ids, prompt_hash in zip(new, tokenized, hashes):
            if sequence.prompt_ids is None:
                sequence.prompt_ids = prompt_ids
            sequence.num_prompt_tokens = len(sequence.prompt_ids)
            if not sequence.num_prompt_tokens:
                sequence.prompt_ids = self._padding.prompt_ids
            seed = sequence.sampling.seed ^ int(prompt_hash)
            sequence.continuation = Continuation("", seed, sequence.stop)

    @property
    def num_waiting(self) -> int:
        """Number of sequences waiting for a slot and not cancelled."""
        with self._changed:
            return sum(
                not sequence.is_cancelled
                for sequence in itertools.chain.from_iterable(self._waiting)
            )

    @property
    def num_active(self) -> int:
        """Number of sequences that have a slot."""
        with self._changed:
            return sum(lane.num_taken for lane in self._lanes)

    def submit(self, sequences) -> None:
        """Queues sequences. Those of several calls get slots in turn.

        Raises:
            BusyError: with these, more than `max_waiting` would wait. A call
                with more than `max_waiting` sequences always raises it.
            ClosedError: `close` was called.
        """
        with self._changed:
            if self._is_closing:
                raise ClosedError
            if self.num_waiting + len(sequences) > self.max_waiting:
                raise BusyError
            now = time.monotonic()
            for sequence in sequences:
                sequence.arrival_time = now
            self._waiting.append(collections.deque(sequences))
            self._changed.notify_all()

    def close(self, seconds=None) -> None:
        """Stops accepting sequences and waits for the others to end.

        Args:
            seconds: after which running and waiting ones are cut off; None:
                never.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        end = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads[: len(self._lanes)]:
            thread.join(end and max(0, end - time.monotonic()))
        self._is_over = True
        for thread in list(self._threads):
            thread.join()

    # In the thread of a lane --------------------------------------------------

    def _run(self, lane):
        while self._wait(lane):
            try:
                self._drop_waiting()
                self._admit(lane)
                if lane.batch.sequences:
                    self._decode(lane)
            except Exception:
                # Whatever it is, later sequences must not suffer from it.
                logging.exception("a batch of sequences is lost")
                lost = {*lane.admitted, *lane.batch.sequences}
                lane.batch, lane.admitted = self._empty, []
                failed = Update(finish_reason="error")
                self._deliver([(sequence, failed) for sequence in lost])

    def _wait(self, lane) -> bool:
        """Blocks until there is work or `close`; returns if there is work."""
        with self._changed:
            while not (
                self._waiting or lane.batch.sequences or self._is_closing
            ):
                self._changed.wait()
            return bool(self._waiting or lane.batch.sequences)

    def _admit(self, lane):
        """Gives a lane waiting sequences, one per `submit` in turn.

        Each lane gets its share of all, but no fewer than `_SHARED` of those
        that wait together: a few are faster in one batch. What comes while
        another lane computes begins at once, in an idle lane.
        """
        with self._changed:
            waiting = sum(map(len, self._waiting))
            total = self.num_active + waiting
            share = max(_SHARED, -(-total // len(self._lanes)))
            num_free = min(share, self._lane_slots) - lane.num_taken
            while self._waiting and len(lane.admitted) < num_free:
                group = self._waiting.popleft()
                lane.admitted.append(group.popleft())
                if group:
                    self._waiting.append(group)
        if lane.admitted:
            now = time.monotonic()
            for sequence in lane.admitted:
                sequence.slot_time = now
            self.tokenize(lane.admitted)
            carry = self._initial_carry(lane.admitted)
            new = self._make_batch(lane.admitted, carry)
            merged = self._merge_rows(lane.batch, new)
            with self._changed:  # each sequence is in one of both at any time
                lane.batch, lane.admitted = merged, []

    def _drop_waiting(self):
        """Drops waiting sequences that were cancelled or have timed out."""
        ended = []

        def is_wanted(sequence):
            reason = self._early_finish_reason(sequence)
            if reason:
                ended.append((sequence, Update(finish_reason=reason)))
            return not reason

        with self._changed:
            groups = [
                collections.deque(filter(is_wanted, group))
                for group in self._waiting
            ]
            self._waiting = collections.deque(filter(None, groups))
        if ended:
            self._deliver(ended)

    def _early_finish_reason(self, sequence) -> str | None:
        """The reason to end a sequence early, or None."""
        if sequence.is_cancelled:
            return "cancelled"
        is_late = self._is_over or time.monotonic() >= sequence.deadline
        return "timeout" if is_late else None

    def _decode(self, lane):
        """Takes all rows of a batch some steps further, in one call."""
        batch = lane.batch
        decode = self._decode_function(batch)
        is_few = self.num_active <= _FEW
        most_steps, budget = _FOR_FEW if is_few else _FOR_MANY
        max_steps = max(
            int(budget / decode.seconds_per_step),
            # Before that no sequence has a token to show.
            min(len(one.prompt_ids) - one.num_read for one in batch.sequences)
            + 1,
        )
        max_steps = min(max_steps, most_steps)
        forced_ids = np.full((batch.size, CHUNK), -1, np.int32)
        starts = []  # steps of this call that read the prompt
        for row, sequence in enumerate(batch.sequences):
            part = sequence.prompt_ids[sequence.num_read :][:max_steps]
            forced_ids[row, : len(part)] = part
            sequence.num_read += len(part)
            starts.append(len(part))
        start_time = time.monotonic()
        carry_before = batch.carry
        drawn = decode.function(
            tf.nest.map_structure(tf.constant, batch.full_carry()),
            batch.options,
            tf.constant(forced_ids),
            tf.constant(max_steps),
        )
        batch.carry = drawn.pop("carry")
        batch.carry.pop("counts", None)
        drawn = tf.nest.map_structure(np.asarray, drawn)
        is_finished, positions, last_ids = (
            batch.carry[name].numpy()
            for name in ("finished", "positions", "token_ids")
        )
        seconds = time.monotonic() - start_time
        num_steps = max(starts + drawn["lengths"][: len(starts)])
        updates, is_running = [], []
        for row, (sequence, start) in enumerate(zip(batch.sequences, starts)):
            own = row, slice(start, start + drawn["lengths"][row])
            finished, position = bool(is_finished[row]), positions[row]
            token_ids = drawn["token_ids"][own]
            if sequence.first_token_time is None and len(token_ids):
                # The steps of a call take the same time each.
                share = (start + 1) / num_steps
                sequence.first_token_time = start_time + seconds * share
            num_before = sequence.num_read - start + len(sequence.token_ids)
            sequence.token_ids += token_ids.tolist()
            continuation = sequence.continuation
            ended = finished and position < sequence.sampling.max_new_tokens
            continuation.add(
                self._model.token_bytes[token_ids].tolist(),
                drawn["log_probs"][own],
                ended,
            )
            end_id = end_log_prob = None
            if ended and not continuation.stop_string:
                end_id = int(last_ids[row])
                end_log_prob = float(drawn["end_log_probs"][row])
            reason = self._early_finish_reason(sequence)
            if continuation.stopped:
                reason = "stop"
            elif finished:
                reason = "length"
            if start or reason:
                states = carry_before["states"]
                self._keep_states(sequence, num_before - 1, states, row)
            shown = continuation.show(last=reason is not None)
            new = continuation.show_tokens()
            update = Update(
                shown,
                continuation.tokens[new],
                sequence.token_ids[new],
                continuation.log_probs[new].tolist(),
                reason,
                end_id,
                end_log_prob,
            )
            if shown or update.tokens or reason:
                updates.append((sequence, update))
            is_running.append(reason is None)
        self._deliver(updates)
        if not all(is_running):
            lane.batch = self._merge_rows(batch, self._empty, is_running)

    def _decode_function(self, batch):
        """Returns the `_DecodeFunction` for a batch.

        The first batch with adjustments waits until theirs is traced; XLA
        compiles it meanwhile, if it has compiled the other.
        """
        key = batch.size, batch.adjusts
        if batch.adjusts:  # the others were found at the start
            with self._finding:
                has_compiled = self.is_compiled.is_set()
                if has_compiled and not self._compiles_adjusting:
                    self._compiles_adjusting = True
                    thread = threading.Thread(
                        target=self.compile, args=[True], daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()
                if key not in self._decode_functions:
                    self._find_function(*key, jit_compile=False)
        return self._decode_functions[key]

    def _keep_states(self, sequence, length, states, row):
        """Keeps the states after a beginning of a text, if they are worth it.

        Args:
            sequence: a `Sequence`.
            length: number of tokens of the beginning.
            states: the states of a batch.
            row: where the sequence was in the batch.
        """
        # Of a very long text, fewer the further it is.
        least = max(_KEPT_EVERY, length // 64)
        if sequence.num_read == len(sequence.prompt_ids):
            least = 1  # who asks again will have the whole prompt
        kept = sequence.kept
        if length < max(_LEAST_KEPT, kept.length + least):
            return
        text = sequence.prompt_ids
        if length > len(text):
            text = np.append(text, np.array(sequence.token_ids, np.int32))
        kept.extend(text[kept.length : length])
        self.prefixes.add(
            kept,
            {
                name: np.array(np.asarray(state)[row])
                for name, state in states.items()
            },
        )

    # Rows ---------------------------------------------------------------------

    def _initial_carry(self, sequences):
        """The carry (see `generation`) of sequences that begin.

        It stands at the end of the longest beginning whose states are known.
        """
        states = self._model.initial_states(len(sequences))
        for row, sequence in enumerate(sequences):
            sequence.kept, known = self.prefixes.find(sequence.prompt_ids)
            sequence.num_cached = sequence.kept.length
            sequence.num_read = sequence.num_cached + 1
            for name, state in known.items():
                states[name][row] = state
        seen = np.zeros(
            (len(sequences), self._model.tokenizer.vocabulary_size()), bool
        )
        for row, sequence in enumerate(sequences):
            seen[row, sequence.prompt_ids] = True
        carry = generation.start(
            np.array(
                [one.prompt_ids[one.num_cached] for one in sequences], np.int32
            ),
            states,
            seen,
            np.array([one.continuation.seed for one in sequences], np.int64),
        )
        return tf.nest.map_structure(np.asarray, carry)

    def _merge_rows(self, first, second, keeps=None):
        """Merges two batches into the smallest size that they fit in.

        Args:
            first, second: `_Batch`es.
            keeps: booleans, which sequences of the first to keep; None: all.
        """
        keeps = [True] * len(first.sequences) if keeps is None else keeps
        sequences = [*itertools.compress(first.sequences, keeps)]
        sequences += second.sequences
        if not sequences:
            return self._empty
        rows = np.flatnonzero(keeps).tolist()
        rows += range(first.size, first.size + len(second.sequences))
        size = min(size for size in self._batch_sizes if size >= len(sequences))
        rows += [rows[0]] * (size - len(rows))
        carry = tf.nest.map_structure(
            lambda *both: np.concatenate(both)[rows], first.carry, second.carry
        )
        return self._make_batch(sequences, carry)

    def _make_batch(self, sequences, carry, adjusts=False):
        return _Batch(sequences, carry, self._model.tokenizer.end_id, adjusts)

    def compile(self, adjusts=False) -> None:
        """Compiles with XLA, and switches to the result where it is faster.

        Sequences are continued meanwhile. `close` ends it after the batch size
        that is being compiled.

        Args:
            adjusts: whether to compile the loop of batches with adjustments.
        """
        try:
            for size in self._batch_sizes:
                if self._is_closing:
                    return
                self._find_function(size, adjusts, jit_compile=True)
        except tf.errors.OpError:
            logging.exception("XLA cannot compile the model: serving without")
        finally:
            self.is_compiled.set()

    def _loop(self, batch, jit_compile):
        """Returns the `decode_loop` of batches like one."""
        key = batch.adjusts, jit_compile
        if key not in self._loops:
            model = self._model
            self._loops[key] = decode_functions.decode_loop(
                # This signature is all that it needs of the model.
                model.functions.signatures["decode_step"],
                model.functions.weights,
                (
                    batch.full_carry(),
                    batch.options,
                    np.zeros([1, CHUNK], np.int32),
                ),
                length=CHUNK,
                jit_compile=jit_compile,
                banned_id=model.tokenizer.unknown_id,
                end_id=model.tokenizer.end_id,
            )
        return self._loops[key]

    def _find_function(self, size, adjusts, jit_compile):
        """Finds the fastest decode function of a batch size, by measuring.

        Both are traced or compiled for that size then. The best of four runs
        counts, because other threads work meanwhile.

        Args:
            size: the batch size.
            adjusts: whether the batch has adjustments.
            jit_compile: whether XLA may compile it.
        """
        sequences = [self._padding] * size
        batch = self._make_batch(
            sequences, self._initial_carry(sequences), adjusts
        )
        carry = batch.full_carry()
        functions = [
            self._loop(batch, compiles)
            for compiles in (False, True)[: 1 + jit_compile]
        ]
        forced_ids = np.full([size, CHUNK], -1, np.int32)
        best = collections.defaultdict(lambda: np.inf)
        few, many = 1, 17
        for _, function, max_steps in itertools.product(
            range(4), functions, (few, many)
        ):
            arguments = tf.nest.map_structure(
                tf.constant, (carry, batch.options, forced_ids, max_steps)
            )
            start = time.perf_counter()
            function(*arguments)
            seconds = time.perf_counter() - start
            best[function, max_steps] = min(best[function, max_steps], seconds)
        measured = []
        for function in functions:
            seconds = best[function, many] - best[function, few]
            seconds_per_step = max(seconds / (many - few), 1e-6)
            measured.append(_DecodeFunction(function, seconds_per_step))
        fastest = min(measured, key=lambda decode: decode.seconds_per_step)
        if jit_compile:
            self._decode_functions[size, adjusts] = fastest
        else:  # another thread may have found XLA's meanwhile
            self._decode_functions.setdefault((size, adjusts), fastest)


class _Lane:
    """A batch, decoded by a thread of its own.

    Attributes:
        batch: a `_Batch`.
        admitted: list of the sequences that join it next.
    """

    def __init__(self, batch):
        self.batch, self.admitted = batch, []

    @property
    def num_taken(self) -> int:
        """Number of its slots that are taken."""
        return len(self.batch.sequences) + len(self.admitted)


@dataclasses.dataclass(frozen=True)
class _DecodeFunction:
    """The decode function chosen for one batch size, and its speed."""

    function: abc.Callable
    seconds_per_step: float


class _Batch:
    """A padded batch and the sequences in its first rows.

    A carry that is put together from others consists of NumPy arrays, which are
    faster to index and concatenate; one that a call returns stays as it is.

    Args:
        sequences, carry: see above.
        end_id: the token that ends each row, or None.
        adjusts: whether it has adjustments, although no sequence has.
    """

    def __init__(self, sequences, carry, end_id, adjusts=False):
        self.sequences, self.size = sequences, len(carry["token_ids"])
        samplings = [sequence.sampling for sequence in sequences]
        changes = [sequence.adjustment for sequence in sequences]
        num_padding = self.size - len(sequences)
        samplings += [SamplingConfig(max_new_tokens=0)] * num_padding
        changes += [adjustments.NONE] * num_padding
        self.options = options.tensors(samplings)
        self._vocabulary_size = carry["seen"].shape[1]
        self.adjusts = adjusts or any(
            change != adjustments.NONE for change in changes
        )
        if self.adjusts:
            self.options |= adjustments.tensors(
                changes, self._vocabulary_size, end_id
            )
        is_padding = np.arange(self.size) >= len(sequences)
        self.carry = carry | {"finished": is_padding}

    def full_carry(self):
        """The carry that the decode function takes."""
        if not self.adjusts:
            return self.carry
        drawn = [sequence.token_ids for sequence in self.sequences]
        counts = adjustments.counts(drawn, self.size, self._vocabulary_size)
        return self.carry | {"counts": counts}


def _tokenize_function(model):
    """Makes a function: prompts, string [batch] -> token ids, lengths, hashes.

    The token ids of all prompts are concatenated; lengths and hashes are
    [batch].
    """

    @functools.partial(
        tf.function,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    def tokenize_prompts(prompts):
        # As in `TextGenerator.begin`: the same seed gives the same text.
        hashes = tf.strings.to_hash_bucket_fast(prompts, 2**63 - 1)
        token_ids = model.functions.tokenize(prompts)
        return token_ids.flat_values, token_ids.row_lengths(), hashes

    # Calling a `tf.function` itself takes half a millisecond longer.
    return tokenize_prompts.get_concrete_function()
