"""Settings that fit a text, a machine and the time, where the user gives none.

The numbers come from the trainings in docs/quality.md, each scored on a part of
its training text; those for a GPU are guesses.
"""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from stacked_rnn import configs
from stacked_rnn.tokenizers import simple, subword
from stacked_rnn.utils import devices

_ARCHITECTURE = (
    "cell", "num_layers", "units", "embedding_dim", "readout_layers",
    "embedding_to_all_layers",
)  # fmt: skip
# What is chosen for a language model; "max_minutes" too, if neither that nor
# "epochs" is given.
_CHOSEN = (
    *_ARCHITECTURE, "dropout", "output_dropout", "weight_dropout",
    "carry_state", "reset_states", "sequence_length", "batch_size",
    "optimizer", "learning_rate", "mixed_precision", "validation",
    "validation_fraction",
)  # fmt: skip
_CHARACTERS_PER_TOKEN = {"char": 1.0, "byte": 1.0, "word": 5.0, "subword": 2.5}
_WIDTHS = (768, 512, 384, 256, 192, 128, 64)
_MOST_EPOCHS = 40  # of the default time limit
_MANY_TOKENS = 3_000_000  # more get more minutes
# FLOP/s of matmuls in float32 and bfloat16, where nothing is measured: the
# machines may lack the instructions of bfloat16.
_NOMINAL_RATES = 3e11, 3e11
_GPU_RATES = 2e13, 2e13
_SHORT = 25, 2  # characters and words of the median text
# As in recipes/short_strings.flags.
_SHORT_STRINGS = {
    "tokenizer": "char", "num_layers": 2, "residual": True,
    "embedding_dim": 32, "embedding_stddev": 1.0, "embedding_dropout": 0.0,
    "dropout": 0.2, "epochs": 12,
}  # fmt: skip

