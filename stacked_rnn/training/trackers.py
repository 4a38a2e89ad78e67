"""Trackers, which record runs: TensorBoard, MLflow, Weights & Biases.

Each is used through its own Keras callback. What is recorded where is up to
the environment variables of the tracker; without any, nothing leaves the
machine.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from stacked_rnn.configs import UserError, tracker_names
from stacked_rnn.training import runs
from stacked_rnn.utils import packages

_IDS = "trackers.json"  # in the directory of a run: its names in the trackers


@dataclasses.dataclass(frozen=True)
class Tracker:
    """A tracker that records a run.

    Attributes:
        callback: its Keras callback.
        log_model: records the exported model, given its directory.
    """

    callback: keras.callbacks.Callback
    log_model: Callable[[pathlib.Path], None] = lambda version: None


def check_packages(names) -> None:
    """Raises a `UserError` where the package of a tracker is missing."""
    for name in names:
        packages.require(name, "--trackers", extra=name)


@contextlib.contextmanager
def tracking(trainer):
    """Opens the trackers of a run, and closes them at its end.

    A run that resumes is the same run for MLflow and Weights & Biases.

    Args:
        trainer: a `Trainer` with a `model_dir`, of the chief.

    Yields:
        A list of `Tracker`.

    Raises:
        UserError: a tracker cannot be opened, or written to at the end.
    """
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(TRACKERS[name](trainer))
            for name in tracker_names(trainer.config.trackers)
        ]


@contextlib.contextmanager
def _tensorboard(trainer):
    directory = trainer.model_dir / "tensorboard"
    settings = {
        name: value
        for name, value in _settings(trainer).items()
        if isinstance(value, bool | int | float | str)
    }
    writer = tf.summary.create_file_writer(str(directory / "train"))
    with contextlib.closing(writer), writer.as_default(step=0):
        hparams.hparams(settings)
    yield Tracker(
        keras.callbacks.TensorBoard(str(directory), write_graph=False)
    )


@contextlib.contextmanager
def _mlflow(trainer):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with _errors_in_a_line("mlflow", trainer):
        import mlflow.keras

        known = _ids(trainer).get("mlflow")
        run = mlflow.start_run(
            run_id=known, run_name=trainer.model_dir.name, nested=True
        )

    def log_model(version):
        with _errors_in_a_line("mlflow", trainer):
            mlflow.log_artifacts(str(version), "saved_model")

    with run:
        if not known:  # MLflow lets no parameter change
            _note_id(trainer, "mlflow", run.info.run_id)
            with _errors_in_a_line("mlflow", trainer):
                mlflow.log_params(_settings(trainer))
        yield Tracker(mlflow.keras.MlflowCallback(), log_model)


@contextlib.contextmanager
def _wandb(trainer):
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with _errors_in_a_line("wandb", trainer):
        import wandb
        from wandb.integration.keras import WandbMetricsLogger

        run = wandb.init(
            mode=os.environ.get("WANDB_MODE", "offline"),
            id=_ids(trainer).get("wandb"),
            resume="allow",
            name=trainer.model_dir.name,
            config=_settings(trainer),
        )
    _note_id(trainer, "wandb", run.id)

    def log_model(version):
        with _errors_in_a_line("wandb", trainer):
            run.log_artifact(
                str(version),
                name=f"{trainer.model_dir.name}-model",
                type="model",
            )

    with run:
        yield Tracker(WandbMetricsLogger(), log_model)


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _settings(trainer) -> dict:
    return trainer.model.config.to_dict() | trainer.config.to_dict()


def _ids(trainer) -> dict:
    """Reads the names that trackers gave to the run before, if any did."""
    try:
        return json.loads((trainer.model_dir / _IDS).read_bytes())
    except (OSError, ValueError):
        return {}


def _note_id(trainer, name, run_id) -> None:
    ids = _ids(trainer) | {name: run_id}
    runs.write_json(trainer.model_dir / _IDS, ids)


@contextlib.contextmanager
def _errors_in_a_line(name, trainer):
    """Turns the errors of a tracker, of many types, into a `UserError`."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        advice = "leave it out of --trackers"
        if name in _ids(trainer):
            advice += f", or delete {trainer.model_dir / _IDS} for a new run"
        raise UserError(
            f"--trackers: {name}: {reason[0].rstrip('.')}: {advice}"
        ) from error
