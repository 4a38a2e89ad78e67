r"""Byte-level byte pair encoding: frequent byte sequences are tokens.

A text is split into words, each with the space before it, and a word into
bytes. Then neighbouring tokens are merged repeatedly, always the pair whose
merge was learned first:

    " theme"   Ġ t h e m e  ->  Ġt h e m e  ->  Ġt he m e  ->  Ġthe m e

Every byte is a token, so any text or file can be tokenized without loss. UTF-8
text gets the same ids as from the `tokenizers` library (`ByteLevel` with
GPT-2's pattern, no space added in front), except for words of more than 256
bytes, and for letters of Unicode versions that one of the two does not know.
The library is needed only to learn the merges.

In the tokenizer's JSON a merge is a string, `Ġ t`: two tokens with a space
between. As in GPT-2's files, a printable byte is written as its Latin-1
character, and the 68 others as U+0100 and the following, in order: a space is
`Ġ`, a line break `Ċ`.

Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words
with Subword Units", 2016; for bytes: Radford et al., "Language Models are
Unsupervised Multitask Learners", 2019.
"""

import itertools
import json
import re

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.tokenizers.base import Tokenizer

DEFAULT_SUBWORDS = 1024
# The time of merging grows with the square of a word's length: longer words are
# split into parts, which are merged separately.
LONGEST_WORD = 256  # bytes
_PART = 32  # bytes
_CHUNK = 2**16  # characters passed to the library at once, to save memory
# Letters without spaces, such as DNA, take the library minutes: it learns from
# a limited number of their characters, split into parts as above.
_LONG_WORD = re.compile(
    rf"[^\W\d_]{{{LONGEST_WORD},}}|\d{{{LONGEST_WORD},}}"
    rf"|(?:[^\w\s]|_){{{LONGEST_WORD},}}"
)
_MAX_LONG_WORD_CHARACTERS = 2**21
_NO_RANK = 2**31
_PAIR = 2**32  # a pair of ids is one integer: left * _PAIR + right

# The character that represents each byte.
_spare = map(chr, itertools.count(256))
_CHARACTERS = [
    chr(byte) if chr(byte).isprintable() and byte != ord(" ") else next(_spare)
    for byte in range(256)
]

# GPT-2's pattern is '(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|
# \s+(?!\S)|\s+. RE2 lacks (?!), so the last of several spaces before a word is
# split off first, and its \s matches ASCII only.
_SPACES = r"\t-\r\x{85}\p{Z}"
_LAST_SPACE = f"([{_SPACES}]+)([{_SPACES}][^{_SPACES}])"
_WORD = (
    r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+"
    rf"| ?[^{_SPACES}\p{{L}}\p{{N}}]+|[{_SPACES}]+"
)
_MARK = b"\xff"  # precedes a word; never occurs in UTF-8


