"""Splitting the corpus of a language model into training and validation parts.

Of a running text, the end is held out for validation. Documents are independent
of each other and may be sorted: some are held out, chosen by a hash of their
text.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from stacked_rnn.datasets import corpora

_NUM_BUCKETS = 2**16  # documents are hashed into buckets, by text and seed
_BLANK = _NUM_BUCKETS  # the bucket of blank documents, which are never held out


@dataclasses.dataclass(frozen=True)
class Span:
    """The characters from `first` up to, but not including, `last`."""

    first: int
    last: int

    num_documents = 0  # a running text

    @property
    def num_characters(self) -> int:
        return self.last - self.first

    def texts(self, corpus) -> Iterator[str]:
        """Yields the text of this part, in strings of any length."""
        position = 0
        for text in corpus.texts():
            yield text[
                max(0, self.first - position) : max(0, self.last - position)
            ]
            position += len(text)
            if position >= self.last:
                return


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a corpus whose hash falls into certain buckets.

    Attributes:
        is_in: bool [buckets], the buckets of this part.
        seed: seed of the hash.
        num_characters: characters of these documents and their separators.
        num_documents: number of documents, without blank ones.
    """

    is_in: np.ndarray
    seed: int
    num_characters: int
    num_documents: int

    def texts(self, corpus) -> Iterator[str]:
        """Yields the text of this part, in strings of any length."""
        for buckets, _, texts in _hash_documents(corpus, self.seed):
            yield "".join(itertools.compress(texts, self.is_in[buckets]))


def split(corpus, fraction, seed) -> dict:
    """Splits a corpus into a training and a validation part.

    Of a corpus with documents, about the fraction of the text is held out, at
    least one document; equal documents stay together, and if all are equal,
    none is held out. If each document has more than a quarter of the text, or
    there are fewer than two, the end is held out, as of a running text.

    Args:
        corpus: a `Corpus`.
        fraction: fraction of the characters to hold out for validation.
        seed: chooses the documents to hold out; it has no effect on a running
            text.

    Returns:
        A dict of the parts, `Span` or `Documents`: "training", and
        "validation" if anything is held out.
    """
    if fraction and corpus.has_separator:
        parts = _split_documents(corpus, fraction, seed)
        if parts:
            return parts
    length = corpus.num_characters
    # At least two characters, an input and a target, are left for training.
    cut = max(int(length * (1 - fraction)), min(2, length))
    parts = {"training": Span(0, cut)}
    if cut < length:
        parts["validation"] = Span(cut, length)
    return parts


def _split_documents(corpus, fraction, seed) -> dict:
    """Returns the parts, or an empty dict if documents are few or too long."""
    characters, documents = np.zeros((2, _BLANK + 1), np.int64)
    for buckets, is_new, texts in _hash_documents(corpus, seed):
        np.add.at(characters, buckets, [len(text) for text in texts])
        np.add.at(documents, buckets, 1)
        documents[buckets[0]] -= not is_new
    documents[_BLANK] = 0
    if documents.sum() < 2:
        return {}
    *candidates, last = np.flatnonzero(documents)
    held_out = np.zeros(_BLANK + 1, bool)
    left = corpus.num_characters * fraction
    for bucket in candidates:
        if characters[bucket] <= 2 * left:
            held_out[bucket] = True
            left -= characters[bucket]
    if candidates and not held_out.any():
        smallest = min(*candidates, last, key=characters.__getitem__)
        if characters[smallest] > corpus.num_characters / 4:
            return {}
        held_out[smallest] = True
    parts = {
        name: Documents(
            is_in,
            seed,
            int(characters[is_in].sum()),
            int(documents[is_in].sum()),
        )
        for name, is_in in (("training", ~held_out), ("validation", held_out))
    }
    return {name: part for name, part in parts.items() if part.num_documents}


def _hash_documents(corpus, seed) -> Iterator[tuple]:
    """Yields the documents as `Corpus.documents` does, with their buckets.

    The hash is of the first `PIECE` characters of a document, without the white
    space around them.

    Yields:
        (buckets, is_new, texts): an int array, a bool, and a list of texts that
        end with their separators.
    """
    last_bucket = None
    for is_new, documents, separator in corpus.documents():
        contents = [
            text[: corpora.PIECE].strip().encode("utf-8", "surrogateescape")
            for text in documents
        ]
        buckets = tf.strings.to_hash_bucket_strong(
            tf.constant(contents), _NUM_BUCKETS, [seed, 0]
        ).numpy()
        buckets[[not content for content in contents]] = _BLANK
        if not is_new:
            buckets[0] = last_bucket
        last_bucket = buckets[-1]
        yield buckets, is_new, [text + separator for text in documents]
