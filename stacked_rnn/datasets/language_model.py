"""What a language model learns from: a corpus, tokenized and cut."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError, unescaped
from stacked_rnn.datasets import corpora, token_cache
from stacked_rnn.datasets.batches import warn_of_no_validation
from stacked_rnn.datasets.windows import (
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)

_FEW = 100  # tokens; of fewer the mean loss is off by a tenth of a nat and more


@dataclasses.dataclass(frozen=True)
class LanguageData:
    """What a language model learns from.

    Attributes:
        tokenizer: built from the training part of the text alone, or that of a
            trained model.
        training, validation: `Windows`; validation may be None.
        unknown_parts: the characters or words of the text that the vocabulary
            of a trained model lacks, each once.
        digest: of the text; equal texts have the same.
        unknown_share: of the tokens of a part, those that stand for something
            unknown; of the part where they are more.
        has_separator: whether the separator of documents is in the text, where
            there is one.
        held_out: what validates, "the end" of the text or "documents".
        notes: lines on how the text was split and cut, where it is short or has
            documents.
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


def load_language_data(
    config, vocabulary_size=0, tokenizer=None
) -> LanguageData:
    """Reads, splits, tokenizes and cuts the corpus of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
        tokenizer: that of a trained model, of the kind that `config` names;
            None: built from the text.
    """
    separator = (tokenizer or config).document_separator
    if not tokenizer and config.tokenizer != "byte":
        separator = _with_line_breaks(separator)
    corpus = corpora.Corpus(
        config.corpus,
        binary=config.tokenizer == "byte",
        skip_bad_files=config.skip_bad_files,
        document_separator=unescaped(separator),
        keep_line_ends=tokenizer is not None and _knows_returns(tokenizer),
    )
    settings = {
        "kind": config.tokenizer,
        "vocabulary_size": vocabulary_size,
        "letters_only": config.letters_only,
        "document_separator": separator,
    }
    tokenized = token_cache.tokenize_corpus(
        corpus,
        # The windows of the book overlap, and are split as tokens.
        0.0 if config.train_windows else config.validation_fraction,
        config.seed,
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
    return LanguageData(
        tokenized.tokenizer,
        *windows,
        tokenized.unknown_parts,
        corpus.digest,
        max(
            tokenized.num_unknown[name] / max(1, len(part))
            for name, part in tokenized.token_ids.items()
        ),
        corpus.has_separator or tokenized.tokenizer.end_id is None,
        "documents" if tokenized.num_documents["training"] else "the end",
        [*_notes(config, corpus, tokenized, *windows)],
    )


def read_text(source, tokenizer, flag="text") -> bytes:
    """The text that a language model is to score, as its training reads it.

    Args:
        source: what `Corpus` takes.
        tokenizer: of the model.
        flag: what an error calls the source.
    """
    corpus = corpora.Corpus(
        source,
        binary=tokenizer.kind == "byte",
        document_separator=unescaped(tokenizer.document_separator),
        flag=flag,
        keep_line_ends=_knows_returns(tokenizer),
    )
    return b"".join(corpus.pieces())


def _with_line_breaks(separator) -> str:
    r"""A separator as it stands in a text whose lines end in \n alone."""
    if "\r" not in unescaped(separator):
        return separator
    separator = unescaped(separator).replace("\r\n", "\n").replace("\r", "\n")
    return separator.replace("\\", r"\\")


def _knows_returns(tokenizer) -> bool:
    r"""Whether a vocabulary has \r, as once those of texts with \r\n had."""
    return tokenizer.kind in ("char", "word") and not (
        tokenizer.missing_characters("\r")
    )


def _cut_windows(config, tokenized):
    """The `Windows` for training and for validation."""
    token_ids = tokenized.token_ids
    training, validation = token_ids["training"], token_ids.get("validation")
    num_held_out = 0 if validation is None else len(validation)
    if len(training) < 2:
        raise UserError(_why_too_short(config, len(training), num_held_out))
    kind = Streams if config.carry_state else RandomWindows
    windows = kind(
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
                "all documents are the same"
                if tokenized.num_documents["training"] and not num_held_out
                else f"of {len(training) + num_held_out:,} tokens "
                f"{num_held_out} are held out, and 2 are needed",
            )
        return windows, None
    length = min(config.sequence_length, num_held_out - 1)
    # Few enough streams that their cold starts hardly count.
    num_streams = num_held_out // (8 * length)
    return windows, Streams(
        validation,
        length,
        max(1, min(config.batch_size, num_streams)),
        characters=tokenized.num_characters["validation"],
    )


def _why_too_short(config, num_tokens, num_held_out) -> str:
    """Why there is nothing to train on, and what would do."""
    ways = "give more text"
    if num_tokens + num_held_out > 1:
        ways += ", or --validation_fraction=0"
    nothing_left = (
        "--letters_only leaves next to nothing of this text: "
        if config.letters_only
        else ""
    )
    return (
        f"--corpus={config.corpus}: {nothing_left}it has {num_tokens} "
        f"--tokenizer={config.tokenizer} token(s) to train on, and 2 are "
        f"needed: {ways}"
    )


def _notes(config, corpus, tokenized, training, validation):
    """Yields lines on how a text was split and cut."""
    documents = tokenized.num_documents
    if validation and documents["training"]:
        share = tokenized.num_characters["validation"] / corpus.num_characters
        yield (
            f"note: {documents['validation']:,} of "
            f"{sum(documents.values()):,} documents validate, {share:.1%} of "
            "the text; --seed chooses them"
        )
    elif validation and corpus.has_separator and not config.train_windows:
        yield (
            "note: the end of the text validates: it has less than two "
            "documents, or each is more than a quarter of it"
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
    if validation and validation.num_tokens < _FEW:
        short.append(
            f"{validation.num_tokens:,} tokens held out, too few to say much"
        )
    if short:
        yield f"warning: the text is short: {', '.join(short)}"


def _cut_sliding_windows(config, token_ids, tokenizer):
    """The split of D2L section 9.3: the first windows, and the next ones."""
    windows = config.train_windows + config.validation_windows
    length = min(config.sequence_length, len(token_ids) - windows)
    if length < 1:
        raise UserError(
            f"--train_windows={config.train_windows} and --validation_windows="
            f"{config.validation_windows} take {windows + 1:,} tokens or more, "
            f"and the text has {len(token_ids):,}: ask for fewer windows, or "
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
