"""Starting a run with the weights of a trained model (`--init_from`).

The model is an export, another run, or a file of weights of PyTorch. The new
run keeps the architecture and the tokenizer of the model and starts with its
weights; all else is new: the step, the optimizer, the schedule, the dropout.
The vocabulary of a language model may grow, but not again when the run resumes.
A classifier may start with a language model, as in ULMFiT (Howard and Ruder
2018): it takes the layers that read the same in both. Nothing is written here,
so that bad input leaves no trace.
"""

import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Collection, Mapping

import tensorflow as tf

from stacked_rnn import datasets, models, saved_models, tokenizers
from stacked_rnn.configs import (
    TASKS,
    ModelConfig,
    TrainConfig,
    UserError,
    replace_settings,
)
from stacked_rnn.models import torch_weights
from stacked_rnn.training import averaging, runs
from stacked_rnn.utils import packages, text_files

_SORTED = {"char": "characters", "byte": "bytes"}  # by kind of tokenizer


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The settings of a run, and the trained model that it starts with.

    Without a trained model, `tokenizer`, `model` and `path` are None.

    Attributes:
        model_config, train_config: the settings, completed by those of the
            trained model, except for `vocabulary_size`, which is as given.
        tokenizer: tokenizer of the trained model.
        model: the trained model; None too if the run is only resumed.
        path: directory of the version or run that it comes from, or the file
            of weights of PyTorch.
        given: names of the settings that the user has set; None: all.
        past: the record of an earlier run in the same directory, or None.
        most_minutes: the longest time limit to choose, where none is given.
        source: what another reading of the text has left, or None: standard
            input can be read only once.
    """

    model_config: ModelConfig
    train_config: TrainConfig
    tokenizer: tokenizers.Tokenizer | None = None
    model: models.LanguageModel | None = None
    path: pathlib.Path | None = None
    given: Collection[str] | None = None
    past: Mapping | None = None
    most_minutes: float = math.inf
    source: object = None

    @property
    def is_resumed(self) -> bool:
        """Whether the run has begun with a trained model, and resumes."""
        return self.path is not None and self.model is None

    def with_settings(self, settings) -> "WarmStart":
        """Returns a copy with other values of some settings."""
        model_config, train_config = replace_settings(
            (self.model_config, self.train_config), settings
        )
        return dataclasses.replace(
            self, model_config=model_config, train_config=train_config
        )


def resolve_init_from(
    model_config, train_config, model_dir, given=(), may_resume=True
) -> WarmStart:
    """Finds and reads the trained model that `--init_from` names, if any.

    A run in model_dir that has begun with that model is taken to resume; once
    the text has been read, `runs.differences` tells.

    Args:
        model_config, train_config: the settings.
        model_dir: directory of the new run.
        given: names of the settings that the user has set; only these can
            contradict the trained model.
        may_resume: whether a run in model_dir may resume.

    Raises:
        UserError: the trained model is missing or damaged, cannot be used, or
            contradicts a given setting.
    """
    if not train_config.init_from:
        return WarmStart(model_config, train_config)
    path, model_dir = map(pathlib.Path, (train_config.init_from, model_dir))
    if path.resolve() == model_dir.resolve():
        raise UserError(
            f"--init_from={path} is the --model_dir of this run too: name "
            "another one, or leave --init_from out to resume that run"
        )
    named = f"--init_from={path}"
    has_begun = may_resume and _has_begun(model_config, train_config, model_dir)
    if has_begun:
        path = model_dir  # the model of --init_from may be gone by now
    path, task, trained_config, tokenizer, build = _find(path, train_config)
    if not (TASKS[task].continues_texts or has_begun):
        raise UserError(
            f"{named}: {TASKS[task].title}: a run can start with the weights "
            "of a language model only"
        )
    info, limit = TASKS[train_config.task], model_config.vocabulary_size
    num_parts = tokenizer.vocabulary_size() - (tokenizer.end_id is not None)
    kept = {
        "tokenizer": tokenizer.kind,
        "letters_only": tokenizer.letters_only,
        "document_separator": tokenizer.document_separator,
    }
    trained_settings = trained_config.to_dict() | info.reset_settings | kept
    may_grow = (
        train_config.widen_vocabulary
        and info.continues_texts
        and tokenizer.unknown_id is not None
    )
    if not limit or (may_grow and (has_begun or limit >= num_parts)):
        trained_settings["vocabulary_size"] = limit
    settings = model_config.to_dict() | train_config.to_dict()
    contradictions = [
        f"--{name}={settings[name]} (it has {value})"
        for name, value in trained_settings.items()
        if name in given
        and name not in info.free_settings
        and settings[name] != value
    ]
    if contradictions:
        raise UserError(
            f"{named}: the architecture and the tokenizer of a trained model "
            f"are kept: leave out {', '.join(contradictions)}"
        )
    return WarmStart(
        dataclasses.replace(
            trained_config,
            vocabulary_size=limit,
            **{name: settings[name] for name in info.free_settings},
            **info.reset_settings,
        ),
        dataclasses.replace(train_config, **kept),
        tokenizer,
        None if has_begun else build(),
        path,
    )


def _has_begun(model_config, train_config, model_dir) -> bool:
    """Whether model_dir has a checkpoint of a run of the same task and model.

    The limits of the vocabulary are compared too: a resumed run keeps its own.
    """
    if (
        train_config.resume is False
        or not (model_dir / runs.RECORD).exists()
        or runs.latest_checkpoint(model_dir, "last") is None
    ):
        return False
    record = runs.read_record(model_dir)
    recorded = record.get("settings", {}) | record
    limits = {  # not in older records
        "vocabulary_limit": model_config.vocabulary_size,
        "widen_vocabulary": train_config.widen_vocabulary,
    }
    return all(
        record.get(name) == getattr(train_config, name)
        for name in ("task", "init_from")
    ) and all(
        recorded.get(name, value) == value for name, value in limits.items()
    )


def _find(path, train_config):
    """Finds the trained model at a path.

    Returns:
        Its directory, or its file for PyTorch; its task, `ModelConfig` and
        tokenizer; and a function that builds it, without arguments.
    """
    if path.suffix == torch_weights.SUFFIX and not path.is_dir():
        task = next(name for name in TASKS if TASKS[name].continues_texts)
        return path, task, *_read_imported(path, train_config)
    if not path.is_dir():
        raise UserError(f"--init_from={path}: no such directory")
    if (path / runs.RECORD).exists():
        return path, *_read_run(path)
    version = saved_models.find_version(path, "init_from")
    if version is None:
        raise UserError(
            f"--init_from={path}: neither a SavedModel or the parent of its "
            f"versions (no saved_model.pb) nor a run (no {runs.RECORD})"
        )
    trained = saved_models.read_description(version, "init_from")
    return (
        version,
        trained.task,
        trained.model_config,
        trained.tokenizer,
        functools.partial(models.read_saved_model, trained, "init_from"),
    )


def _read_imported(path, train_config):
    """Reads config, tokenizer and weights of a file for PyTorch."""
    packages.require("safetensors", f"--init_from={path}", "pytorch")
    try:
        config, tokenizer, tensors = torch_weights.read(path)
        if tokenizer is None:
            tokenizer = _tokenizer_of_corpus(
                config.vocabulary_size, train_config
            )
            if tokenizer.unknown_id is not None:
                config, tensors = torch_weights.with_unknown_token(
                    config, tensors
                )
    except UserError as error:
        raise UserError(f"--init_from={path}: {error}") from error
    build = functools.partial(_build_imported, path, config, tensors)
    return config, tokenizer, build


def _tokenizer_of_corpus(num_tokens, train_config) -> tokenizers.Tokenizer:
    """The tokenizer of weights without a vocabulary, from the text.

    Programs for characters number them as they are sorted.

    Args:
        num_tokens: of the weights.
        train_config: the settings.

    Raises:
        UserError: the text has more or fewer characters, or the tokens are
            neither characters nor bytes.
    """
    kind, corpus = train_config.tokenizer, train_config.corpus
    advice = "write the vocabulary into its header, see docs/runtimes.md"
    if not TASKS[train_config.task].continues_texts or kind not in _SORTED:
        raise UserError(f"its header has no vocabulary: {advice}")
    if text_files.has_stream(corpus):
        raise UserError(
            f"its header has no vocabulary, and --corpus={corpus} cannot give "
            f"one: name a file, or {advice}"
        )
    tokenizer = tokenizers.build(
        kind,
        datasets.open_corpus(train_config).pieces(),
        letters_only=train_config.letters_only,
    )
    known = tokenizer.vocabulary_size() - (tokenizer.unknown_id is not None)
    if num_tokens != known:
        raise UserError(
            f"its header has no vocabulary, and its {num_tokens} tokens are "
            f"not the {known} {_SORTED[kind]} of --corpus={corpus}: name the "
            f"text that it was trained on, or {advice}"
        )
    if kind == "char":
        print(
            f"note: {train_config.init_from} has no vocabulary: its tokens are "
            f"taken for the characters of {corpus}, sorted",
            file=sys.stderr,
        )
    return tokenizer


def _read_run(path):
    """Reads task, config, tokenizer and best (or last) weights of a run."""
    try:
        record = json.loads((path / runs.RECORD).read_text(encoding="utf-8"))
        model_config = ModelConfig.from_dict(record["model"])
        tokenizer = tokenizers.from_dict(record["tokenizer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--init_from={path}: {runs.RECORD} is damaged or not of this "
            f"project ({type(error).__name__}: {error})"
        ) from error
    averages = record.get("settings", {}).get("average_decay")
    # The best weights are saved as the averages that they were.
    for name, has_average in (("best", False), ("last", averages)):
        if checkpoint := runs.latest_checkpoint(path, name):
            build = functools.partial(
                _build_run, path, model_config, checkpoint, has_average
            )
            return record["task"], model_config, tokenizer, build
    raise UserError(
        f"--init_from={path}: this run has no checkpoint: let it train to the "
        "end of an epoch first"
    )


def _build_run(
    path, model_config, checkpoint, has_average
) -> models.LanguageModel:
    """Builds the model of a run with the weights of a checkpoint.

    Where it has their average, the model gets that, as in the export.
    """
    model = models.build_language_model(model_config)
    saved = {"model": model}
    if has_average:
        saved["average"] = averaging.WeightAverage(model.trainable_variables, 0)
    models.read_checkpoint(
        tf.train.Checkpoint(**saved), checkpoint, f"--init_from={path}"
    )
    if has_average:
        saved["average"].apply()
    return model


def _build_imported(path, model_config, tensors) -> models.LanguageModel:
    """Builds the model of a file for PyTorch."""
    model = models.build_language_model(model_config)
    try:
        torch_weights.load_state_dict(model, tensors)
    except UserError as error:
        raise UserError(f"--init_from={path}: {error}") from error
    return model
