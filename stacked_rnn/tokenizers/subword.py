r"""Byte-level byte pair encoding: frequent strings of bytes are tokens.

A text is cut into words, each with the space before it, and a word into bytes.
Then neighbours are merged, the pair that was learned first before all others:

    " theme"   Ġ t h e m e  ->  Ġt h e m e  ->  Ġt he m e  ->  Ġthe m e

Every byte is a token, so any text, and any file, can be written in these tokens
and comes back as it was. A text in UTF-8 gets the ids that the `tokenizers`
library gives it (`ByteLevel` with GPT-2's pattern, no space added in front),
but for words of more than 256 bytes and for letters so new that one of the two
does not know them. The library itself is needed to learn the merges only.

In the tokenizer's JSON a merge is a string, `Ġ t`: two tokens and a space
between. A byte is written as the character of that number in Latin-1 where that
can be seen, the 68 others as U+0100 and following, in their order: a space is
`Ġ`, a line break `Ċ`. GPT-2's files are written so.
"""

import itertools
import json
import re

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.tokenizers.base import Tokenizer

DEFAULT_SUBWORDS = 1024
LONGEST_WORD = 256  # bytes; the parts of a longer one are merged on their own,
_PART = 32  # since merging takes time with the square of the length
_CHUNK = 2**16  # characters that the library gets at once: it takes much memory
# Letters without a space between, such as DNA, which take the library minutes:
# it learns from so many characters of them, in parts as they are merged later.
_LONG_WORD = re.compile(
    rf"[^\W\d_]{{{LONGEST_WORD},}}|\d{{{LONGEST_WORD},}}"
    rf"|(?:[^\w\s]|_){{{LONGEST_WORD},}}"
)
_LEARNED_OF_LONG_WORDS = 2**21
_NO_RANK = 2**31
_PAIR = 2**32  # a pair of ids as one number: left * _PAIR + right

# The number of a byte -> the character that it is written as.
_spare = map(chr, itertools.count(256))
_CHARACTERS = [
    chr(byte) if chr(byte).isprintable() and byte != ord(" ") else next(_spare)
    for byte in range(256)
]

# GPT-2's pattern is '(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|
# \s+(?!\S)|\s+. RE2 has no (?!): the last of several spaces before a word is
# cut off first. And its \s knows ASCII only.
_SPACES = r"\t-\r\x{85}\p{Z}"
_LAST_SPACE = f"([{_SPACES}]+)([{_SPACES}][^{_SPACES}])"
_WORD = (
    r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+"
    rf"| ?[^{_SPACES}\p{{L}}\p{{N}}]+|[{_SPACES}]+"
)
_MARK = b"\xff"  # stands before a word; no byte of UTF-8


