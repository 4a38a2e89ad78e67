"""The contract of the tokenizers."""

import tensorflow as tf


class Tokenizer(tf.Module):
    """The contract.

    Attributes:
        kind: the name that `--tokenizer` knows it by.
        letters_only: reduce text to lower-case a-z and single spaces first,
            as D2L section 9.2 does.
        unknown_id: the id that stands for what the vocabulary lacks; None
            where nothing can be unknown.
    """

    kind: str
    unknown_id: int | None = 0

    def __init__(self, letters_only=False):
        super().__init__()
        self.letters_only = letters_only

    def vocabulary_size(self) -> int:
        """Number of token ids: 0 to vocabulary_size() - 1."""
        raise NotImplementedError

    @property
    def start_id(self) -> int:
        """The id that stands before a text: what an empty prompt becomes."""
        raise NotImplementedError

    def tokenize(self, texts) -> tf.RaggedTensor:
        """Token ids of a string tensor: [batch] -> int32 [batch, (time)]."""
        return self._tokenize(self._standardize(texts))

    def detokenize(self, token_ids) -> tf.Tensor:
        """Texts of ragged token ids: int32 [batch, (time)] -> [batch]."""
        raise NotImplementedError

    def unknown_parts(self, texts) -> list[str]:
        """The characters or words of texts that have no token, each once."""
        if self.unknown_id is None:
            return []
        texts = tf.constant(texts)
        is_unknown = self.tokenize(texts).flat_values == self.unknown_id
        parts = self._split(self._standardize(texts)).flat_values
        unknown = tf.unique(parts[is_unknown]).y.numpy().tolist()
        return [part.decode("utf-8", "replace") for part in unknown]

    def _split(self, texts):
        """The parts that tokens stand for: [batch] -> [batch, (parts)]."""
        raise NotImplementedError

    def _standardize(self, texts):
        if self.letters_only:
            texts = tf.strings.regex_replace(texts, "[^A-Za-z]+", " ")
            texts = tf.strings.lower(texts)
        return texts

    def _tokenize(self, texts):
        """`tokenize`, after the standardization."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """All that `from_dict` needs, as JSON values."""
        return {"kind": self.kind, "letters_only": self.letters_only}

    def __eq__(self, other):
        return (
            isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()
        )

    __hash__ = tf.Module.__hash__
