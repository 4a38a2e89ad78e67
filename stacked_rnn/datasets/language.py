"""What a language model learns from: a corpus, tokenized and cut."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import corpora
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
    """

    tokenizer: tokenizers.Tokenizer
    training: Windows
    validation: Windows | None
    unknown_parts: Sequence[str] = ()


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
    text = corpora.read_corpus(
        config.corpus,
        binary=config.tokenizer == "byte",
        skip_bad_files=config.skip_bad_files,
    )
    unknown_parts = tokenizer.unknown_parts([text]) if tokenizer else ()
    cut = _cut_sliding_windows if config.train_windows else _cut_windows
    return LanguageData(
        *cut(config, text, vocabulary_size, tokenizer), unknown_parts
    )


def _cut_windows(config, text, vocabulary_size, tokenizer):
    """(tokenizer, training, validation): the end of the text validates."""
    training_text, validation_text = corpora.split_text(
        text, config.validation_fraction
    )
    tokenizer = tokenizer or _build_tokenizer(
        config, training_text, vocabulary_size
    )
    kind = Streams if config.carry_state else RandomWindows
    training = kind(
        _token_ids(tokenizer, training_text),
        config.sequence_length,
        config.batch_size,
        config.seed,
        _count_characters(training_text),
    )
    if not validation_text:
        return tokenizer, training, None
    token_ids = _token_ids(tokenizer, validation_text)
    # Few enough streams that their cold starts hardly count.
    num_streams = token_ids.shape[0] // (8 * config.sequence_length)
    try:
        validation = Streams(
            token_ids,
            config.sequence_length,
            max(1, min(config.batch_size, num_streams)),
            characters=_count_characters(validation_text),
        )
    except UserError as error:
        raise UserError(
            f"--validation_fraction={config.validation_fraction}: {error}, or "
            "--validation_fraction=0"
        ) from error
    return tokenizer, training, validation


def _cut_sliding_windows(config, text, vocabulary_size, tokenizer):
    """The split of D2L section 9.3: the first windows, and the next ones."""
    tokenizer = tokenizer or _build_tokenizer(config, text, vocabulary_size)
    token_ids = _token_ids(tokenizer, text)
    windows = config.train_windows + config.validation_windows
    if token_ids.shape[0] < windows + config.sequence_length:
        raise UserError(
            f"--train_windows={config.train_windows} and --validation_windows="
            f"{config.validation_windows} take {windows} windows, and the text "
            f"has {max(0, token_ids.shape[0] - config.sequence_length)}"
        )

    def cut(first, count):
        return SlidingWindows(
            token_ids[first : first + count + config.sequence_length],
            config.sequence_length,
            config.batch_size,
            config.seed,
        )

    return (
        tokenizer,
        cut(0, config.train_windows),
        cut(config.train_windows, config.validation_windows)
        if config.validation_windows
        else None,
    )


def _build_tokenizer(config, text, vocabulary_size):
    return tokenizers.build(
        config.tokenizer,
        text,
        vocabulary_size,
        config.letters_only,
        config.document_separator,
    )


def _token_ids(tokenizer, text):
    return tokenizer.tokenize(tf.constant([text])).flat_values


def _count_characters(text) -> int:
    return len(text.decode("utf-8", "replace"))
