"""Splitting a corpus into training and validation parts.

Of a running text, blocks from all over it are held out for validation, so that
the training part lacks no chapter; or its end. Documents are independent of
each other and may be sorted: some are held out, chosen by a hash of their text.
Equal texts stay together: white space around them makes no difference.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from stacked_rnn.datasets import corpora

_MAX_BLOCKS = 20
_BLOCK_LENGTHS = 1000, 100_000  # characters, shortest and longest
_NEAR = 400  # characters within which a block's end looks for a line break
_NUM_BUCKETS = 2**16  # documents are hashed into buckets, by text and seed
_BLANK = _NUM_BUCKETS  # the bucket of blank documents, which are never held out


@dataclasses.dataclass(frozen=True)
class Spans:
    """Stretches of a running text.

    Attributes:
        bounds: pairs (first, last) in ascending order: the characters from
            `first` up to, but not including, `last`.
    """

    bounds: tuple[tuple[int, int], ...]

    num_documents = 0  # a running text

    @property
    def num_characters(self) -> int:
        return sum(last - first for first, last in self.bounds)

    def texts(self, corpus) -> Iterator[str]:
        """Yields the text of this part, in strings of any length."""
        position = 0
        for text in corpus.texts():
            for first, last in self.bounds:
                yield text[max(0, first - position) : max(0, last - position)]
            position += len(text)
            if position >= self.bounds[-1][1]:
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


def split(corpus, fraction, seed, where="blocks") -> dict:
    """Splits a corpus into a training part and one or more validation parts.

    Of a corpus with documents, about the fraction of the text is held out, at
    least one document; equal documents stay together, and if all are equal,
    none is held out. If each document has more than a quarter of the text, or
    there are fewer than two, it is a running text.

    Of a running text, up to 20 blocks of equal length are held out, evenly
    spread, each of 1,000 to 100,000 characters and then to the end of a line or
    word. The end is held out if `where` says so, or if the text is so short
    that there would be a single block.

    Args:
        corpus: a `Corpus`.
        fraction: fraction of the characters to hold out for validation.
        seed: chooses the documents to hold out; it has no effect on a running
            text.
        where: "blocks", or "end".

    Returns:
        A dict of the parts, `Spans` or `Documents`: "training", and if anything
        is held out, "validation", or "validation-0" and so on, one per block.
    """
    if fraction and corpus.has_separator:
        parts = _split_documents(corpus, fraction, seed)
        if parts:
            return parts
    length = corpus.num_characters
    # At least two characters, an input and a target, are left for training.
    cut = max(int(length * (1 - fraction)), min(2, length))
    num_blocks = min(_MAX_BLOCKS, (length - cut) // _BLOCK_LENGTHS[0])
    if where == "blocks" and num_blocks > 1:
        return _split_blocks(corpus, (length - cut) // num_blocks, num_blocks)
    parts = {"training": Spans(((0, cut),))}
    if cut < length:
        parts["validation"] = Spans(((cut, length),))
    return parts


def first_rows(texts) -> list[int]:
    """Returns for each text the row of the first one that is equal to it.

    Texts that differ only in the white space around them are equal.
    """
    first = {}
    return [
        first.setdefault(text.strip(), row) for row, text in enumerate(texts)
    ]


def _split_blocks(corpus, block_length, num_blocks) -> dict:
    """Returns the parts, the blocks each in the middle of an equal stretch."""
    block_length = min(block_length, _BLOCK_LENGTHS[1])
    stretch = corpus.num_characters / num_blocks
    starts = [
        int((index + 0.5) * stretch - block_length / 2)
        for index in range(num_blocks)
    ]
    wanted = [cut for start in starts for cut in (start, start + block_length)]
    cuts = _at_line_ends(corpus, wanted)
    spans = (*itertools.pairwise([0, *cuts, corpus.num_characters]),)
    return {"training": Spans(spans[::2])} | {
        f"validation-{index}": Spans((block,))
        for index, block in enumerate(spans[1::2])
    }


def _at_line_ends(corpus, positions) -> list[int]:
    """Moves positions in a text to the next end of a line, or of a word."""
    found, start = [], 0
    for text in corpus.texts():
        for position in positions[len(found) :]:
            first = position - start
            if first >= len(text):
                break
            near = text[first : first + _NEAR]
            ends = (near.find("\n") + 1, near.find(" ") + 1)
            found.append(position + next(filter(None, ends), 0))
        start += len(text)
    return found


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