class SubwordTokenizer(Tokenizer):
    """One token for a byte or for a frequent string of bytes within a word."""

    kind = "subword"
    unknown_id = None

    def __init__(self, merges, **options):
        """Takes the merges, `left right` each, in the order they were learned.

        The ids are those of the library: the bytes in the order of the
        characters that they are written as, then what the merges make.
        """
        super().__init__(**options)
        self._merges = tuple(merges)
        ids = {character: i for i, character in enumerate(sorted(_CHARACTERS))}
        ranks = {-1: _NO_RANK}  # a table must not be empty
        merged_ids = []
        for rank, merge in enumerate(self._merges):
            left, _, right = merge.partition(" ")
            if left not in ids or right not in ids:
                raise UserError(
                    f"a subword merge joins two tokens, not {merge!r}"
                )
            ranks[ids[left] * _PAIR + ids[right]] = rank
            merged_ids.append(ids.setdefault(left + right, len(ids)))
        byte_of = {character: i for i, character in enumerate(_CHARACTERS)}
        self._vocabulary = tuple(
            bytes(byte_of[character] for character in token) for token in ids
        )
        self._byte_ids = np.array([ids[c] for c in _CHARACTERS], np.int32)
        self._merged_ids = np.array(merged_ids, np.int32)
        self._ranks = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant([*ranks], tf.int64),
                tf.constant([*ranks.values()], tf.int64),
            ),
            default_value=_NO_RANK,
        )

    @classmethod
    def from_texts(cls, batches, vocabulary_size=0, **options):
        """The tokenizer of the pairs that are frequent in lists of texts."""
        vocabulary_size = vocabulary_size or DEFAULT_SUBWORDS
        if vocabulary_size < 256:
            raise UserError(
                f"--vocabulary_size={vocabulary_size}: --tokenizer=subword "
                "takes 256 or more, since every byte is a token"
            )
        no_merges = cls([], **options)
        pieces = (
            # The line break keeps the words of two texts apart.
            b"\n".join(no_merges._standardize(tf.constant(texts)).numpy())
            for texts in batches
        )
        return cls(_learn_merges(pieces, vocabulary_size), **options)

    def _num_parts(self):
        return len(self._vocabulary)

    @property
    def _start_id(self):
        return int(self._byte_ids[ord("\n")])

    def _tokenize(self, texts):
        words = _words(texts)
        each_once, which = tf.unique(words.flat_values)
        token_ids = self._tokenize_words(each_once)
        return words.with_values(tf.gather(token_ids, which)).merge_dims(1, 2)

    def _tokenize_words(self, words):
        """Token ids of words, none empty: [words] -> int32 [words, (time)].

        All words lie behind each other in one vector of bytes: a long one costs
        its own length and does not make the others longer.
        """
        content = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        token_ids = tf.gather(self._byte_ids, tf.cast(content, tf.int32))
        lengths = tf.strings.length(words)
        first = tf.cumsum(lengths, exclusive=True)
        # `tf.repeat` would make a matrix [words, longest].
        is_first = tf.scatter_nd(
            first[:, None], tf.ones_like(first), tf.shape(content)
        )
        word_of = tf.cumsum(is_first) - 1
        offsets = tf.range(tf.size(content)) - tf.gather(first, word_of)
        part_lengths = tf.where(lengths > LONGEST_WORD, _PART, LONGEST_WORD)
        begins = offsets % tf.gather(part_lengths, word_of) == 0
        part_of = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        token_ids = self._merge(token_ids, part_of)
        remains = token_ids >= 0
        return tf.RaggedTensor.from_value_rowids(
            token_ids[remains],
            tf.cast(word_of[remains], tf.int64),
            nrows=tf.size(words, tf.int64),
        )

    def _merge(self, token_ids, part_of):
        """Merges the neighbours within parts until no pair is left.

        In each turn every part has one pair merged: the one that was learned
        first, the leftmost of several. It must not be more than one, since what
        arises can belong to a pair that goes before the next.

        Args:
            token_ids: int32 [bytes], of single bytes.
            part_of: int32 [bytes], ascending: the part that each belongs to.

        Returns:
            int32 [bytes]: a token's id at its first byte, -1 at the others.
        """
        num_parts = tf.reduce_max(tf.concat([part_of, [-1]], axis=0)) + 1

        def turn(token_ids, open_):
            """`open_`: where the tokens are whose part may have a pair yet."""
            count = tf.size(open_, tf.int64)
            tokens = tf.cast(tf.gather(token_ids, open_), tf.int64)
            parts = tf.gather(part_of, open_)
            pairs = tokens[:-1] * _PAIR + tokens[1:]
            ranks = tf.where(
                parts[:-1] == parts[1:], self._ranks.lookup(pairs), _NO_RANK
            )
            # Rank and place in one number: the least is the leftmost best.
            best = tf.math.unsorted_segment_min(
                ranks * count + tf.range(count - 1), parts[:-1], num_parts
            )
            has_pair = best < _NO_RANK * count
            best = best[has_pair]
            left = best % count
            merged_ids = tf.gather(self._merged_ids, best // count)
            token_ids = tf.tensor_scatter_nd_update(
                token_ids,
                tf.gather(open_, tf.concat([left, left + 1], axis=0))[:, None],
                tf.concat([merged_ids, -tf.ones_like(merged_ids)], axis=0),
            )
            stays = tf.gather(token_ids, open_) >= 0
            stays &= tf.gather(has_pair, parts)
            return token_ids, open_[stays]

        token_ids, _ = tf.while_loop(
            lambda _, open_: tf.size(open_) > 0,
            turn,
            (token_ids, tf.range(tf.size(token_ids))),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None])),
        )
        return token_ids

    def _detokenize(self, token_ids):
        parts = tf.gather(tf.constant(self._vocabulary), token_ids)
        return tf.strings.reduce_join(parts, axis=-1)

    def to_dict(self):
        return super().to_dict() | {"merges": list(self._merges)}


def _words(texts):
    """Cuts texts where the library does: string [batch] -> [batch, (words)].

    A text in which `_MARK` occurs is no UTF-8, and is cut into its bytes.
    """
    has_mark = tf.strings.split(texts, _MARK).row_lengths() > 1
    marked = tf.where(has_mark, "", texts)
    marked = tf.strings.regex_replace(
        marked, _LAST_SPACE, rb"\1" + _MARK + rb"\2"
    )
    marked = tf.strings.regex_replace(marked, _WORD, _MARK + rb"\0")
    words = tf.concat(
        [
            tf.strings.split(marked, _MARK),
            tf.strings.bytes_split(tf.where(has_mark, texts, "")),
        ],
        axis=1,
    )
    return tf.ragged.boolean_mask(words, tf.strings.length(words) > 0)


def _learn_merges(pieces, vocabulary_size):
    """The merges that the library learns from byte strings, as strings."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"--tokenizer=subword: {error.name} is missing: "
            "pip install --editable '.[subword]'"
        ) from error
    texts = _with_words_cut(
        piece.decode("utf-8", "replace") for piece in pieces
    )
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    by_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.pre_tokenizer = by_bytes
    learner.train_from_iterator(
        # A word that is cut in two here does not change what is frequent.
        (
            text[i : i + _CHUNK]
            for text in texts
            for i in range(0, len(text), _CHUNK)
        ),
        tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            initial_alphabet=by_bytes.alphabet(),
            show_progress=False,
        ),
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges]


def _with_words_cut(texts):
    """The texts, line breaks within long words, and of those not all."""
    left = _LEARNED_OF_LONG_WORDS

    def cut(match):
        nonlocal left
        word = match[0][:left]
        left -= len(word)
        return "\n".join(
            word[i : i + _PART] for i in range(0, len(word), _PART)
        )

    for text in texts:
        yield _LONG_WORD.sub(cut, text)
