"""Text to token ids and back, in core TensorFlow string ops.

The same object cuts the corpus in training and travels inside the SavedModel,
its vocabulary a constant of the graph: no Python is needed at serving time.

A tokenizer holds its vocabulary and is immutable. `tokenize` takes a string
tensor [batch] and returns int32 token ids, a ragged tensor [batch, (time)];
`detokenize` is its inverse. Byte strings are read as UTF-8.
"""

from stacked_rnn.tokenizers.base import Tokenizer, split_documents
from stacked_rnn.tokenizers.simple import (
    ByteTokenizer,
    CharTokenizer,
    WordTokenizer,
)
from stacked_rnn.tokenizers.subword import SubwordTokenizer

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "build",
    "from_dict",
]

_KINDS = {
    kind.kind: kind
    for kind in (
        ByteTokenizer,
        CharTokenizer,
        WordTokenizer,
        SubwordTokenizer,
    )
}


def build(
    kind, texts, vocabulary_size=0, letters_only=False, document_separator=""
) -> Tokenizer:
    """The tokenizer of a training text.

    Args:
        kind: "char", "byte", "word" or "subword".
        texts: byte string, or the pieces of a long one in order; what is not a
            byte is found in here.
        vocabulary_size: most tokens of a word or subword tokenizer; 0: their
            default.
        letters_only, document_separator: see `Tokenizer`.
    """
    options = {
        "letters_only": letters_only,
        "document_separator": document_separator,
    }
    if kind == "byte":
        return ByteTokenizer(**options)
    pieces = [texts] if isinstance(texts, bytes) else texts
    batches = (split_documents(piece, document_separator) for piece in pieces)
    if kind == "char":
        return CharTokenizer.from_texts(batches, **options)
    return _KINDS[kind].from_texts(batches, vocabulary_size, **options)


def from_dict(values) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` described."""
    values = dict(values)
    return _KINDS[values.pop("kind")](**values)
