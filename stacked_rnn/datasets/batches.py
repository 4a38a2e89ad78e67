"""Batches of whole texts, each batch of texts of about one length."""

import functools
import sys

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError

_BUCKETS = 4  # most lengths that texts are padded to: each is a graph
_MULTIPLE = 8  # of which these lengths are


class _Batches:
    """Rows in batches for each step, those of a bucket together.

    As `windows.Windows`, a pure function of the seed and the step, so that a
    run can go on from any step; one batch is a page.

    Args:
        bucket: int [rows], the number of each row's bucket.
        batch_size: rows of a batch.
        seed: of the order; None: none is shuffled.
    """

    carries_state = False

    def __init__(self, bucket, batch_size, seed):
        self._bucket = bucket
        self.batch_size, self._seed = batch_size, seed
        self._plan = functools.lru_cache(1)(self._make_plan)

    def __len__(self):
        return len(self._bucket)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the texts."""
        return len(self._make_plan(0))

    def begins_page(self, step) -> bool:
        """Whether a global step is the first of a page: each is."""
        return True

    def page(self, step):
        """What a global step reads: arrays of `batch_size` rows, -1 padded."""
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self._plan(epoch)[step]
        return self._page(rows, self._bucket[rows[0]])

    def _make_plan(self, epoch):
        """For each step of an epoch the rows of its batch."""
        rng = None
        if self._seed is not None:
            rng = np.random.default_rng((self._seed, epoch))
        batches = []
        for bucket in np.unique(self._bucket):
            rows = np.flatnonzero(self._bucket == bucket)
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
        """int32 [batch_size, length], -1 beyond each of some sequences."""
        padded = np.full((self.batch_size, length), -1, np.int32)
        for place, row in enumerate(rows):
            padded[place, : len(sequences[row])] = sequences[row]
        return padded


class Examples(_Batches):
    """Texts as token ids, and what a model is to say of each.

    Args:
        token_ids: for each text its ids, arrays of integers.
        targets: int32 [texts, columns].
        batch_size, seed: see `_Batches`.
        characters: of all texts.
    """

    def __init__(
        self, token_ids, targets, batch_size, seed=None, characters=None
    ):
        self.token_ids, self.targets = token_ids, targets
        lengths = np.array([len(ids) for ids in token_ids])
        self.num_tokens = int(lengths.sum())
        self.characters = characters or self.num_tokens
        self._lengths = _bucket_lengths(lengths, batch_size)
        super().__init__(
            np.searchsorted(self._lengths, lengths), batch_size, seed
        )

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest text."""
        return self._lengths[-1]

    def _page(self, rows, bucket):
        return {
            "token_ids": self._padded(
                self.token_ids, rows, self._lengths[bucket]
            ),
            "targets": self._padded(self.targets, rows, self.targets.shape[1]),
        }

    def batch(self, step, page, rows):
        """Some rows of a page.

        Returns:
            ({token_ids, mask}, targets): int32 and bool [rows, time], and int32
            [rows, columns], where -1 is no text at all.
        """
        page = {name: tf.gather(part, rows) for name, part in page.items()}
        token_ids = page["token_ids"]
        inputs = {
            "token_ids": tf.maximum(token_ids, 0),
            "mask": token_ids >= 0,
        }
        return inputs, page["targets"]


class Pairs(_Batches):
    """Texts and what is to be made of each, as token ids.

    Args:
        sources, targets: for each pair the ids, arrays of integers; each ends
            with the id `end_id`, and a text has at least this one.
        end_id: the id that ends a text, and stands before a target.
        batch_size, seed: see `_Batches`.
        characters: of all targets.
    """

    def __init__(
        self, sources, targets, end_id, batch_size, seed=None, characters=None
    ):
        self.sources, self.targets, self._end_id = sources, targets, end_id
        lengths = np.array(
            [
                (len(source), len(target))
                for source, target in zip(sources, targets)
            ]
        )
        self.num_tokens = int(lengths[:, 1].sum())
        self.characters = characters or self.num_tokens
        total = lengths.sum(axis=1)
        limits = _bucket_lengths(total, batch_size)
        bucket = np.searchsorted(limits, total)
        self._lengths = {
            number: _rounded(lengths[bucket == number].max(axis=0)).tolist()
            for number in np.unique(bucket)
        }
        super().__init__(bucket, batch_size, seed)

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest source and the longest target together."""
        return max(map(sum, self._lengths.values()))

    def _page(self, rows, bucket):
        source_length, target_length = self._lengths[bucket]
        return {
            "sources": self._padded(self.sources, rows, source_length),
            "targets": self._padded(self.targets, rows, target_length),
        }

    def batch(self, step, page, rows):
        """Some rows of a page.

        Returns:
            ({source_ids, source_mask, target_ids}, targets): what `Seq2Seq`
            takes, and int32 [rows, target time], where -1 is no target.
        """
        page = {name: tf.gather(part, rows) for name, part in page.items()}
        sources, targets = page["sources"], page["targets"]
        before = tf.pad(
            targets[:, :-1], [[0, 0], [1, 0]], constant_values=self._end_id
        )
        inputs = {
            "source_ids": tf.maximum(sources, 0),
            "source_mask": sources >= 0,
            "target_ids": tf.maximum(before, 0),
        }
        return inputs, targets


def do_without_validation(config, why) -> None:
    """Says, or with --early_stopping refuses, that nothing validates.

    Args:
        config: a `TrainConfig`.
        why: the reason, with the number that is needed.
    """
    if config.early_stopping:
        raise UserError(
            f"--early_stopping={config.early_stopping}: no text to validate "
            f"on: {why}: give more text, a larger --validation_fraction, or "
            "leave it out"
        )
    print(
        f"warning: nothing validates: {why}: the last epoch is exported",
        file=sys.stderr,
    )


def _bucket_lengths(lengths, batch_size) -> list[int]:
    """The lengths that texts are padded to, in ascending order."""
    buckets = max(1, min(_BUCKETS, len(lengths) // (4 * batch_size)))
    shares = [1 - 2.0**-number for number in range(1, buckets)]
    found = np.quantile(lengths, [*shares, 1.0], method="higher")
    return sorted({int(length) for length in _rounded(found)})


def _rounded(lengths):
    """The next multiples, 0 left out: the layers want a time step."""
    return -(-np.maximum(lengths, 1) // _MULTIPLE) * _MULTIPLE
