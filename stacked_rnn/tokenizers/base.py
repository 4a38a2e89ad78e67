"""The base class of all tokenizers."""

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import unescaped


def split_documents(text, document_separator) -> list[bytes]:
    """Splits a byte string into its documents."""
    if not document_separator:
        return [text]
    return text.split(unescaped(document_separator).encode())


class Tokenizer(tf.Module):
    r"""Base class of all tokenizers.

    A subclass defines `kind`, `_num_parts`, `_start_id`, `_tokenize` and
    `_detokenize`, and `_split` unless `unknown_id` is None.

    Attributes:
        kind: its name as a value of `--tokenizer`.
        letters_only: whether text is first reduced to lower-case a-z and single
            spaces, as in D2L section 9.2.
        document_separator: the string between the documents of a text, with
            line breaks and tabs as the escapes \n, \r and \t. It becomes one
            token, the last id, which is detokenized to nothing. Empty: there is
            no such token.
        unknown_id: the id of everything outside the vocabulary; None if nothing
            can be unknown.
    """

    kind: str
    unknown_id: int | None = 0

    def __init__(self, letters_only=False, document_separator=""):
        super().__init__()
        self.letters_only = letters_only
        self.document_separator = document_separator

    def vocabulary_size(self) -> int:
        """Number of token ids: 0 to vocabulary_size() - 1."""
        return self._num_parts() + bool(self.document_separator)

    @property
    def end_id(self) -> int | None:
        """The id that ends a document; None if there is no separator."""
        return self._num_parts() if self.document_separator else None

    @property
    def start_id(self) -> int:
        """The id before the first token of a text, also an empty prompt's."""
        return self._start_id if self.end_id is None else self.end_id

    def tokenize(self, texts) -> tf.RaggedTensor:
        """Tokenizes a string tensor: [batch] -> int32 [batch, (time)]."""
        if self.end_id is None:
            return self._tokenize(self._standardize(texts))
        documents = self._documents(texts)
        token_ids = self._tokenize(self._standardize(documents.flat_values))
        ends = tf.fill([token_ids.nrows(), 1], self.end_id)
        ended = tf.concat([token_ids, ends], axis=1)
        return documents.with_values(ended).merge_dims(1, 2)[:, :-1]

    def detokenize(self, token_ids) -> tf.Tensor:
        """Joins ragged token ids to texts: int32 [batch, (time)] -> [batch]."""
        if self.end_id is not None:
            token_ids = tf.ragged.boolean_mask(
                token_ids, token_ids != self.end_id
            )
        return self._detokenize(token_ids)

    def count_unknown(self, token_ids) -> int:
        """Counts the tokens that stand for something unknown.

        Args:
            token_ids: integers, an array of any shape.
        """
        if self.unknown_id is None:
            return 0
        return int(np.count_nonzero(token_ids == self.unknown_id))

    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each token by its id, [vocabulary]."""
        token_ids = tf.range(self.vocabulary_size())[:, None]
        return self.detokenize(tf.RaggedTensor.from_tensor(token_ids)).numpy()

    def unknown_parts(self, texts) -> list[str]:
        """Returns the characters or words of texts without a token, each once.

        Args:
            texts: list of strings or byte strings.
        """
        if self.unknown_id is None:
            return []
        texts = tf.constant(texts)
        if self.document_separator:
            texts = self._documents(texts).flat_values
        is_unknown = (
            self._tokenize(self._standardize(texts)).flat_values
            == self.unknown_id
        )
        parts = self._split(self._standardize(texts)).flat_values
        unknown = tf.unique(parts[is_unknown]).y.numpy().tolist()
        return [part.decode("utf-8", "replace") for part in unknown]

    def new_parts(self, batches, vocabulary_size=0) -> list[str]:
        """Returns the characters or words of texts to add to the vocabulary.

        Args:
            batches: lists of byte strings, all texts.
            vocabulary_size: see `tokenizers.build`.

        Returns:
            The characters in ascending order; of the words, the most frequent
            ones that there is room for.
        """
        return []

    def missing_characters(self, text) -> list[str]:
        """Returns the characters of a string that are in no token, each once.

        If there are any, no generated text can contain the string. Characters
        after a document separator are ignored, since the end of the document
        ends the generated text as well.
        """
        return []

    def _missing_from(self, vocabulary, text):
        separator = unescaped(self.document_separator)
        if separator:
            text = text.partition(separator)[0]
        known = set().union(*vocabulary)
        return [char for char in dict.fromkeys(text) if char not in known]

    def _documents(self, texts):
        return tf.strings.split(texts, unescaped(self.document_separator))

    def _num_parts(self) -> int:
        """Number of token ids that have text: all but the separator's."""
        raise NotImplementedError

    @property
    def _start_id(self) -> int:
        """`start_id` of a tokenizer without a document separator."""
        raise NotImplementedError

    def _split(self, texts):
        """Splits texts into the tokens' strings: [batch] -> [batch, (time)]."""
        raise NotImplementedError

    def _standardize(self, texts):
        if self.letters_only:
            texts = tf.strings.regex_replace(texts, "[^A-Za-z]+", " ")
            texts = tf.strings.lower(texts)
        return texts

    def _tokenize(self, texts):
        """Like `tokenize`, for single documents that are standardized."""
        raise NotImplementedError

    def _detokenize(self, token_ids):
        """Like `detokenize`, for ids without the document separator's."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Returns the arguments of `from_dict`, as JSON values."""
        return {
            "kind": self.kind,
            "letters_only": self.letters_only,
            "document_separator": self.document_separator,
        }

    def to_vocabulary(self) -> dict:
        """Returns what the token ids mean, as JSON values for other programs.

        `export.runtimes` explains the entries.
        """
        return {
            "tokenizer": self.to_dict(),
            "start_id": self.start_id,
            "unknown_id": self.unknown_id,
            "end_id": self.end_id,
            "tokens": [list(token) for token in self.token_bytes()],
        }

    def __eq__(self, other):
        return (
            isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()
        )

    __hash__ = tf.Module.__hash__
