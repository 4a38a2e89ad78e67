"""Batches of windows: equally long stretches of a stream of tokens.

A text that is larger than memory is read page by page; the batches of some
thousand steps are cut from one page.
"""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.datasets.batches import Batches

PAGE = 2**22  # tokens per page; at most twice as many
_BLOCKS = 16  # per page, from all over the text
_MAX_FIRST = 128  # tokens that warm a state up


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(Batches):
    """Batches of windows of a stream of token ids.

    A window that starts at s has the inputs x = tokens[s : s + time] and the
    targets y = tokens[s + 1 : s + 1 + time]. All batches have the same shape:
    where a window has nothing to predict, its target is -1.

    With `half_windows`, some batches take two steps, one for the first halves
    of their windows and the next for the second ones (after Merity et al.
    2018, arXiv:1708.02182, section 4.1, where each length is drawn alone). It
    is one batch of so many, drawn at random: all epochs have as many steps.

    Attributes:
        token_ids: the stream, integers [tokens]: an array or a `TokenFile`.
        sequence_length: tokens per window, the `time` above.
        batch_size: windows per batch.
        seed: decides the order and the offset of the windows.
        characters: characters of the text that the tokens stand for; None: as
            many as tokens.
        half_windows: fraction of the steps whose windows are halves.

    Raises:
        UserError: the stream is too short for one window.
    """

    token_ids: Sequence[int]
    sequence_length: int
    batch_size: int
    seed: int = 0
    characters: int | None = None
    half_windows: float = 0.0

    def __post_init__(self):
        if self.num_tokens <= self.sequence_length:
            raise UserError(
                f"the text has {self.num_tokens} tokens, but one window "
                f"needs {self.sequence_length + 1}: give more text, or a "
                "smaller --sequence_length"
            )

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        """Length of the stream."""
        return len(self.token_ids)

    def token_counts(self, vocabulary_size) -> np.ndarray:
        """Counts each token of the stream: int64 [vocabulary_size]."""
        counts = np.zeros(vocabulary_size, np.int64)
        for start in range(0, self.num_tokens, PAGE):
            part = self.token_ids[start : start + PAGE]
            counts += np.bincount(part, minlength=vocabulary_size)
        return counts

    @property
    @abc.abstractmethod
    def batches_per_epoch(self) -> int:
        """Batches of whole windows per epoch."""

    @property
    @abc.abstractmethod
    def batches_per_page(self) -> int:
        """Batches per page; the last page of an epoch may have fewer."""

    @abc.abstractmethod
    def _page(self, epoch, index):
        """Returns the tokens of a page, counted from 0 in each epoch."""

    @abc.abstractmethod
    def _starts(self, epoch, page_index, index, rows):
        """Returns where in a page the windows of a batch start and end.

        Args:
            epoch, page_index, index: int64 scalars; pages are counted from 0
                in each epoch, batches in each page.
            rows: int64 [rows], rows of the global batch.

        Returns:
            (starts, ends), int64 [rows]: a target at position `end` or beyond
            is not counted.
        """

    def _seed(self, counter):
        return tf.stack([tf.constant(self.seed, tf.int64), counter])

    @property
    def _batches_per_cut(self) -> int:
        """Batches of which one is cut; n of them take n + 1 steps."""
        return max(1, round(2 / self.half_windows - 1))

    @property
    def _num_cut(self) -> int:
        """Batches per epoch that are cut."""
        if not self.half_windows or self.sequence_length == 1:
            return 0
        # The last batch may have nothing to predict in its second halves.
        return (self.batches_per_epoch - 1) // self._batches_per_cut

    @property
    def steps_per_epoch(self):
        return self.batches_per_epoch + self._num_cut

    def _locate(self, step):
        """Finds what a global step reads, an int64 scalar.

        Returns:
            (epoch, index, half), scalars: the epoch, the batch in it, and 1 or
            2 for the first or the second halves of its windows, 0 for all.
        """
        epoch, step = step // self.steps_per_epoch, step % self.steps_per_epoch
        if not self._num_cut:
            return epoch, step, 0
        count = self._batches_per_cut
        group, step = step // (count + 1), step % (count + 1)
        seed = tf.random.experimental.stateless_fold_in(
            self._seed(epoch), group
        )
        cut = tf.random.stateless_uniform((), seed, 0, count, tf.int64)
        # What is left at the end of an epoch is less than a group.
        cut = tf.where(group < self._num_cut, cut, count + 1)
        is_second = step == cut + 1
        index = group * count + step - tf.cast(step > cut, tf.int64)
        half = tf.cast(step == cut, tf.int32) + 2 * tf.cast(is_second, tf.int32)
        return epoch, index, half

    @functools.cached_property
    def _located(self):
        """`_locate` for integers, which takes half a millisecond per step."""
        if not self._num_cut:
            return self._locate
        locate = tf.function(self._locate, autograph=False)

        @functools.lru_cache(32)
        def located(step):
            with tf.device("CPU:0"):
                located = locate(tf.constant(step, tf.int64))
            return tuple(int(value) for value in located)

        return located

    def length_of(self, step):
        if not self._num_cut:
            return None
        *_, half = self._located(step)
        return (self.sequence_length + half % 2) // (2 if half else 1)

    def begins_page(self, step) -> bool:
        _, index, half = self._located(step)
        return half != 2 and index % self.batches_per_page == 0

    def page(self, step) -> np.ndarray:
        """Reads the page of a global step: int [tokens], all equally long."""
        epoch, index, _ = self._located(step)
        return self._page(epoch, index // self.batches_per_page)

    def batch(self, step, page, rows=None, length=None):
        """Cuts the batch of a global step from its page; see `Batches.batch`.

        Args:
            step: int64 scalar.
            page: the page of that step, as a tensor.
            rows: int64 [rows], the rows of the global batch to cut; None: all.
                A row beyond `batch_size` has no targets that are counted.
            length: what `length_of` returns for the step; None: all windows
                are whole.

        Returns:
            (inputs, targets), int32 [rows, time].
        """
        if rows is None:
            rows = tf.range(self.batch_size, dtype=tf.int64)
        epoch, index, half = self._locate(tf.cast(step, tf.int64))
        page_index = index // self.batches_per_page
        starts, ends = self._starts(
            epoch, page_index, index % self.batches_per_page, rows
        )
        ends = tf.where(rows < self.batch_size, ends, 0)
        length = length or self.sequence_length
        first = tf.where(half == 2, self.sequence_length - length, 0)
        offsets = tf.range(length + 1, dtype=tf.int64)
        positions = starts[:, None] + tf.cast(first, tf.int64) + offsets
        last = tf.size(page, tf.int64) - 1
        window = tf.gather(page, tf.minimum(positions, last))
        window = tf.cast(window, tf.int32)
        is_counted = positions[:, 1:] < ends[:, None]
        return window[:, :-1], tf.where(is_counted, window[:, 1:], -1)

    def dataset(self, first_step=0) -> tf.data.Dataset:
        """Returns the endless batches from a step on, for `model.fit`."""
        batch = tf.function(self.batch, autograph=False)

        def batches():
            for step in itertools.count(first_step):
                if step == first_step or self.begins_page(step):
                    page = tf.constant(self.page(step))
                yield batch(
                    tf.constant(step, tf.int64),
                    page,
                    length=self.length_of(step),
                )

        length = None if self._num_cut else self.sequence_length
        spec = tf.TensorSpec((self.batch_size, length), tf.int32)
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
    """Windows that are reshuffled in each epoch, and come once per epoch."""

    num_pages = 1  # per epoch

    @property
    @abc.abstractmethod
    def windows_per_page(self) -> int:
        """Windows per page."""

    @abc.abstractmethod
    def _start_of(self, index):
        """Returns where in a page windows start, by their index in it."""

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return self.num_pages * self.windows_per_page

    @property
    def batches_per_page(self):
        return -(-self.windows_per_page // self.batch_size)

    @property
    def batches_per_epoch(self):
        return self.num_pages * self.batches_per_page

    def _starts(self, epoch, page_index, index, rows):
        index = index * self.batch_size + rows
        last = self.windows_per_page - 1
        order = tf.random.experimental.index_shuffle(
            tf.minimum(index, last),
            self._seed(epoch * self.num_pages + page_index),
            last,
        )
        # The last batch of a page may have rows left over: without targets.
        ends = tf.where(index <= last, np.iinfo(np.int64).max, 0)
        return self._start_of(order), ends


class RandomWindows(_ShuffledWindows):
    """Adjacent windows, from a random offset in each epoch.

    A text of several pages is cut into blocks of neighbouring windows. The
    blocks are shuffled, a page gets `_BLOCKS` of them, and the windows within
    a page are shuffled too. All blocks have the same number of windows; what
    remains at the two ends of the text is less than one window per block, and
    differs between epochs.
    """

    @property
    def _num_fitting(self):
        """Windows that fit at any offset of less than one window."""
        return max(1, self.num_tokens // self.sequence_length - 1)

    @property
    def num_pages(self):
        """Pages per epoch."""
        windows_per_page = max(_BLOCKS, PAGE // self.sequence_length)
        return max(1, self._num_fitting // windows_per_page)

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

    def _start_of(self, index):
        # Each block has one more token, the target of its last input.
        block = index // self._windows_per_block
        return index * self.sequence_length + block


class SlidingWindows(_ShuffledWindows):
    """All windows of the text, one token apart, as in D2L section 9.3."""

    @property
    def windows_per_page(self):
        return self.num_tokens - self.sequence_length

    def _page(self, epoch, index):
        return self.token_ids[:]

    def _start_of(self, index):
        return index


class Streams(Windows):
    """Parallel streams: row i of a batch continues row i of the batch before.

    In the first epoch, every token but the first is a target once; the later
    ones begin at a random offset of less than a window. A short text has fewer
    streams than a batch has rows, so that each is at least a window long.

        stream 0:  0 1 2 | 3 4 5 | 6 7 8
        stream 1:  9 . . | . . . | . . .
    """

    carries_state = True

    @property
    def num_streams(self):
        """Rows per batch that have a stream."""
        num_windows = (self.num_tokens - 1) // self.sequence_length
        return min(self.batch_size, num_windows)

    @property
    def stream_length(self):
        """Targets per stream; the last stream may have fewer."""
        return -(-(self.num_tokens - 1) // self.num_streams)

    @property
    def batches_per_epoch(self):
        return -(-self.stream_length // self.sequence_length)

    @property
    def batches_per_page(self):
        tokens_per_batch = self.batch_size * self.sequence_length
        return min(self.batches_per_epoch, max(1, PAGE // tokens_per_batch))

    @property
    def _targets_per_page(self):
        """Targets per page of one stream."""
        return self.batches_per_page * self.sequence_length

    def _offset(self, epoch):
        """Returns the position of the first token of an epoch.

        The last batch keeps a target, even where there is one stream.
        """
        before = (self.batches_per_epoch - 1) * self.sequence_length
        room = self.num_tokens - 1 - before
        offset = tf.random.stateless_uniform(
            (), self._seed(epoch), 0, min(room, self.sequence_length), tf.int64
        )
        return tf.where(epoch > 0, offset, 0)

    def _page(self, epoch, index):
        rows, length = [], self._targets_per_page + 1
        offset = self._offset(tf.constant(epoch, tf.int64)).numpy()
        for row in range(self.batch_size):
            first = row * self.stream_length + index * self._targets_per_page
            first += offset
            part = self.token_ids[first : first + length]
            rows.append(np.pad(part, (0, length - len(part))))
        return np.concatenate(rows)

    def _starts(self, epoch, page_index, index, rows):
        offset = self._offset(epoch)
        first = rows * self.stream_length + page_index * self._targets_per_page
        start = rows * (self._targets_per_page + 1)
        ends = tf.minimum(
            (rows + 1) * self.stream_length + 1, self.num_tokens - offset
        )
        return start + index * self.sequence_length, start + ends - first


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks(Windows):
    """Blocks of a text side by side, to validate on: row i reads block i.

    The first tokens of each block only warm the state up: they are no targets.

    Attributes:
        lengths: tokens per block; together they are the stream.
    """

    lengths: tuple[int, ...] = ()

    carries_state = True

    @classmethod
    def of(cls, blocks, sequence_length, characters) -> "Blocks":
        """Puts blocks side by side.

        Args:
            blocks: list of integer arrays or `TokenFile`s, each of two tokens
                or more.
            sequence_length: the most tokens per window.
            characters: characters of all blocks.
        """
        lengths = tuple(map(len, blocks))
        return cls(
            np.concatenate([block[:] for block in blocks]),
            min(sequence_length, min(lengths) - 1),
            len(blocks),
            characters=characters,
            lengths=lengths,
        )

    @property
    def num_first(self) -> int:
        """Tokens at the beginning of a block that are no targets."""
        return max(1, min(_MAX_FIRST, min(self.lengths) // 8))

    @property
    def batches_per_epoch(self):
        return -(-(max(self.lengths) - 1) // self.sequence_length)

    @property
    def batches_per_page(self):
        return self.batches_per_epoch

    def _page(self, epoch, index):
        return self.token_ids

    def _starts(self, epoch, page_index, index, rows):
        rows = tf.minimum(rows, len(self.lengths) - 1)
        ends = tf.gather(np.cumsum(self.lengths, dtype=np.int64), rows)
        starts = ends - tf.gather(np.array(self.lengths, np.int64), rows)
        return starts + index * self.sequence_length, ends

    def batch(self, step, page, rows=None, length=None):
        inputs, targets = super().batch(step, page, rows, length)
        first = tf.cast(step, tf.int64) * self.sequence_length + 1
        positions = first + tf.range(self.sequence_length, dtype=tf.int64)
        return inputs, tf.where(positions >= self.num_first, targets, -1)
