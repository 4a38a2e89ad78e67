"""Runs that trackers record: stand-ins for their packages, and the real ones.

The stand-ins have the functions and the Keras callbacks that a run uses.
"""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import types

import keras
import pytest
import tensorflow as tf

from stacked_rnn import configs, training
from stacked_rnn.training import trackers
from tests.helpers.processes import run_anew
from tests.helpers.small_tasks import make_trainer, train, write_corpus

SMALL = (
    "--corpus=words.txt", "--units=16", "--embedding_dim=8", "--num_layers=1",
    "--sequence_length=10", "--batch_size=8", "--epochs=2", "--nojit_compile",
)  # fmt: skip


class Run:
    """A run of a tracker, which notes what is recorded."""

    def __init__(self, notes, **options):
        self.id = options.get("run_id") or options.get("id") or "first"
        self.info = types.SimpleNamespace(run_id=self.id)
        self._notes = notes
        notes.append(("begin", options))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self._notes.append(("end", kind))

    def log_artifact(self, path, name, type):
        self._notes.append(("model", path))


class Recorder(keras.callbacks.Callback):
    """Notes the results of each epoch."""

    def __init__(self, notes):
        super().__init__()
        self._notes = notes

    def on_epoch_end(self, epoch, logs=None):
        self._notes.append(("epoch", (epoch, logs["val_loss"])))


@pytest.fixture
def packages(monkeypatch):
    """Puts stand-ins for MLflow and wandb into place; returns their notes."""
    notes = {"mlflow": [], "wandb": []}

    def put(name, **content):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    def note(kind):
        return lambda *values: notes["mlflow"].append((kind, values[0]))

    put(
        "mlflow",
        start_run=lambda **options: Run(notes["mlflow"], **options),
        log_params=note("settings"),
        log_artifacts=note("model"),
        keras=put(
            "mlflow.keras", MlflowCallback=lambda: Recorder(notes["mlflow"])
        ),
    )
    put("wandb", init=lambda **options: Run(notes["wandb"], **options))
    put("wandb.integration")
    put(
        "wandb.integration.keras",
        WandbMetricsLogger=lambda: Recorder(notes["wandb"]),
    )
    for name in (
        "WANDB_MODE", "WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY",
    ):  # fmt: skip
        monkeypatch.setenv(name, "set before")  # and so restored
        monkeypatch.delenv(name)
    return notes


def small_trainer(directory, names):
    return make_trainer(
        "language_model", directory, directory / "run", jit_compile=False,
        trackers=names,
    )  # fmt: skip


def test_mlflow_and_wandb_record_a_run(packages, tmp_path, monkeypatch):
    model = train(tmp_path, trackers="mlflow, wandb")
    (_, begun), (_, settings), *epochs, exported, end = packages["mlflow"]
    assert begun["run_id"] is None and begun["run_name"] == "run"
    assert settings["units"] == 16 and settings["learning_rate"] == 0.01
    assert [index for _, (index, _) in epochs] == [0, 1]
    assert exported == ("model", str(model.path)) and end == ("end", None)
    best = model.description.training["validation"]["loss"]
    assert best == min(loss for _, (_, loss) in epochs)

    (_, begun), *rest = packages["wandb"]
    assert begun["mode"] == "offline" and begun["id"] is None
    assert begun["config"] == settings
    assert rest == [*epochs, exported, end]
    assert not (tmp_path / "run/tensorboard").exists()


def test_tensorboard_has_the_settings_of_a_classifier(tmp_path):
    trainer = make_trainer("classifier", tmp_path, tmp_path / "run")
    with training.tracking(trainer):
        pass
    (path,) = (tmp_path / "run/tensorboard/train").iterdir()
    (settings,) = (
        value.metadata.plugin_data.content
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    )
    assert b"learning_rate" in settings and b"embedding_dim" in settings


