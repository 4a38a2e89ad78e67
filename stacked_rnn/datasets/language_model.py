"""The data of a language model: a corpus, tokenized, split and windowed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError, unescaped
from stacked_rnn.datasets import corpora, splits, token_cache
from stacked_rnn.datasets.batches import warn_of_no_validation
from stacked_rnn.datasets.windows import (
    Blocks,
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)
from stacked_rnn.utils import terminal

_SHORTEST_BLOCK = 16  # tokens
_FEW_TOKENS = 100  # of fewer, the mean loss is off by 0.1 nats or more


@dataclasses.dataclass(frozen=True)
class LanguageData:
    """The training and validation sets of a language model.

    Attributes:
        tokenizer: built from the training part of the text alone, or taken from
            a trained model and perhaps widened.
        training, validation: `Windows`; validation may be None.
        unknown_parts: the characters or words of the text that are not in the
            vocabulary of a trained model, each once.
        digest: a hash of the text.
        unknown_share: fraction of the tokens that are unknown, in the part in
            which it is larger.
        has_separator: whether the document separator occurs in the text; True
            if there is no separator.
        held_out: what is held out for validation, "blocks" or "the end" of the
            text, or "documents".
        notes: lines for the user, on new tokens, a short text or the split of
            documents.
        vocabulary_limit: see `vocabulary_size` in `ModelConfig`.
    """

    tokenizer: tokenizers.Tokenizer
    training: Windows
    validation: Windows | None
    unknown_parts: Sequence[str] = ()
    digest: str = ""
    unknown_share: float = 0.0
    has_separator: bool = True
    held_out: str = "the end"
    notes: Sequence[str] = ()
    vocabulary_limit: int = 0


def open_corpus(config, tokenizer=None) -> corpora.Corpus:
    """Reads and checks the files of a `TrainConfig` once.

    Args:
        config, tokenizer: see `load_language_data`.

    Raises:
        UserError: the corpus cannot be read.
    """
    return corpora.Corpus(
        config.corpus,
        binary=config.tokenizer == "byte",
        skip_bad_files=config.skip_bad_files,
        document_separator=unescaped(_separator(config, tokenizer)),
        keep_line_ends=tokenizer is not None and _has_returns(tokenizer),
    )


def load_language_data(
    config, vocabulary_size=0, tokenizer=None, corpus=None, widen=False
) -> LanguageData:
    """Splits, tokenizes and cuts the corpus of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
        tokenizer: the tokenizer of a trained model, of the kind that `config`
            names; None: it is built from the text.
        corpus: what `open_corpus` returned for it; None: it is opened.
        widen: whether the new characters or words of the training part join
            the vocabulary of the trained model.

    Raises:
        UserError: the corpus cannot be read, or is too short.
    """
    corpus = corpus or open_corpus(config, tokenizer)
    separator = _separator(config, tokenizer)
    settings = {
        "kind": config.tokenizer,
        "vocabulary_size": vocabulary_size,
        "letters_only": config.letters_only,
        "document_separator": separator,
    }
    split = (
        # D2L's windows overlap: they are split later, as tokens.
        0.0 if config.train_windows else config.validation_fraction,
        config.seed,
        config.validation,
    )
    new_parts = []
    if widen and tokenizer.unknown_id is not None:
        tokenizer, new_parts = tokenizers.widen(
            tokenizer,
            token_cache.vocabulary_pieces(
                corpus, splits.split(corpus, *split)["training"]
            ),
            vocabulary_size,
        )
    tokenized = token_cache.tokenize_corpus(
        corpus,
        split,
        tokenizer,
        lambda pieces: tokenizers.build(texts=pieces, **settings),
        settings,
        config.cache_dir,
    )
    if config.train_windows:
        windows = _cut_sliding_windows(
            config, tokenized.token_ids["training"], tokenized.tokenizer
        )
    else:
        windows = _cut_windows(config, tokenized)
    training, validation = windows
    return LanguageData(
        tokenized.tokenizer,
        dataclasses.replace(training, half_windows=config.half_windows),
        validation,
        tokenized.unknown_parts,
        corpus.digest,
        max(
            tokenized.num_unknown[name] / max(1, len(part))
            for name, part in tokenized.token_ids.items()
        ),
        corpus.has_separator or tokenized.tokenizer.end_id is None,
        _what_is_held_out(tokenized),
        [*_notes(config, corpus, tokenized, new_parts, *windows)],
        vocabulary_size,
    )


def read_text(source, tokenizer, flag="text", whole=True) -> bytes:
    """Reads a text to score with a language model, as its training read it.

    Args:
        source: see `Corpus`.
        tokenizer: the tokenizer of the model.
        flag: the flag that errors name.
        whole: whether to return all of it; False: a piece of a million
            characters from its beginning is enough.

    Raises:
        UserError: naming the file that is missing, empty or not text.
    """
    corpus = corpora.Corpus(
        source,
        binary=tokenizer.kind == "byte",
        document_separator=unescaped(tokenizer.document_separator),
        flag=flag,
        keep_line_ends=_has_returns(tokenizer),
    )
    return b"".join(corpus.pieces()) if whole else next(corpus.pieces())


def _separator(config, tokenizer) -> str:
    """Returns the document separator of a text, with escapes."""
    separator = (tokenizer or config).document_separator
    if tokenizer or config.tokenizer == "byte":
        return separator
    return _with_line_breaks(separator)


def _with_line_breaks(separator) -> str:
    r"""Replaces \r\n and \r in a separator by \n, as in the text itself."""
    if "\r" not in unescaped(separator):
        return separator
    separator = unescaped(separator).replace("\r\n", "\n").replace("\r", "\n")
    return separator.replace("\\", r"\\")


def _has_returns(tokenizer) -> bool:
    r"""Returns whether a vocabulary has \r, as in versions that kept \r\n."""
    return tokenizer.kind in ("char", "word") and not (
        tokenizer.missing_characters("\r")
    )


def _what_is_held_out(tokenized) -> str:
    if tokenized.num_documents["training"]:
        return "documents"
    return "blocks" if len(tokenized.token_ids) > 2 else "the end"


def _cut_windows(config, tokenized):
    """Returns the `Windows` for training, and for validation or None."""
    names = [name for name in tokenized.token_ids if name != "training"]
    training, *blocks = (
        tokenized.token_ids[name] for name in ("training", *names)
    )
    num_held_out = sum(map(len, blocks))
    characters = sum(tokenized.num_characters[name] for name in names)
    if len(training) < 2:
        raise UserError(_why_too_short(config, len(training), num_held_out))
    windows_class = Streams if config.carry_state else RandomWindows
    windows = windows_class(
        training,
        min(config.sequence_length, len(training) - 1),
        config.batch_size,
        config.seed,
        tokenized.num_characters["training"],
    )
    if num_held_out < 2:
        if config.validation_fraction:
            warn_of_no_validation(
                config,
                "all documents are equal"
                if tokenized.num_documents["training"] and not num_held_out
                else f"of {len(training) + num_held_out:,} tokens, "
                f"{num_held_out} are held out, and 2 are needed",
            )
        return windows, None
    if len(blocks) > 1 and min(map(len, blocks)) >= _SHORTEST_BLOCK:
        return windows, Blocks.of(blocks, config.sequence_length, characters)
    validation = blocks[0]
    if len(blocks) > 1:
        validation = np.concatenate([block[:] for block in blocks])
    length = min(config.sequence_length, num_held_out - 1)
    # Few streams, so that their initial zero states hardly matter.
    num_streams = num_held_out // (8 * length)
    return windows, Streams(
        validation,
        length,
        max(1, min(config.batch_size, num_streams)),
        characters=characters,
    )


def _why_too_short(config, num_tokens, num_held_out) -> str:
    """Returns the error for a training part of fewer than two tokens."""
    advice = "give more text"
    if num_tokens + num_held_out > 1:
        advice += ", or --validation_fraction=0"
    cause = (
        "--letters_only leaves next to nothing of this text: "
        if config.letters_only
        else ""
    )
    return (
        f"--corpus={config.corpus}: {cause}it has {num_tokens} "
        f"--tokenizer={config.tokenizer} token(s) to train on, and 2 are "
        f"needed: {advice}"
    )


def _notes(config, corpus, tokenized, new_parts, training, validation):
    """Yields lines for the user on new tokens, and how the text was cut."""
    if new_parts:
        noun = "word" if tokenized.tokenizer.kind == "word" else "character"
        joins = f"{noun} joins" if len(new_parts) == 1 else f"{noun}s join"
        yield (
            f"note: {len(new_parts):,} new {joins} the vocabulary of "
            f"{config.init_from}: {terminal.first_of(new_parts)}"
        )
    documents = tokenized.num_documents
    if validation and documents["training"]:
        share = tokenized.num_characters["validation"] / corpus.num_characters
        yield (
            f"note: {documents['validation']:,} of "
            f"{sum(documents.values()):,} documents are held out for "
            f"validation, {share:.1%} of the text; --seed chooses them"
        )
    elif validation and corpus.has_separator and not config.train_windows:
        yield (
            "note: the text has fewer than two documents, or each is more than "
            "a quarter of it: parts of documents are held out for validation"
        )
    short = []
    if training.sequence_length < config.sequence_length:
        short.append(
            f"windows of {training.sequence_length:,} token(s) (not "
            f"{config.sequence_length:,})"
        )
    if config.carry_state and training.num_streams < config.batch_size:
        short.append(
            f"{training.num_streams:,} stream(s) (not {config.batch_size:,})"
        )
    if validation and validation.num_tokens < _FEW_TOKENS:
        short.append(
            f"{validation.num_tokens:,} tokens held out, too few to rely on"
        )
    if short:
        yield f"warning: the text is short: {', '.join(short)}"


def _cut_sliding_windows(config, token_ids, tokenizer):
    """Returns the first windows of a text for training, the next to validate.

    This is the split of D2L section 9.3; the second may be None.
    """
    num_windows = config.train_windows + config.validation_windows
    length = min(config.sequence_length, len(token_ids) - num_windows)
    if length < 1:
        raise UserError(
            f"--train_windows={config.train_windows} and --validation_windows="
            f"{config.validation_windows} need {num_windows + 1:,} tokens or "
            f"more, but the text has {len(token_ids):,}: use fewer windows, or "
            "give more text"
        )

    def cut(first, count):
        part = token_ids[first : first + count + length]
        row = tf.constant(np.asarray(part, np.int32)[None])
        (text,) = tokenizer.detokenize(tf.RaggedTensor.from_tensor(row))
        return SlidingWindows(
            part,
            length,
            config.batch_size,
            config.seed,
            len(text.numpy().decode("utf-8", "replace")),
        )

    training = cut(0, config.train_windows)
    if not config.validation_windows:
        return training, None
    return training, cut(config.train_windows, config.validation_windows)
