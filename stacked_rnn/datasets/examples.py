"""Batches of whole texts, each batch of texts of about one length."""

import functools

import numpy as np
import tensorflow as tf

_BUCKETS = 4  # most lengths that texts are padded to: each is a graph
_MULTIPLE = 8  # of which these lengths are


class Examples:
    """Texts as token ids, in batches for each step.

    As `windows.Windows`, a pure function of the seed and the step, so that a
    run can go on from any step; one batch is a page.

    Args:
        token_ids: for each text its ids, arrays of integers.
        targets: int32 [texts, columns], what a model is to say of each.
        batch_size: texts of a batch.
        seed: of the order; None: none is shuffled.
        characters: of all texts.
    """

    carries_state = False

    def __init__(
        self, token_ids, targets, batch_size, seed=None, characters=None
    ):
        self.token_ids, self.targets = token_ids, targets
        self.batch_size, self._seed = batch_size, seed
        lengths = np.array([len(ids) for ids in token_ids])
        self.num_tokens = int(lengths.sum())
        self.characters = characters or self.num_tokens
        self._lengths = _bucket_lengths(lengths, batch_size)
        self._bucket = np.searchsorted(self._lengths, lengths)
        self._plan = functools.lru_cache(1)(self._make_plan)

    def __len__(self):
        return len(self.token_ids)

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest text."""
        return self._lengths[-1]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the texts."""
        return len(self._make_plan(0))

    def begins_page(self, step) -> bool:
        """Whether a global step is the first of a page: each is."""
        return True

    def page(self, step) -> np.ndarray:
        """What a global step reads: targets and token ids, side by side.

        Returns:
            int32 [batch_size, columns + time]; -1 stands for padding.
        """
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self._plan(epoch)[step]
        length = self._lengths[self._bucket[rows[0]]]
        columns = self.targets.shape[1]
        page = np.full((self.batch_size, columns + length), -1, np.int32)
        for place, row in enumerate(rows):
            token_ids = self.token_ids[row]
            page[place, :columns] = self.targets[row]
            page[place, columns : columns + len(token_ids)] = token_ids
        return page

    def batch(self, step, page, rows):
        """Some rows of a page.

        Returns:
            ({token_ids, mask}, targets): int32 and bool [rows, time], and int32
            [rows, columns], where -1 is no text at all.
        """
        page = tf.gather(page, rows)
        columns = self.targets.shape[1]
        token_ids, targets = page[:, columns:], page[:, :columns]
        inputs = {
            "token_ids": tf.maximum(token_ids, 0),
            "mask": token_ids >= 0,
        }
        return inputs, targets

    def _make_plan(self, epoch):
        """For each step of an epoch the texts of its batch."""
        rng = None
        if self._seed is not None:
            rng = np.random.default_rng((self._seed, epoch))
        batches = []
        for bucket in range(len(self._lengths)):
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


def _bucket_lengths(lengths, batch_size) -> list[int]:
    """The lengths that texts are padded to, in ascending order."""
    buckets = max(1, min(_BUCKETS, len(lengths) // (4 * batch_size)))
    shares = [1 - 2.0**-number for number in range(1, buckets)]
    found = np.quantile(lengths, [*shares, 1.0], method="higher")
    rounded = -(-np.maximum(found, 1) // _MULTIPLE) * _MULTIPLE
    return sorted({int(length) for length in rounded})