OPEN_SETTINGS = frozenset(
    (*_CHOSEN, *_SHORT_STRINGS, "epochs", "max_minutes", "document_separator")
)
_LINES_ARE_TEXTS = (
    "Each line is a text of its own: --document_separator= reads one running "
    "text."
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings that were chosen, by name, and lines that say why."""

    settings: Mapping
    reason: str


def for_language_model(
    corpus, model_config, train_config, given, past, most_minutes
):
    """Chooses the settings of a language model that the user leaves open.

    Args:
        corpus: a `datasets.Corpus`.
        model_config, train_config: the settings. The architecture is that of
            the trained model, if the run begins with one.
        given: names of the settings that the user has set.
        past: the record of an earlier run in the same directory, or None.
        most_minutes: the longest time limit to choose.

    Returns:
        A `Choice`.
    """
    is_list = (
        corpus.is_list
        and not train_config.init_from
        and "document_separator" not in given
    )
    names = _open_settings(train_config, given, is_list)
    characters_per_token = _CHARACTERS_PER_TOKEN[train_config.tokenizer]
    num_tokens = max(1, int(corpus.num_characters / characters_per_token))
    is_recalled = past and _suits(
        past, corpus, model_config, train_config, given
    )
    if is_recalled:
        settings = _recalled(past)
    else:
        settings = _chosen(
            num_tokens, model_config, train_config, given, most_minutes
        )
        if is_list:
            settings["document_separator"] = r"\n"
    settings = {
        name: value for name, value in settings.items() if name in names
    }
    used = model_config.to_dict() | train_config.to_dict() | settings
    if is_recalled:
        reason = (
            "What is chosen for a text is as in the run before: "
            f"{_describe_model(used)}.\n--noresume chooses anew."
        )
    else:
        reason = _describe(used, num_tokens, is_list)
    return Choice(settings, reason)


def _open_settings(train_config, given, is_list) -> set[str]:
    """Returns the names of the settings of a language model to choose."""
    names = {*_CHOSEN} - given
    if is_list:
        names |= {"document_separator"}
    if train_config.init_from:
        names -= {*_ARCHITECTURE}
    if not {"epochs", "max_minutes"} & given:
        names |= {"epochs", "max_minutes"}
    return names


def _suits(past, corpus, model_config, train_config, given) -> bool:
    """Whether this run may have the settings of an earlier one.

    That one read the same tokens, from the same start, and had the architecture
    that is given now. It may have taken another time: a run goes on with more.
    """
    tokenizer = past.get("settings", {}).get("tokenizer")
    if (
        past.get("digest") != corpus.digest
        or tokenizer not in (None, train_config.tokenizer)
        or past.get("init_from", "") != train_config.init_from
    ):
        return False
    before = configs.ModelConfig.from_dict(past["model"])
    return all(
        getattr(before, name) == getattr(model_config, name)
        for name in _ARCHITECTURE
        if name in given
    )


def _chosen(
    num_tokens, model_config, train_config, given, most_minutes
) -> dict:
    """Chooses all settings of a language model for a number of tokens.

    They suit the width and the epochs, if these are given.
    """
    minutes = train_config.max_minutes or min(
        _minutes_for(num_tokens), most_minutes
    )
    has_width = "units" in given or train_config.init_from
    # All workers must choose the same.
    is_one_process = train_config.strategy != "multi_worker"
    settings, epochs = _language_model(
        num_tokens,
        _vocabulary_size(model_config, train_config),
        minutes,
        matmul_rates() if is_one_process else _NOMINAL_RATES,
        (model_config.units,) if has_width else _WIDTHS,
        train_config.epochs if "epochs" in given else 0,
    )
    if epochs > _MOST_EPOCHS:
        fewer = max(0.5, round(minutes * _MOST_EPOCHS / epochs, 1))
        minutes = min(minutes, fewer)
    return settings | {
        "epochs": 0,
        "max_minutes": minutes,
        "validation": "blocks",
    }


def for_classifier(texts, given, past) -> Choice | None:
    """Chooses settings of a classifier whose texts are short strings.

    Words tell little about names; their characters do.

    Args:
        texts: list of strings.
        given: names of the settings that the user has set.
        past: the record of an earlier run in the same directory, or None.

    Returns:
        A `Choice`, or None if the texts are longer, the user has chosen a
        tokenizer, or the earlier run read words.
    """
    length = np.median([len(text) for text in texts])
    words = np.median([len(text.split()) for text in texts])
    if (
        "tokenizer" in given
        or length > _SHORT[0]
        or words > _SHORT[1]
        or (past and "length" not in past)
    ):
        return None
    if "max_minutes" in given:
        given = {"epochs", *given}
    settings = {
        name: value
        for name, value in _SHORT_STRINGS.items()
        if name not in given
    }
    return Choice(
        settings,
        f"The texts are short strings (half of them have {length:.0f} or fewer "
        "characters), and are read\ncharacter by character: "
        "--tokenizer=word reads words.",
    )


def _recalled(past) -> dict:
    """Returns the settings of an earlier run."""
    # Those of a version that chose nothing were these.
    length = past.get("length", {"epochs": 4, "max_minutes": 0.0})
    settings = {"validation": "end"} | past["model"] | past.get("settings", {})
    return settings | length


def _vocabulary_size(model_config, train_config) -> int:
    """Guesses the size of the vocabulary, before the text is tokenized."""
    if train_config.tokenizer in ("char", "byte"):
        return 100
    is_word = train_config.tokenizer == "word"
    default = simple.DEFAULT_WORDS if is_word else subword.DEFAULT_SUBWORDS
    return model_config.vocabulary_size or default


def _minutes_for(num_tokens) -> float:
    """Returns the default time limit: 2 to 20 minutes."""
    return round(min(20.0, 2 * max(1.0, num_tokens / _MANY_TOKENS) ** 0.7), 1)


def _language_model(
    num_tokens, vocabulary_size, minutes, rates, widths, epochs
) -> tuple:
    """Chooses the settings of a language model.

    Args:
        num_tokens: tokens of the training text.
        vocabulary_size: size of the vocabulary, or a guess.
        minutes: time limit of the run.
        rates: FLOP/s of matmuls in float32 and in bfloat16, see
            `matmul_rates`.
        widths: numbers of units to choose from, the widest first.
        epochs: how many there will be; 0: as many as fit.

    Returns:
        The settings by name, and the epochs, estimated if they are not given.
    """
    for units in widths:
        parameters = _num_parameters(units, vocabulary_size)
        tokens = 50 * minutes * _tokens_per_second(units, parameters, rates)
        if tokens >= 2 * parameters and parameters <= 8 * num_tokens:
            break
    epochs = epochs or tokens / num_tokens
    # What a model learns by heart grows with its size and with the epochs.
    load = parameters / num_tokens * np.clip((epochs - 2) / 4, 0.0, 1.0)
    # Validation takes a third of the time of training per token: 2 % of it.
    fraction = min(0.05, 0.05 * epochs) if num_tokens > 500_000 else 0.1
    settings = {
        "cell": "lstm",
        "num_layers": 2,
        "units": units,
        "embedding_dim": 64 if units < 128 else 128,
        "readout_layers": "concat",
        "embedding_to_all_layers": True,
        "dropout": float(np.clip(round(0.2 * load, 2), 0.0, 0.5)),
        "output_dropout": float(np.clip(round(0.2 * load - 0.2, 2), 0, 0.2)),
        "weight_dropout": float(np.clip(round(0.1 * load - 0.2, 2), 0, 0.2)),
        "carry_state": True,
        "reset_states": 0.01,
        "sequence_length": 64,
        "batch_size": 32,
        "optimizer": "muon",
        "learning_rate": 0.004 if units < 384 else 0.003,
        "mixed_precision": _use_bfloat16(units, rates),
        "validation_fraction": float(f"{fraction:.2g}"),
    }
    return settings, epochs


def _num_parameters(units, vocabulary_size) -> int:
    """Number of parameters that multiply at each token."""
    first, second = 128 + units, 128 + 2 * units
    return 4 * units * (first + second) + 2 * units * vocabulary_size


def _tokens_per_second(units, parameters, rates) -> float:
    """Estimates the speed of training on a CPU."""
    is_mixed = _use_bfloat16(units, rates)
    # Narrow layers spend their time elsewhere.
    share = 0.55 if is_mixed else min(0.8, 0.5 + 0.3 * units / 256)
    optimizer = 1 + units / 1100  # Muon takes this times Adam's time
    return share * rates[is_mixed] / (6 * parameters * optimizer)


def _use_bfloat16(units, rates) -> bool:
    return units >= 256 and rates[1] > 1.3 * rates[0]


def matmul_rates() -> tuple[float, float]:
    """Measures FLOP/s of matmuls in float32 and bfloat16, in 0.2 seconds."""
    if devices.gpus():
        return _GPU_RATES
    return _rate(tf.float32), _rate(tf.bfloat16)


def _rate(dtype):
    a, b = tf.ones([1024, 512], dtype), tf.ones([512, 1024], dtype)
    multiply = tf.function(lambda: tf.matmul(a, b), autograph=False)
    multiply()
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < 0.1:
        multiply().numpy()
        count += 1
    return 2 * 1024 * 512 * 1024 * count / seconds


def _describe(settings, num_tokens, is_list) -> str:
    """Says what was chosen and why, in two or three lines."""
    length = (
        f"{settings['epochs']:,} epoch(s)"
        if settings["epochs"]
        else f"{settings['max_minutes']:g} minutes"
    )
    reason = (
        f"For {num_tokens:,} tokens and {length} on this machine: "
        f"{_describe_model(settings)}.\nFlags override it: --max_minutes, "
        "--units, --dropout; config.flags has all."
    )
    return f"{reason}\n{_LINES_ARE_TEXTS}" if is_list else reason


def _describe_model(settings) -> str:
    return (
        f"{settings['num_layers']} {settings['cell'].upper()} layer(s) of "
        f"{settings['units']} units, dropout {settings['dropout']:g}"
    )
