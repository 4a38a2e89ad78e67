"""Keras callbacks of the user in a training."""

import csv
import itertools

import keras
import numpy as np
import pytest

from stacked_rnn import configs, training
from tests.helpers.small_tasks import make_trainer, train

CONSTANT = configs.TrainConfig(learning_rate_schedule="constant")


class Fails(keras.callbacks.Callback):
    """Raises an error in one method, at the second call."""

    def __init__(self, method):
        super().__init__()
        self._calls = 0
        setattr(self, method, self._fail)

    def _fail(self, index, logs=None):
        self._calls += 1
        if self._calls == 2:
            raise ZeroDivisionError("of the user")


def history(directory):
    """Returns the rows of history.csv."""
    with open(directory / "run/history.csv") as file:
        return list(csv.DictReader(file))


def small_trainer(directory, name="run", **settings):
    return make_trainer(
        "language_model", directory, directory / name,
        **{"epochs": 3, "jit_compile": False} | settings,
    )  # fmt: skip


def plateau():
    """Halves the rate after each epoch but the first: no result counts."""
    return keras.callbacks.ReduceLROnPlateau(
        factor=0.5, patience=1, min_delta=100.0
    )


def test_a_callback_reduces_the_learning_rate(tmp_path, capsys):
    model = train(tmp_path, callbacks=plateau(), epochs=3)
    assert "its schedule is constant\n" in capsys.readouterr().out
    rates = [float(row["learning_rate"]) for row in history(tmp_path)]
    assert rates == pytest.approx([0.01, 0.01, 0.005])
    assert model.description.training["validation"]["loss"] > 0


def test_a_resumed_run_begins_with_the_reduced_learning_rate(tmp_path):
    for epochs in (3, 4):
        trainer = small_trainer(tmp_path, epochs=epochs)
        trainer.fit([plateau()], verbose=0)
    rates = [row["learning_rate"] for row in trainer.history]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025])


def test_a_scheduler_sets_the_learning_rate_of_each_epoch(tmp_path):
    """Muon's two kinds of variables follow, too."""
    trainer = small_trainer(tmp_path, optimizer="muon")
    seen = []
    trainer.fit(
        [
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1**epoch / 8),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seen.append(
                    (logs["learning_rate"], trainer.model.get_weights())
                )
            ),
        ],
        verbose=0,
    )
    assert [rate for rate, _ in seen] == pytest.approx([0.125, 0.0125, 0.00125])
    steps = [
        [
            np.abs(new - old).max()
            for new, old in zip(after, before, strict=True)
            if new.dtype.kind == "f"
        ]
        for (_, before), (_, after) in itertools.pairwise(seen)
    ]
    assert np.all(np.array(steps[1]) < 0.5 * np.array(steps[0]))


@pytest.mark.parametrize(
    ("callbacks", "settings", "message"),
    [
        (
            [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
            {"learning_rate_schedule": "cosine"},
            "=cosine: LearningRateScheduler sets the learning rate, too",
        ),
        ([plateau()], {"strategy": "multi_worker"}, "of the chief only"),
        ([plateau()], {"half_windows": 0.1}, "^--half_windows=0.1 scales the"),
        (
            [plateau(), keras.callbacks.BackupAndRestore("backup")],
            {},
            "BackupAndRestore: a run keeps checkpoints",
        ),
    ],
)
def test_callbacks_that_cannot_work_are_refused(
    callbacks, settings, message, tmp_path
):
    with pytest.raises(configs.UserError, match=message) as error:
        train(tmp_path, callbacks=callbacks, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_callbacks_leave_the_schedule_alone():
    callbacks = [keras.callbacks.EarlyStopping()]
    assert not training.settings_for(callbacks, configs.TrainConfig(), {})
    callbacks.append(keras.callbacks.ReduceLROnPlateau())
    assert not training.settings_for(
        callbacks, CONSTANT, {"learning_rate_schedule"}
    )


def test_a_failed_callback_costs_no_epoch(tmp_path, capsys):
    """After the last epoch, the same call has only to export."""
    with pytest.raises(ZeroDivisionError, match="of the user"):
        train(tmp_path, callbacks=[Fails("on_epoch_end")])
    assert len(history(tmp_path)) == 2
    capsys.readouterr()
    model = train(tmp_path)
    assert "Epoch" not in capsys.readouterr().out
    assert model.description.training["epochs"] == 2


@pytest.mark.parametrize(
    "method", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"]
)
def test_a_run_resumes_exactly_where_a_callback_failed(method, tmp_path):
    undisturbed = small_trainer(tmp_path, "undisturbed", carry_state=True)
    undisturbed.fit(verbose=0)
    failed = small_trainer(tmp_path, "failed", carry_state=True)
    with pytest.raises(ZeroDivisionError):
        failed.fit([Fails(method)], verbose=0)
    resumed = small_trainer(tmp_path, "failed", carry_state=True)
    assert resumed.step == failed.step > 0
    resumed.fit(verbose=0)
    assert resumed.history == undisturbed.history


def test_callbacks_of_keras_work_in_a_run_that_the_time_ends(tmp_path):
    """Its schedule of the learning rate is saved with the model, too."""
    trainer = small_trainer(
        tmp_path, epochs=0, max_minutes=1.0, learning_rate_schedule="cosine"
    )
    history = keras.callbacks.History()
    trainer.fit(
        [
            history,
            keras.callbacks.EarlyStopping(
                patience=1, min_delta=100.0, restore_best_weights=True
            ),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "{epoch}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.ModelCheckpoint(tmp_path / "whole.keras"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.ProgbarLogger(),
            keras.callbacks.TensorBoard(tmp_path / "board", update_freq=1),
        ],
        verbose=0,
    )
    assert history.epoch == [0, 1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert len(list(tmp_path.glob("board/train/events*"))) == 1
    weights = trainer.model.get_weights()  # of the best epoch, the first
    for name in ("1.weights.h5", "2.weights.h5"):
        trainer.model.load_weights(tmp_path / name)
        is_same = all(map(np.array_equal, weights, trainer.model.get_weights()))
        assert is_same == name.startswith("1")
    whole = keras.models.load_model(tmp_path / "whole.keras", compile=False)
    assert all(
        map(np.array_equal, whole.get_weights(), trainer.model.get_weights())
    )
