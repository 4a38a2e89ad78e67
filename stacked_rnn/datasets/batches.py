"""The interface of all batches, and batches of whole texts.

A batch of whole texts has texts of similar length, so that little is padded.
"""

import abc
import functools
import sys

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError

_MAX_BUCKETS = 4  # each padded length has a graph of its own
_LENGTH_MULTIPLE = 8  # padded lengths are multiples of this


class Batches(abc.ABC):
    """The batches of a training or validation set.

    Batches are a pure function of the seed and the global step, which counts
    from 0 over all epochs: a run can resume at any step. `page` reads the data
    of one or more consecutive steps with NumPy; `batch` cuts the batch of a
    step from that page with TensorFlow ops, within the compiled step.

    Attributes:
        batch_size: rows per batch.
        sequence_length: tokens of the longest row, padding included.
        num_tokens: tokens of the whole set.
        characters: characters of the text that these tokens stand for; None:
            as many as tokens.
        carries_state: whether row i of a batch continues row i of the batch
            before it.
    """

    batch_size: int
    sequence_length: int
    num_tokens: int
    characters: int | None = None
    carries_state = False

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the set."""

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token in the original text."""
        return (self.characters or self.num_tokens) / self.num_tokens

    def length_of(self, step) -> int | None:
        """Returns the tokens per row of a global step, for `batch`.

        None, as here, if `batch` does not ask for it.
        """
        return None

    def begins_page(self, step) -> bool:
        """Returns whether a global step is its page's first; here, always."""
        return True

    @abc.abstractmethod
    def page(self, step):
        """Reads the page of a global step.

        Args:
            step: an integer.

        Returns:
            An array or a dict of arrays.
        """

    @abc.abstractmethod
    def batch(self, step, page, rows):
        """Cuts the batch of a global step from its page.

        Args:
            step: int64 scalar.
            page: what `page` returned, as tensors.
            rows: int64 [rows], the rows of the global batch that this replica
                processes.

        Returns:
            (inputs, targets): the inputs of the task's model, and int32
            targets of as many rows; a target of -1 is not counted.
        """


class _BucketedBatches(Batches):
    """Batches of rows from the same length bucket; a page is one batch.

    Args:
        buckets: int [rows], the bucket of each row.
        batch_size: rows per batch.
        seed: shuffles the rows and the batches; None: the order is kept.
        characters: characters of all rows; None: as many as tokens.
    """

    def __init__(self, buckets, batch_size, seed, characters):
        self._buckets, self._seed = buckets, seed
        self.batch_size, self.characters = batch_size, characters
        self._rows_of_steps = functools.lru_cache(1)(self._order_rows)

    def __len__(self):
        return len(self._buckets)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return len(self._order_rows(0))

    def page(self, step):
        """Reads a batch: int32 arrays [batch_size, ...], padded with -1."""
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self._rows_of_steps(epoch)[step]
        return self._page(rows, self._buckets[rows[0]])

    @abc.abstractmethod
    def _page(self, rows, bucket):
        """Returns the arrays of some rows, padded to the bucket's length."""

    def _order_rows(self, epoch):
        """Returns a list with the rows of each batch of an epoch."""
        rng = None
        if self._seed is not None:
            rng = np.random.default_rng((self._seed, epoch))
        batches = []
        for bucket in np.unique(self._buckets):
            rows = np.flatnonzero(self._buckets == bucket)
            if rng:
                rng.shuffle(rows)
            batches += [
                rows[start : start + self.batch_size]
                for start in range(0, len(rows), self.batch_size)
            ]
        if rng:
            rng.shuffle(batches)
        return batches

    def _padded(self, sequences, rows, length):
        """Copies sequences into an int32 [batch_size, length], else -1."""
        padded = np.full((self.batch_size, length), -1, np.int32)
        for index, row in enumerate(rows):
            padded[index, : len(sequences[row])] = sequences[row]
        return padded