class SubwordTokenizer(Tokenizer):
    """One token per byte or frequent sequence of bytes within a word.

    The ids are those of the `tokenizers` library: first the bytes, in the order
    of the characters that represent them, then the results of the merges.

    Args:
        merges: strings `left right`, in the order they were learned.
        **options: see `Tokenizer`.

    Raises:
        UserError: a merge has a part that is not a token.
    """

    kind = "subword"
    unknown_id = None

    def __init__(self, merges, **options):
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
        """Learns the merges from lists of byte strings."""
        vocabulary_size = vocabulary_size or DEFAULT_SUBWORDS
        if vocabulary_size < 256:
            raise UserError(
                f"--vocabulary_size={vocabulary_size}: --tokenizer=subword "
                "needs 256 or more, since every byte is a token"
            )
        no_merges = cls([], **options)
        pieces = (
            # The line break separates the words of two texts.
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
        unique_words, index = tf.unique(words.flat_values)
        token_ids = self._tokenize_words(unique_words)
        return words.with_values(tf.gather(token_ids, index)).merge_dims(1, 2)

    def _tokenize_words(self, words):
        """Tokenizes words, none empty: [words] -> int32 [words, (time)].

        The words are concatenated into one vector of bytes, so that a long word
        does not cause padding of the others.
        """
        content = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        token_ids = tf.gather(self._byte_ids, tf.cast(content, tf.int32))
        lengths = tf.strings.length(words)
        first = tf.cumsum(lengths, exclusive=True)
        # `tf.repeat` would allocate a matrix [words, longest].
        is_first = tf.scatter_nd(
            first[:, None], tf.ones_like(first), tf.shape(content)
        )
        word_of = tf.cumsum(is_first) - 1
        offsets = tf.range(tf.size(content)) - tf.gather(first, word_of)
        part_lengths = tf.where(lengths > LONGEST_WORD, _PART, LONGEST_WORD)
        begins_part = offsets % tf.gather(part_lengths, word_of) == 0
        part_of = tf.cumsum(tf.cast(begins_part, tf.int32)) - 1
        token_ids = self._merge(token_ids, part_of)
        is_token = token_ids >= 0
        return tf.RaggedTensor.from_value_rowids(
            token_ids[is_token],
            tf.cast(word_of[is_token], tf.int64),
            nrows=tf.size(words, tf.int64),
        )

    def _merge(self, token_ids, part_of):
        """Merges neighbouring tokens within parts until no pair has a merge.

        Each iteration merges one pair per part: the one that was learned first,
        the leftmost of equal ones. No more, since the result can be part of a
        pair that comes before the next one.

        Args:
            token_ids: int32 [bytes], the ids of single bytes.
            part_of: int32 [bytes], ascending: the part of each byte.

        Returns:
            int32 [bytes]: a token's id at its first byte, -1 at the others.
        """
        num_parts = tf.reduce_max(tf.concat([part_of, [-1]], axis=0)) + 1

        def merge_once(token_ids, active):
            """`active`: positions of tokens that may still be merged."""
            count = tf.size(active, tf.int64)
            tokens = tf.cast(tf.gather(token_ids, active), tf.int64)
            parts = tf.gather(part_of, active)
            pairs = tokens[:-1] * _PAIR + tokens[1:]
            ranks = tf.where(
                parts[:-1] == parts[1:], self._ranks.lookup(pairs), _NO_RANK
            )
            # Rank and position in one integer: the leftmost best is the least.
            best = tf.math.unsorted_segment_min(
                ranks * count + tf.range(count - 1), parts[:-1], num_parts
            )
            has_merge = best < _NO_RANK * count
            best = best[has_merge]
            left = best % count
            merged_ids = tf.gather(self._merged_ids, best // count)
            token_ids = tf.tensor_scatter_nd_update(
                token_ids,
                tf.gather(active, tf.concat([left, left + 1], axis=0))[:, None],
                tf.concat([merged_ids, -tf.ones_like(merged_ids)], axis=0),
            )
            is_active = tf.gather(token_ids, active) >= 0
            is_active &= tf.gather(has_merge, parts)
            return token_ids, active[is_active]

        token_ids, _ = tf.while_loop(
            lambda _, active: tf.size(active) > 0,
            merge_once,
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
    """Splits texts as the library does: string [batch] -> [batch, (words)].

    A text that contains `_MARK` is not UTF-8, and is split into its bytes.
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
    """Learns merges from byte strings with the library; returns strings."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"--tokenizer=subword: {error.name} is missing: "
            "pip install --editable '.[subword]'"
        ) from error
    texts = _split_long_words(
        piece.decode("utf-8", "replace") for piece in pieces
    )
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    by_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.pre_tokenizer = by_bytes
    learner.train_from_iterator(
        # A chunk may split a word, which hardly changes the frequencies.
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


def _split_long_words(texts):
    """Yields texts with line breaks in long words, and without later ones."""
    left = _MAX_LONG_WORD_CHARACTERS

    def split(match):
        nonlocal left
        word = match[0][:left]
        left -= len(word)
        return "\n".join(
            word[i : i + _PART] for i in range(0, len(word), _PART)
        )

    for text in texts:
        yield _LONG_WORD.sub(split, text)