def test_a_resumed_run_is_the_same_run_of_the_trackers(packages, tmp_path):
    trainer = small_trainer(tmp_path, "mlflow,wandb")
    for _ in range(2):
        with training.tracking(trainer):
            pass
    begun = [options for kind, options in packages["mlflow"] if kind == "begin"]
    assert [options["run_id"] for options in begun] == [None, "first"]
    kinds = [kind for kind, _ in packages["mlflow"]]
    assert kinds.count("settings") == 1
    begun = [options for kind, options in packages["wandb"] if kind == "begin"]
    assert [options["id"] for options in begun] == [None, "first"]
    assert {options["resume"] for options in begun} == {"allow"}


def test_trackers_are_told_of_an_error(packages, tmp_path):
    trainer = small_trainer(tmp_path, "wandb,mlflow")
    with pytest.raises(ZeroDivisionError), training.tracking(trainer):
        raise ZeroDivisionError
    for notes in packages.values():
        assert notes[-1] == ("end", ZeroDivisionError)


def test_the_environment_of_wandb_decides(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with training.tracking(small_trainer(tmp_path, "wandb")):
        pass
    assert packages["wandb"][0][1]["mode"] == "online"


@pytest.mark.parametrize("is_known", [False, True])
def test_a_tracker_that_fails_is_named(
    is_known, packages, tmp_path, monkeypatch
):
    trainer = small_trainer(tmp_path, "mlflow")
    if is_known:
        (tmp_path / "run/trackers.json").write_text('{"mlflow": "gone"}')

    def fail(**options):
        raise RuntimeError("No such run.\nmore")

    monkeypatch.setattr(sys.modules["mlflow"], "start_run", fail)
    with pytest.raises(configs.UserError) as error, training.tracking(trainer):
        pass
    message = str(error.value)
    assert message.startswith("--trackers: mlflow: No such run: leave it out")
    assert ("trackers.json" in message) == is_known
    assert "\n" not in message


def test_a_missing_package_is_named_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(configs.UserError, match="mlflow is missing: pip"):
        train(tmp_path, trackers="mlflow")
    assert not (tmp_path / "run").exists()


def test_names_of_trackers_are_checked():
    assert {*configs.training.TRACKERS} == trackers.TRACKERS.keys()
    default = configs.TrainConfig().trackers
    assert configs.tracker_names(default) == ("tensorboard",)
    assert configs.tracker_names(" wandb,mlflow,wandb,") == ("wandb", "mlflow")
    assert configs.tracker_names("") == ()
    with pytest.raises(configs.UserError, match="there is no 'MLflow': name"):
        configs.TrainConfig(trackers="MLflow")
    with pytest.raises(configs.UserError, match="expected a string"):
        configs.TrainConfig(trackers=["mlflow"])


@pytest.mark.skipif(
    not importlib.util.find_spec("mlflow"), reason="mlflow is not installed"
)
def test_the_real_mlflow_has_settings_epochs_and_the_model(tmp_path):
    write_corpus("language_model", tmp_path)
    ran = run_anew(tmp_path, "train.py", *SMALL, "--trackers=mlflow")
    assert ran.returncode == 0, ran.stderr
    assert "WARNING mlflow" not in ran.stderr
    program = """
import json
import mlflow
client = mlflow.MlflowClient()
(run,) = client.search_runs(["0"])
print(json.dumps({
    "settings": run.data.params, "status": run.info.status,
    "losses": len(client.get_metric_history(run.info.run_id, "val_loss")),
    "files": [file.path for file in client.list_artifacts(
        run.info.run_id, "saved_model")],
}))
"""
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, capture_output=True, check=True, timeout=100,
        ).stdout
    )  # fmt: skip
    assert found["settings"]["units"] == "16"
    assert found["status"] == "FINISHED" and found["losses"] == 2
    assert "saved_model/saved_model.pb" in found["files"]


@pytest.mark.skipif(
    not importlib.util.find_spec("wandb"), reason="wandb is not installed"
)
def test_the_real_wandb_records_offline(tmp_path):
    write_corpus("language_model", tmp_path)
    ran = run_anew(tmp_path, "train.py", *SMALL, "--trackers=wandb")
    assert ran.returncode == 0, ran.stderr
    assert "epoch/val_loss" in ran.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
