"""Going on from a trained model with another text (`--init_from`).

The new run keeps the architecture and the tokenizer of the model and begins
with its weights; all else is new: the step, the optimizer, the schedule, the
dropout. A classifier may begin with a language model, as in ULMFiT (Howard and
Ruder 2018): it takes over the layers that both have. Nothing is written here,
so that bad input leaves no trace.
"""

import dataclasses
import json
import pathlib

import numpy as np
import tensorflow as tf

from stacked_rnn import models, saved_models, tokenizers
from stacked_rnn.configs import TASKS, ModelConfig, TrainConfig, UserError
from stacked_rnn.training import runs


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What a run begins with.

    Attributes:
        model_config, train_config: as asked for, and completed by the trained
            model where there is one; where there is none, all below is None.
        tokenizer: of the trained model.
        model: the trained model.
        path: the directory of the version or of the run that they come from.
    """

    model_config: ModelConfig
    train_config: TrainConfig
    tokenizer: tokenizers.Tokenizer | None = None
    model: models.LanguageModel | None = None
    path: pathlib.Path | None = None

    @property
    def weights(self) -> list[np.ndarray] | None:
        """The weights of the trained model, in its order."""
        return self.model and self.model.get_weights()


def prepare(model_config, train_config, model_dir, given=()) -> WarmStart:
    """Finds and reads what `--init_from` names, if it names something.

    Args:
        model_config, train_config: as asked for.
        model_dir: directory of the new run.
        given: names of the settings that somebody asked for, where the others
            are defaults: only these can contradict the trained model.

    Raises:
        UserError: there is no trained model, or a damaged or a contrary one.
    """
    if not train_config.init_from:
        return WarmStart(model_config, train_config)
    path, model_dir = map(pathlib.Path, (train_config.init_from, model_dir))
    if path.resolve() == model_dir.resolve():
        raise UserError(
            f"--init_from={path} is the --model_dir of this run too: name "
            "another one, or leave --init_from out to go on with that run"
        )
    named = f"--init_from={path}"
    has_begun = _has_begun(model_config, train_config, model_dir)
    if has_begun:
        path = model_dir  # whatever has become of --init_from since then
    path, task, trained_config, tokenizer, checkpoint = _find(path)
    if not (TASKS[task].continues_texts or has_begun):
        raise UserError(
            f"{named}: {TASKS[task].title}: a run can begin with the weights "
            "of a language model only"
        )
    free = TASKS[train_config.task].free_settings
    kept = {
        "tokenizer": tokenizer.kind,
        "letters_only": tokenizer.letters_only,
        "document_separator": tokenizer.document_separator,
    }
    asked = model_config.to_dict() | train_config.to_dict()
    contrary = [
        f"--{name}={asked[name]} (it has {value})"
        for name, value in (trained_config.to_dict() | kept).items()
        if name in given and name not in free and asked[name] != value
    ]
    if contrary:
        raise UserError(
            f"{named}: the architecture and the tokenizer of a trained model "
            f"are kept: leave out {', '.join(contrary)}"
        )
    return WarmStart(
        dataclasses.replace(
            trained_config,
            **{name: asked[name] for name in free},
            **TASKS[train_config.task].reset_settings,
        ),
        dataclasses.replace(train_config, **kept),
        tokenizer,
        None if has_begun else _read_model(path, trained_config, checkpoint),
        path,
    )


def _has_begun(model_config, train_config, model_dir) -> bool:
    """Whether model_dir has a checkpoint of what the same command began.

    The criterion of `runs.open_run`, but for what the trained model decides.
    """
    if (
        train_config.resume is False
        or not (model_dir / runs.RECORD).exists()
        or runs.latest_checkpoint(model_dir, "last") is None
    ):
        return False
    record = runs.read_record(model_dir)
    asked = model_config.to_dict() | train_config.to_dict()
    return all(
        record.get(name) == asked[name]
        for name in ("task", "corpus", "init_from")
    ) and all(
        record["model"][name] == asked[name]
        for name in TASKS[train_config.task].free_settings
    )


def _find(path):
    """The trained model at a path.

    Returns:
        Its own directory, task, `ModelConfig`, tokenizer, and checkpoint.
    """
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
        str(version / "variables" / "variables"),
    )


def _read_run(path):
    """As `_find`, but for the directory: the best of a run if it has one."""
    try:
        record = json.loads((path / runs.RECORD).read_text(encoding="utf-8"))
        model_config = ModelConfig.from_dict(record["model"])
        tokenizer = tokenizers.from_dict(record["tokenizer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--init_from={path}: {runs.RECORD} is damaged or not of this "
            f"project ({type(error).__name__}: {error})"
        ) from error
    for name in ("best", "last"):
        if checkpoint := runs.latest_checkpoint(path, name):
            return record["task"], model_config, tokenizer, checkpoint
    raise UserError(
        f"--init_from={path}: this run has no checkpoint: let it train to the "
        "end of an epoch first"
    )


def _read_model(path, model_config, checkpoint) -> models.LanguageModel:
    """With the weights of a checkpoint, or the variables of a SavedModel."""
    model = models.build_language_model(model_config)
    if (path / runs.RECORD).exists():
        root = tf.train.Checkpoint(model=model)
    else:
        root = tf.train.Checkpoint(weights=[w.value for w in model.weights])
    try:
        # `read`, as a SavedModel has no counter of its saves to `restore`.
        status = root.read(checkpoint)
        status.assert_existing_objects_matched().expect_partial()
    except Exception as error:  # TensorFlow has many types for this
        raise UserError(
            f"--init_from={path}: the weights are damaged or not of this model "
            f"({type(error).__name__}): copy them again, or name another model"
        ) from error
    return model
