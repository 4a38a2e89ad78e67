"""The windows that are cut from a corpus, a batch for each step.

Windows are a pure function of the seed and the step, so that a run can go on
from any step. A text that exceeds the memory is read page by page: a page is
what the batches of some thousand steps are cut from.
"""

import abc
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError

PAGE = 2**22  # tokens of a page; at most twice as many
_BLOCKS = 16  # of a page, from all over the text


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(abc.ABC):
    """Batches of windows over a stream of token ids.

    A window that starts at s has the inputs x = tokens[s : s + time] and the
    targets y = tokens[s + 1 : s + 1 + time]. Batches have one shape for all
    steps: where there is nothing to predict, the target is -1.

    Attributes:
        token_ids: the stream, integers [tokens]: an array, or what can be cut
            into slices as one.
        sequence_length: tokens of a window, the `time` above.
        batch_size: windows of a batch.
        seed: of the order and the offset of the windows.
        characters: of the text that was cut into the tokens; None: as many.
    """

    token_ids: Sequence[int]
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
        return len(self.token_ids)

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token in the original text."""
        return (self.characters or self.num_tokens) / self.num_tokens

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the stream."""

    @property
    @abc.abstractmethod
    def steps_per_page(self) -> int:
        """Batches of one page; the last page of an epoch may have fewer."""

    @abc.abstractmethod
    def _page(self, epoch, index):
        """The tokens of a page, counted from 0 in each epoch."""

    @abc.abstractmethod
    def _starts(self, epoch, page_index, step, rows):
        """Where in a page the windows of a batch start, and the text ends.

        Args:
            epoch, page_index, step: int64 scalars; pages are counted from 0 in
                each epoch, steps in each page.
            rows: int64 [rows], the rows of the global batch asked for.

        Returns:
            (starts, ends), int64 [rows]: a target at position `end` or beyond
            does not count.
        """

    def begins_page(self, step) -> bool:
        """Whether a global step is the first of a page."""
        return step % self.steps_per_epoch % self.steps_per_page == 0

    def page(self, step) -> np.ndarray:
        """The page of a global step: int [tokens], of one length for all."""
        epoch, step = divmod(step, self.steps_per_epoch)
        return self._page(epoch, step // self.steps_per_page)

    def batch(self, step, page, rows=None):
        """The batch of a global step, counted from 0 over all epochs.

        Args:
            step: int64 scalar.
            page: tensor of the page of that step.
            rows: int64 [rows], which rows of the batch; None: all. Nothing
                counts in those that it does not have.

        Returns:
            (inputs, targets), int32 [rows, time].
        """
        if rows is None:
            rows = tf.range(self.batch_size, dtype=tf.int64)
        step = tf.cast(step, tf.int64)
        epoch, step = step // self.steps_per_epoch, step % self.steps_per_epoch
        starts, ends = self._starts(
            epoch, step // self.steps_per_page, step % self.steps_per_page, rows
        )
        ends = tf.where(rows < self.batch_size, ends, 0)
        offsets = tf.range(self.sequence_length + 1, dtype=tf.int64)
        positions = starts[:, None] + offsets
        last = tf.size(page, tf.int64) - 1
        window = tf.gather(page, tf.minimum(positions, last))
        window = tf.cast(window, tf.int32)
        counts = positions[:, 1:] < ends[:, None]
        return window[:, :-1], tf.where(counts, window[:, 1:], -1)

    def dataset(self, first_step=0) -> tf.data.Dataset:
        """The batches from a step on, without end: what `model.fit` takes."""
        batch = tf.function(self.batch, autograph=False)

        def batches():
            for step in itertools.count(first_step):
                if step == first_step or self.begins_page(step):
                    page = tf.constant(self.page(step))
                yield batch(tf.constant(step, tf.int64), page)

        spec = tf.TensorSpec((self.batch_size, self.sequence_length), tf.int32)
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread can stall an epoch's end
        return (
            tf.data.Dataset.from_generator(
                batches, output_signature=(spec, spec)
            )
            .prefetch(2)
            .with_options(options)
        )


class _ShuffledWindows(Windows):
    """Windows that each come once an epoch, in an order of that epoch's own."""

    num_pages = 1  # of an epoch

    @property
    @abc.abstractmethod
    def windows_per_page(self) -> int:
        """Windows of each page."""

    @abc.abstractmethod
    def _place(self, index):
        """Where in a page the windows of some indices start."""

    @property
    def num_windows(self) -> int:
        """Windows of an epoch."""
        return self.num_pages * self.windows_per_page

    @property
    def steps_per_page(self):
        return -(-self.windows_per_page // self.batch_size)

    @property
    def steps_per_epoch(self):
        return self.num_pages * self.steps_per_page

    def _starts(self, epoch, page_index, step, rows):
        index = step * self.batch_size + rows
        last = self.windows_per_page - 1
        order = tf.random.experimental.index_shuffle(
            tf.minimum(index, last),
            self._seed(epoch * self.num_pages + page_index),
            last,
        )
        # The last batch of a page may have rows left over: nothing counts.
        ends = tf.where(index <= last, np.iinfo(np.int64).max, 0)
        return self._place(order), ends

    def _seed(self, number):
        return tf.stack([tf.constant(self.seed, tf.int64), number])


class RandomWindows(_ShuffledWindows):
    """Windows side by side, from a fresh offset in each epoch.

    A text of several pages is cut into blocks of neighbouring windows. The
    blocks are shuffled, and the windows within a page, which is some blocks.
    All blocks have as many windows: less than one for each block is left over
    at the ends of the text, others in each epoch.
    """

    @property
    def _num_fitting(self):
        """Windows that fit, wherever within its length the first starts."""
        return max(1, self.num_tokens // self.sequence_length - 1)

    @property
    def num_pages(self):
        """Pages of an epoch."""
        a_page = max(_BLOCKS, PAGE // self.sequence_length)
        return max(1, self._num_fitting // a_page)

    @property
    def _blocks_per_page(self):
        return _BLOCKS if self.num_pages > 1 else 1

    @property
    def _windows_per_block(self):
        return self._num_fitting // (self._blocks_per_page * self.num_pages)

    @property
    def windows_per_page(self):
        return self._windows_per_block * self._blocks_per_page

    def _page(self, epoch, index):
        seed = self._seed(tf.constant(epoch, tf.int64))
        num_blocks = self._blocks_per_page * self.num_pages
        room = self.num_tokens - self.num_windows * self.sequence_length
        offset = tf.random.stateless_uniform(
            (), seed, 0, min(room, num_blocks * self.sequence_length), tf.int64
        )
        first = index * self._blocks_per_page
        blocks = tf.random.experimental.index_shuffle(
            tf.range(first, first + self._blocks_per_page, dtype=tf.int64),
            seed,
            num_blocks - 1,
        )
        length = self._windows_per_block * self.sequence_length
        starts = (offset + blocks * length).numpy().tolist()
        return np.concatenate(
            [self.token_ids[start : start + length + 1] for start in starts]
        )

    def _place(self, index):
        # Each block has a token more, the target of its last one.
        block = index // self._windows_per_block
        return index * self.sequence_length + block


class SlidingWindows(_ShuffledWindows):
    """Every window of the text, each one token on: D2L section 9.3."""

    @property
    def windows_per_page(self):
        return self.num_tokens - self.sequence_length

    def _page(self, epoch, index):
        return self.token_ids[:]

    def _place(self, index):
        return index


class Streams(Windows):
    """Parallel streams: row i of a batch continues row i of the one before.

    Every token but the first is a target once an epoch. A short text has fewer
    streams than a batch has rows, so that each is as long as a window.

        stream 0:  0 1 2 | 3 4 5 | 6 7 8
        stream 1:  9 . . | . . . | . . .
    """

    carries_state = True

    @property
    def num_streams(self):
        """Rows of a batch that have a stream."""
        num_windows = (self.num_tokens - 1) // self.sequence_length
        return min(self.batch_size, num_windows)

    @property
    def stream_length(self):
        """Targets of one stream, the last one perhaps fewer."""
        return -(-(self.num_tokens - 1) // self.num_streams)

    @property
    def steps_per_epoch(self):
        return -(-self.stream_length // self.sequence_length)

    @property
    def steps_per_page(self):
        a_step = self.batch_size * self.sequence_length
        return min(self.steps_per_epoch, max(1, PAGE // a_step))

    @property
    def _targets_per_page(self):
        """Of one stream."""
        return self.steps_per_page * self.sequence_length

    def _page(self, epoch, index):
        rows, length = [], self._targets_per_page + 1
        for row in range(self.batch_size):
            first = row * self.stream_length + index * self._targets_per_page
            part = self.token_ids[first : first + length]
            rows.append(np.pad(part, (0, length - len(part))))
        return np.concatenate(rows)

    def _starts(self, epoch, page_index, step, rows):
        before = rows * self.stream_length + page_index * self._targets_per_page
        start = rows * (self._targets_per_page + 1)
        ends = tf.minimum((rows + 1) * self.stream_length + 1, self.num_tokens)
        return start + step * self.sequence_length, start + ends - before
