"""Tokenizers whose tokens are bytes, characters or words."""

import collections
import sys

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.tokenizers.base import Tokenizer

UNKNOWN_CHARACTER = "\ufffd"  # replaces invalid bytes in UTF-8 decoders
UNKNOWN_WORD = "<unk>"
DEFAULT_WORDS = 10_000
_MARK = b"\xff"  # separates the words of a text; never occurs in UTF-8


class ByteTokenizer(Tokenizer):
    """One token per byte: 256 tokens, lossless for any input, none unknown."""

    kind = "byte"
    unknown_id = None

    def _num_parts(self):
        return 256

    @property
    def _start_id(self):
        return ord("\n")

    def _tokenize(self, texts):
        # Joined, since a matrix of texts would be as wide as the longest.
        token_ids = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
        return tf.RaggedTensor.from_row_lengths(
            tf.cast(token_ids, tf.int32),
            tf.cast(tf.strings.length(texts), tf.int64),
        )

    def _detokenize(self, token_ids):
        table = tf.constant([bytes([byte]) for byte in range(256)])
        return tf.strings.reduce_join(tf.gather(table, token_ids), axis=-1)


class CharTokenizer(Tokenizer):
    """One token per Unicode code point of the training text.

    Token 0 is U+FFFD: it stands for every character outside the vocabulary and
    for bytes that are not UTF-8.

    Args:
        vocabulary: a string, or a sequence of characters: U+FFFD first, then at
            least one other, all different.
        **options: see `Tokenizer`.

    Raises:
        UserError: U+FFFD is not first, or a character is there twice.
    """

    kind = "char"

    def __init__(self, vocabulary, **options):
        super().__init__(**options)
        self._vocabulary = "".join(vocabulary)
        code_points = [ord(character) for character in self._vocabulary]
        known = code_points[1:]
        if self._vocabulary[:1] != UNKNOWN_CHARACTER or not known:
            raise UserError("a character vocabulary is U+FFFD and others")
        if len(set(code_points)) < len(code_points):
            raise UserError("a character vocabulary has each character once")
        self._code_points = np.array(code_points, np.int32)
        self._ascending_ids = 1 + np.argsort(known).astype(np.int32)

    @classmethod
    def from_texts(cls, batches, **options):
        """Builds the tokenizer of all characters in lists of byte strings."""
        any_vocabulary = cls(UNKNOWN_CHARACTER + "\n", **options)
        return cls(
            [UNKNOWN_CHARACTER, *any_vocabulary._characters(batches)], **options
        )

    def new_parts(self, batches, vocabulary_size=0):
        characters = self._characters(batches)
        return [char for char in characters if char not in self._vocabulary]

    def _characters(self, batches) -> list[str]:
        """Lists all characters of lists of byte strings, but for U+FFFD."""
        occurs = np.zeros(sys.maxunicode + 1, bool)
        for texts in batches:
            texts = self._standardize(tf.constant(texts)).numpy()
            text = b"\xff".join(texts).decode("utf-8", "replace")
            occurs[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
        occurs[ord(UNKNOWN_CHARACTER)] = False
        return [chr(value) for value in np.flatnonzero(occurs)]

    def _num_parts(self):
        return len(self._vocabulary)

    @property
    def _start_id(self):
        for character in "\n ":
            if character in self._vocabulary:
                return self._vocabulary.index(character)
        return 0

    def _split(self, texts):
        return tf.strings.unicode_split(texts, "UTF-8", errors="replace")

    def _decode(self, texts):
        return tf.strings.unicode_decode(texts, "UTF-8", errors="replace")

    def _tokenize(self, texts):
        code_points = tf.cast(self._decode(texts), tf.int32)
        ids = tf.constant(self._ascending_ids)
        known = tf.constant(self._code_points[self._ascending_ids])

        def look_up(values):
            position = tf.searchsorted(known, values)
            position = tf.minimum(position, len(self._code_points) - 2)
            found = tf.gather(known, position) == values
            return tf.where(found, tf.gather(ids, position), 0)

        return tf.ragged.map_flat_values(look_up, code_points)

    def _detokenize(self, token_ids):
        return tf.strings.unicode_encode(
            tf.gather(tf.constant(self._code_points), token_ids), "UTF-8"
        )

    def missing_characters(self, text):
        return self._missing_from(self._vocabulary, text)

    def to_dict(self):
        return super().to_dict() | {"vocabulary": self._vocabulary}


class WordTokenizer(Tokenizer):
    """One token per word or punctuation mark, with the space before it.

    `It has, been` is split into `It`, ` has`, `,`, ` been`: joining the tokens
    gives the text back, except for words outside the vocabulary, which become
    token 0.

    Args:
        vocabulary: sequence of different words, `<unk>` first.
        **options: see `Tokenizer`.

    Raises:
        UserError: the vocabulary does not begin with `<unk>`.
    """

    kind = "word"

    def __init__(self, vocabulary, **options):
        super().__init__(**options)
        self._vocabulary = tuple(vocabulary)
        if self._vocabulary[:1] != (UNKNOWN_WORD,):
            raise UserError(f"a word vocabulary must begin with {UNKNOWN_WORD}")
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(self._vocabulary),
                tf.range(len(self._vocabulary), dtype=tf.int64),
            ),
            default_value=0,
        )

    @classmethod
    def from_texts(cls, batches, vocabulary_size=0, **options):
        """Builds the tokenizer of the commonest words in lists of texts."""
        no_words = cls([UNKNOWN_WORD], **options)
        if vocabulary_size == 1:
            raise UserError(
                "--vocabulary_size=1: --tokenizer=word needs 2 or more, since "
                "the first token stands for unknown words"
            )
        words = no_words.new_parts(batches, vocabulary_size)
        return cls([UNKNOWN_WORD, *words], **options)

    def new_parts(self, batches, vocabulary_size=0):
        counts = collections.Counter()
        for texts in batches:
            words = self._split(self._standardize(tf.constant(texts)))
            counts.update(words.flat_values.numpy().tolist())
        for word in self._vocabulary:
            counts.pop(word.encode(), None)
        room = (vocabulary_size or DEFAULT_WORDS) - len(self._vocabulary)
        return [word.decode() for word, _ in counts.most_common(max(0, room))]

    def _num_parts(self):
        return len(self._vocabulary)

    @property
    def _start_id(self):
        return self._vocabulary.index("\n") if "\n" in self._vocabulary else 0

    def _split(self, texts):
        texts = tf.strings.unicode_transcode(  # RE2 needs valid UTF-8
            texts, "UTF-8", "UTF-8", errors="replace"
        )
        word = r" ?[\p{L}\p{M}\p{N}_']+"
        punctuation = r" ?[^\s\p{L}\p{M}\p{N}_']"
        # With a group, \1 instead of \0, this takes twelve times as long.
        marked = tf.strings.regex_replace(
            texts, rf"{word}|{punctuation}|\s", rb"\0" + _MARK
        )
        words = tf.strings.split(marked, _MARK)
        return tf.ragged.boolean_mask(words, tf.strings.length(words) > 0)

    def _tokenize(self, texts):
        return tf.cast(self._table.lookup(self._split(texts)), tf.int32)

    def _detokenize(self, token_ids):
        words = tf.gather(tf.constant(self._vocabulary), token_ids)
        return tf.strings.reduce_join(words, axis=-1)

    def missing_characters(self, text):
        return self._missing_from(self._vocabulary, text)

    def to_dict(self):
        return super().to_dict() | {"vocabulary": list(self._vocabulary)}
