"""The contract of the tokenizers."""

import tensorflow as tf

from stacked_rnn.configs import unescaped


def split_documents(text, document_separator) -> list[bytes]:
    """The documents of a byte string."""
    if not document_separator:
        return [text]
    return text.split(unescaped(document_separator).encode())


class Tokenizer(tf.Module):
    r"""The contract.

    Attributes:
        kind: the name that `--tokenizer` knows it by.
        letters_only: reduce text to lower-case a-z and single spaces first,
            as D2L section 9.2 does.
        document_separator: what stands between the documents of a text, with
            \n, \t and \r written so; it becomes one token, the last id, which
            has no text of its own. Empty: there is no such token.
        unknown_id: the id that stands for what the vocabulary lacks; None
            where nothing can be unknown.
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
        """The id that ends a document; None without a separator."""
        return self._num_parts() if self.document_separator else None

    @property
    def start_id(self) -> int:
        """The id that stands before a text: what an empty prompt becomes."""
        return self._start_id if self.end_id is None else self.end_id

    def tokenize(self, texts) -> tf.RaggedTensor:
        """Token ids of a string tensor: [batch] -> int32 [batch, (time)]."""
        if self.end_id is None:
            return self._tokenize(self._standardize(texts))
        documents = self._documents(texts)
        token_ids = self._tokenize(self._standardize(documents.flat_values))
        ends = tf.fill([token_ids.nrows(), 1], self.end_id)
        ended = tf.concat([token_ids, ends], axis=1)
        return documents.with_values(ended).merge_dims(1, 2)[:, :-1]

    def detokenize(self, token_ids) -> tf.Tensor:
        """Texts of ragged token ids: int32 [batch, (time)] -> [batch]."""
        if self.end_id is not None:
            token_ids = tf.ragged.boolean_mask(
                token_ids, token_ids != self.end_id
            )
        return self._detokenize(token_ids)

    def unknown_parts(self, texts) -> list[str]:
        """The characters or words of texts that have no token, each once."""
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

    def missing_characters(self, text) -> list[str]:
        """The characters of a string that no token has, each once.

        Where there is one, no generated text can hold the string. (What comes
        after a document's end is none: a string that begins with the separator
        ends a text just as well.)
        """
        return []

    def _missing_from(self, vocabulary, text):
        separator = unescaped(self.document_separator)
        if separator:
            text = text.partition(separator)[0]
        known = set().union(*vocabulary)
        return [one for one in dict.fromkeys(text) if one not in known]

    def _documents(self, texts):
        return tf.strings.split(texts, unescaped(self.document_separator))

    def _num_parts(self) -> int:
        """Number of token ids that stand for parts of a text: the first."""
        raise NotImplementedError

    @property
    def _start_id(self) -> int:
        """`start_id` where no token ends a document."""
        raise NotImplementedError

    def _split(self, texts):
        """The parts that tokens stand for: [batch] -> [batch, (parts)]."""
        raise NotImplementedError

    def _standardize(self, texts):
        if self.letters_only:
            texts = tf.strings.regex_replace(texts, "[^A-Za-z]+", " ")
            texts = tf.strings.lower(texts)
        return texts

    def _tokenize(self, texts):
        """`tokenize`, after the standardization, of single documents."""
        raise NotImplementedError

    def _detokenize(self, token_ids):
        """`detokenize`, of parts of a text alone."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """All that `from_dict` needs, as JSON values."""
        return {
            "kind": self.kind,
            "letters_only": self.letters_only,
            "document_separator": self.document_separator,
        }

    def __eq__(self, other):
        return (
            isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()
        )

    __hash__ = tf.Module.__hash__
