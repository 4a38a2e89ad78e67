"""What a language model learns from: a corpus, tokenized and cut."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError, unescaped
from stacked_rnn.datasets import corpora, tokens
from stacked_rnn.datasets.windows import (
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)


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
    """

    tokenizer: tokenizers.Tokenizer
    training: Windows
    validation: Windows | None
    unknown_parts: Sequence[str] = ()
    digest: str = ""
    unknown_share: float = 0.0
    has_separator: bool = True


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
    splits = _splits(config, corpus.num_characters)
    tokenized = tokens.tokenize_corpus(
        corpus,
        splits,
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
        windows = _cut_windows(config, tokenized.token_ids, splits)
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


def _splits(config, num_characters) -> dict:
    """(first, last) character of each part of the text.

    The end of the text validates; the windows of the book overlap, and are
    split as tokens.
    """
    if config.train_windows:
        return {"training": (0, num_characters)}
    cut = int(num_characters * (1 - config.validation_fraction))
    if not cut:
        raise UserError(
            f"--validation_fraction={config.validation_fraction}: of "
            f"{num_characters:,} characters in --corpus={config.corpus} none "
            "is left to train on: give more text"
        )
    splits = {"training": (0, cut), "validation": (cut, num_characters)}
    return {
        name: split for name, split in splits.items() if split[0] < split[1]
    }


def _cut_windows(config, token_ids, splits):
    """The `Windows` for training and for validation."""
    _check_lengths(config, token_ids)
    kind = Streams if config.carry_state else RandomWindows
    training = kind(
        token_ids["training"],
        config.sequence_length,
        config.batch_size,
        config.seed,
        _length(splits["training"]),
    )
    if "validation" not in token_ids:
        return training, None
    # Few enough streams that their cold starts hardly count.
    num_streams = len(token_ids["validation"]) // (8 * config.sequence_length)
    validation = Streams(
        token_ids["validation"],
        config.sequence_length,
        max(1, min(config.batch_size, num_streams)),
        characters=_length(splits["validation"]),
    )
    return training, validation


def _check_lengths(config, token_ids) -> None:
    """Refuses texts that are shorter than a window, with what would do."""
    lengths = [len(part) for part in token_ids.values()]
    window = config.sequence_length + 1
    if min(lengths) >= window:
        return
    ways = ["give more text"]
    if min(lengths) > 1:
        ways.append(f"--sequence_length={min(lengths) - 1} or less")
    if len(lengths) > 1 and lengths[0] >= window:
        ways.append("--validation_fraction=0")
    held_out = f" and {lengths[1]:,} to validate on" if len(lengths) > 1 else ""
    nothing_left = (
        "--letters_only leaves next to nothing of this text: "
        if config.letters_only and max(lengths) < 3
        else ""
    )
    raise UserError(
        f"--sequence_length={config.sequence_length}: {nothing_left}the text "
        f"has {lengths[0]:,} tokens to train on{held_out}, and one window "
        f"takes {window:,}: {', or '.join(ways)}"
    )


def _length(split):
    first, last = split
    return last - first


def _cut_sliding_windows(config, token_ids, tokenizer):
    """The split of D2L section 9.3: the first windows, and the next ones."""
    windows = config.train_windows + config.validation_windows
    if len(token_ids) < windows + config.sequence_length:
        raise UserError(
            f"--train_windows={config.train_windows} and --validation_windows="
            f"{config.validation_windows} take {windows} windows, and the text "
            f"has {max(0, len(token_ids) - config.sequence_length)}"
        )

    def cut(first, count):
        part = token_ids[first : first + count + config.sequence_length]
        row = tf.constant(np.asarray(part, np.int32)[None])
        (text,) = tokenizer.detokenize(tf.RaggedTensor.from_tensor(row))
        return SlidingWindows(
            part,
            config.sequence_length,
            config.batch_size,
            config.seed,
            len(text.numpy().decode("utf-8", "replace")),
        )

    training = cut(0, config.train_windows)
    if not config.validation_windows:
        return training, None
    return training, cut(config.train_windows, config.validation_windows)