class Examples(_BucketedBatches):
    """Batches of texts and their classes, for a classifier.

    Args:
        token_ids: a list with an integer array for each text.
        targets: int32 [texts, columns]; -1 is not counted.
        batch_size: texts per batch.
        seed: shuffles the texts in each epoch; None: the order is kept.
        characters: characters of all texts; None: as many as tokens.
    """

    def __init__(
        self, token_ids, targets, batch_size, seed=None, characters=None
    ):
        self.token_ids, self.targets = token_ids, targets
        lengths = np.array([len(ids) for ids in token_ids])
        self.num_tokens = int(lengths.sum())
        self._lengths = _bucket_lengths(lengths, batch_size)
        self.sequence_length = self._lengths[-1]
        buckets = np.searchsorted(self._lengths, lengths)
        super().__init__(buckets, batch_size, seed, characters)

    def _page(self, rows, bucket):
        return {
            "token_ids": self._padded(
                self.token_ids, rows, self._lengths[bucket]
            ),
            "targets": self._padded(self.targets, rows, self.targets.shape[1]),
        }

    def batch(self, step, page, rows):
        """Cuts the batch of a global step from its page; see `Batches.batch`.

        Returns:
            ({token_ids, mask}, targets): int32 and bool [rows, time], and int32
            [rows, columns], which is -1 in rows without a text.
        """
        page = {name: tf.gather(part, rows) for name, part in page.items()}
        token_ids = page["token_ids"]
        inputs = {"token_ids": tf.maximum(token_ids, 0), "mask": token_ids >= 0}
        return inputs, page["targets"]


class Pairs(_BucketedBatches):
    """Batches of source and target texts, for a seq2seq model.

    `num_tokens` counts the targets alone; `sequence_length` is of a source and
    its target together.

    Args:
        sources, targets: lists with an integer array for each text, whose last
            id is `end_id`.
        end_id: the id that ends each text, and the first input of the decoder.
        batch_size: pairs per batch.
        seed: shuffles the pairs in each epoch; None: the order is kept.
        characters: characters of all targets; None: as many as tokens.
    """

    def __init__(
        self, sources, targets, end_id, batch_size, seed=None, characters=None
    ):
        self.sources, self.targets, self._end_id = sources, targets, end_id
        lengths = np.array([[*map(len, sources)], [*map(len, targets)]]).T
        self.num_tokens = int(lengths[:, 1].sum())
        total = lengths.sum(axis=1)
        limits = _bucket_lengths(total, batch_size)
        buckets = np.searchsorted(limits, total)
        self._lengths = {
            bucket: _round_up(lengths[buckets == bucket].max(axis=0)).tolist()
            for bucket in np.unique(buckets)
        }
        self.sequence_length = max(map(sum, self._lengths.values()))
        super().__init__(buckets, batch_size, seed, characters)

    def _page(self, rows, bucket):
        source_length, target_length = self._lengths[bucket]
        return {
            "sources": self._padded(self.sources, rows, source_length),
            "targets": self._padded(self.targets, rows, target_length),
        }

    def batch(self, step, page, rows):
        """Cuts the batch of a global step from its page; see `Batches.batch`.

        Returns:
            ({source_ids, source_mask, target_ids}, targets): the inputs of
            `Seq2Seq`, and int32 [rows, target time], padded with -1.
        """
        page = {name: tf.gather(part, rows) for name, part in page.items()}
        sources, targets = page["sources"], page["targets"]
        previous = tf.pad(
            targets[:, :-1], [[0, 0], [1, 0]], constant_values=self._end_id
        )
        inputs = {
            "source_ids": tf.maximum(sources, 0),
            "source_mask": sources >= 0,
            "target_ids": tf.maximum(previous, 0),
        }
        return inputs, targets


def warn_of_no_validation(config, reason) -> None:
    """Warns that no data is held out for validation.

    Args:
        config: a `TrainConfig`.
        reason: why, with the amount of data that is needed.

    Raises:
        UserError: `config.early_stopping` needs a validation set.
    """
    if config.early_stopping:
        raise UserError(
            f"--early_stopping={config.early_stopping}: no text to validate "
            f"on: {reason}: give more text, a larger --validation_fraction, or "
            "leave --early_stopping out"
        )
    print(
        f"warning: no validation: {reason}: the last epoch is exported",
        file=sys.stderr,
    )


def _bucket_lengths(lengths, batch_size) -> list[int]:
    """Returns the padded lengths of the buckets, in ascending order."""
    num_buckets = max(1, min(_MAX_BUCKETS, len(lengths) // (4 * batch_size)))
    shares = [1 - 2.0**-index for index in range(1, num_buckets)]
    longest = np.quantile(lengths, [*shares, 1.0], method="higher")
    return sorted({int(length) for length in _round_up(longest)})


def _round_up(lengths):
    """Rounds up to a multiple; 0 as well, since layers need a time step."""
    return -(-np.maximum(lengths, 1) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
