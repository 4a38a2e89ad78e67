"""Tokenizers: text to token ids and back, in core TensorFlow string ops.

The same object tokenizes the corpus in training and is part of the SavedModel,
with its vocabulary as a constant of the graph: serving needs no Python.

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

_KINDS = {
    kind.kind: kind
    for kind in (ByteTokenizer, CharTokenizer, WordTokenizer, SubwordTokenizer)
}


def build(
    kind, texts, vocabulary_size=0, letters_only=False, document_separator=""
) -> Tokenizer:
    """Builds the tokenizer of a training text.

    Args:
        kind: "char", "byte", "word" or "subword".
        texts: a byte string, or an iterable of the pieces of a long one. All
            vocabularies but that of "byte" are built from it.
        vocabulary_size: the most tokens of a word or subword tokenizer, the
            document separator not counted; 0: its default.
        letters_only, document_separator: see `Tokenizer`.

    Raises:
        UserError: the text or `vocabulary_size` does not suit the kind.
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


def widen(tokenizer, pieces, vocabulary_size=0) -> tuple[Tokenizer, list[str]]:
    """Adds the new characters or words of a training text to a vocabulary.

    The ids of the old ones stay, and the document separator is the last token
    again. Byte and subword tokenizers know every text.

    Args:
        tokenizer: a tokenizer.
        pieces: byte strings, the pieces of the text.
        vocabulary_size: see `build`.

    Returns:
        The tokenizer, and what was added.
    """
    separator = tokenizer.document_separator
    new_parts = tokenizer.new_parts(
        (split_documents(piece, separator) for piece in pieces), vocabulary_size
    )
    values = tokenizer.to_dict()
    if new_parts:
        values["vocabulary"] = [*values["vocabulary"], *new_parts]
    return from_dict(values), new_parts


def from_dict(values) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.to_dict` described."""
    values = dict(values)
    return _KINDS[values.pop("kind")](**values)
