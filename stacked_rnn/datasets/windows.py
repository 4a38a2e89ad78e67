"""The windows that are cut from a corpus, a batch for each step.

Windows are a pure function of the seed and the step, so that a run can go on
from any step.
"""

import abc
import dataclasses

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(abc.ABC):
    """Batches of windows over a stream of token ids.

    A window that starts at s has the inputs x = tokens[s : s + time] and the
    targets y = tokens[s + 1 : s + 1 + time]. Batches have one shape for all
    steps: where there is nothing to predict, the target is -1.

    Attributes:
        token_ids: int32 tensor [tokens], the stream.
        sequence_length: tokens of a window, the `time` above.
        batch_size: windows of a batch.
        seed: of the order and the offset of the windows.
        characters: of the text that was cut into the tokens; None: as many.
    """

    token_ids: tf.Tensor
    sequence_length: int
    batch_size: int
    seed: int = 0
    characters: int | None = None

    carries_state = False  # whether row i of a batch continues row i before it

    def __post_init__(self):
        if self.num_tokens <= self.sequence_length:
            raise UserError(
                f"the text has {self.num_tokens} tokens, and one window "
                f"takes {self.sequence_length + 1}: give more text, or a "
                "smaller --sequence_length"
            )

    @property
    def num_tokens(self) -> int:
        """Length of the stream."""
        return self.token_ids.shape[0]

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token in the original text."""
        return (self.characters or self.num_tokens) / self.num_tokens

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the stream."""

    @abc.abstractmethod
    def _starts(self, epoch, step, rows):
        """Where the windows of some rows of a batch start, and the text ends.

        Args:
            epoch, step: int64 scalars; step counts from 0 in each epoch.
            rows: int64 [rows], the rows of the global batch asked for.

        Returns:
            (starts, ends), int64 [rows]: a target at position `end` or beyond
            does not count.
        """

    def batch(self, step, rows=None):
        """The batch of a global step, counted from 0 over all epochs.

        Args:
            step: int64 scalar.
            rows: int64 [rows], which rows of the batch; None: all. Nothing
                counts in those that it does not have.

        Returns:
            (inputs, targets), int32 [rows, time].
        """
        if rows is None:
            rows = tf.range(self.batch_size, dtype=tf.int64)
        step = tf.cast(step, tf.int64)
        starts, ends = self._starts(
            step // self.steps_per_epoch, step % self.steps_per_epoch, rows
        )
        ends = tf.where(rows < self.batch_size, ends, 0)
        offsets = tf.range(self.sequence_length + 1, dtype=tf.int64)
        positions = starts[:, None] + offsets
        window = tf.gather(
            self.token_ids, tf.minimum(positions, self.num_tokens - 1)
        )
        counts = positions[:, 1:] < ends[:, None]
        return window[:, :-1], tf.where(counts, window[:, 1:], -1)

    def dataset(self, first_step=0) -> tf.data.Dataset:
        """The batches from a step on, without end: what `model.fit` takes."""
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread can stall an epoch's end
        return (
            tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
            .map(self.batch)
            .prefetch(2)
            .with_options(options)
        )


class _ShuffledWindows(Windows):
    """Windows that each come once an epoch, in an order of that epoch's own."""

    @property
    @abc.abstractmethod
    def num_windows(self) -> int:
        """Windows of an epoch."""

    @abc.abstractmethod
    def _place(self, index, seed):
        """Starts of the windows of some indices, given the epoch's seed."""

    @property
    def steps_per_epoch(self):
        return -(-self.num_windows // self.batch_size)

    def _starts(self, epoch, step, rows):
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        index = step * self.batch_size + rows
        last = self.num_windows - 1
        order = tf.random.experimental.index_shuffle(
            tf.minimum(index, last), seed, last
        )
        # The last batch of an epoch may have rows left over: nothing counts.
        ends = tf.where(index <= last, self.num_tokens, 0)
        return self._place(order, seed), tf.cast(ends, tf.int64)


class RandomWindows(_ShuffledWindows):
    """Windows side by side, from a fresh offset in each epoch."""

    @property
    def num_windows(self):
        """Windows that fit, wherever within its length the first starts."""
        return max(1, self.num_tokens // self.sequence_length - 1)

    def _place(self, index, seed):
        room = self.num_tokens - self.num_windows * self.sequence_length
        offset = tf.random.stateless_uniform(
            (), seed, 0, min(room, self.sequence_length), tf.int64
        )
        return offset + index * self.sequence_length


class SlidingWindows(_ShuffledWindows):
    """Every window of the text, each one token on: D2L section 9.3."""

    @property
    def num_windows(self):
        return self.num_tokens - self.sequence_length

    def _place(self, index, seed):
        return index


class Streams(Windows):
    """Parallel streams: row i of a batch continues row i of the one before.

    Every token but the first is a target once an epoch.

        stream 0:  0 1 2 | 3 4 5 | 6 7 8
        stream 1:  9 . . | . . . | . . .
    """

    carries_state = True

    @property
    def stream_length(self):
        """Targets of one stream, the last one perhaps fewer."""
        return -(-(self.num_tokens - 1) // self.batch_size)

    @property
    def steps_per_epoch(self):
        return -(-self.stream_length // self.sequence_length)

    def _starts(self, epoch, step, rows):
        first = rows * self.stream_length
        ends = tf.minimum(first + self.stream_length + 1, self.num_tokens)
        return first + step * self.sequence_length, ends
