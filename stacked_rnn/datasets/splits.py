"""Which part of a corpus trains a language model, and which one validates it.

The end of a running text validates. Documents are independent of each other,
and may be sorted: of these some validate, chosen by a hash of their text.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from stacked_rnn.datasets import corpora

_NUMBERS = 2**16  # a document has one, by its text and the seed
_BLANK = _NUMBERS  # the number of those without text, which never validate


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The characters of a corpus from `first` to before `last`."""

    first: int
    last: int

    num_documents = 0  # it is not made of documents

    @property
    def num_characters(self) -> int:
        return self.last - self.first

    def texts(self, corpus) -> Iterator[str]:
        """Its text, some of it at a time."""
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
    """The documents of a corpus that have certain numbers.

    Attributes:
        is_in: bool [numbers], which ones.
        seed: that the numbers come from.
        num_characters: of all these documents, with what ends each.
        num_documents: how many there are, those without text left out.
    """

    is_in: np.ndarray
    seed: int
    num_characters: int
    num_documents: int

    def texts(self, corpus) -> Iterator[str]:
        """Their text, some of it at a time."""
        for numbers, _, texts in _numbered(corpus, self.seed):
            yield "".join(itertools.compress(texts, self.is_in[numbers]))


def split(corpus, fraction, seed) -> dict:
    """The parts of a corpus by name: "training", and "validation" or not.

    With documents about the fraction of the text validates, and one document
    at least. Where each of them has more than a quarter of the text, its end
    validates, as of a running text. Equal documents stay together; where all
    are equal, none validates.

    Args:
        corpus: a `Corpus`.
        fraction: of its characters, for the validation.
        seed: which documents validate; of a running text it decides nothing.
    """
    if fraction and corpus.has_separator:
        parts = _split_documents(corpus, fraction, seed)
        if parts:
            return parts
    length = corpus.num_characters
    # Nothing can be learned of a single character.
    cut = max(int(length * (1 - fraction)), min(2, length))
    parts = {"training": Stretch(0, cut)}
    if cut < length:
        parts["validation"] = Stretch(cut, length)
    return parts


def _split_documents(corpus, fraction, seed) -> dict:
    """The parts; none where there are too few documents."""
    characters, documents = np.zeros((2, _BLANK + 1), np.int64)
    for numbers, begins, texts in _numbered(corpus, seed):
        np.add.at(characters, numbers, [len(text) for text in texts])
        np.add.at(documents, numbers, 1)
        documents[numbers[0]] -= not begins
    documents[_BLANK] = 0
    if documents.sum() < 2:
        return {}
    *some, last = np.flatnonzero(documents)
    validates = np.zeros(_BLANK + 1, bool)
    left = corpus.num_characters * fraction
    for number in some:
        if characters[number] <= 2 * left:
            validates[number] = True
            left -= characters[number]
    if some and not validates.any():
        smallest = min(*some, last, key=characters.__getitem__)
        if characters[smallest] > corpus.num_characters / 4:
            return {}
        validates[smallest] = True
    parts = {
        name: Documents(
            is_in,
            seed,
            int(characters[is_in].sum()),
            int(documents[is_in].sum()),
        )
        for name, is_in in (("training", ~validates), ("validation", validates))
    }
    return {name: part for name, part in parts.items() if part.num_documents}


def _numbered(corpus, seed) -> Iterator[tuple[np.ndarray, bool, list[str]]]:
    """The documents, some at a time: their numbers, and `Corpus.documents`.

    Of a document the first `PIECE` characters count, without the white space
    around them. What ends it is with its text.
    """
    before = None  # the number of a document that goes on
    for begins, documents, end in corpus.documents():
        contents = [
            text[: corpora.PIECE].strip().encode("utf-8", "surrogateescape")
            for text in documents
        ]
        numbers = tf.strings.to_hash_bucket_strong(
            tf.constant(contents), _NUMBERS, [seed, 0]
        ).numpy()
        numbers[[not content for content in contents]] = _BLANK
        if not begins:
            numbers[0] = before
        before = numbers[-1]
        yield numbers, begins, [text + end for text in documents]
