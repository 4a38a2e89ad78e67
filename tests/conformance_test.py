"""What every task has to do: tasks x strategies x resume x export.

A task that is added to `small_tasks.TASKS` has to pass all of it.
"""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import saved_models
from tests.helpers import small_tasks
from tests.helpers.small_models import REGULARIZED, mirrored

# By task, and what its trainings vary: the cell, how windows are read, what a
# loss weighs.
CASES = {
    "language_model": ("language_model", {"cell": "gru"}, {}),
    "language_model, state carried, half windows": (
        "language_model",
        {"cell": "lstm", "num_layers": 1},
        {"carry_state": True, "half_windows": 0.5},
    ),
    "language_model, sampled softmax": (
        "language_model",
        {"cell": "lstm", "num_layers": 1, "sampled_words": 5},
        {},
    ),
    "classifier": (
        "classifier",
        {"cell": "gru", "num_layers": 1, "pooling": "max"},
        {},
    ),
    "classifier, classes weighted": (
        "classifier",
        {"cell": "simple_rnn", "num_layers": 1},
        {"class_weights": True},
    ),
    "seq2seq": ("seq2seq", {"cell": "simple_rnn", "num_layers": 1}, {}),
}
# The plain language model is resumed among the sampled ones.
RESUMED = sorted(
    CASES.keys() - {"language_model", "classifier, classes weighted"}
)
TEXTS = ["abc", "", "hgfedcbahg", "a"]
every_task = pytest.mark.parametrize("task", small_tasks.TASKS)


def make_trainer(case, directory, model_dir=None, strategy=None, **changes):
    task, model, settings = CASES[case]
    return small_tasks.make_trainer(
        task, directory, model_dir, strategy, model,
        **{"jit_compile": False, "gradient_clip_norm": 0.1}
        | settings | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plainly_trained(tmp_path_factory):
    """Trains a case on one device, in one part, without XLA; each once."""
    trainers = {}

    def train(case):
        if case not in trainers:
            trainer = make_trainer(case, tmp_path_factory.mktemp("plain"))
            trainer.fit(verbose=0)
            trainers[case] = trainer
        return trainers[case]

    return train


def assert_same(trainer, expected, atol):
    for got, wanted in zip(
        trainer.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=atol)
    for row, other in zip(trainer.history, expected.history, strict=True):
        for name in ("loss", "val_loss", "gradient_norm"):
            assert row[name] == pytest.approx(other[name], abs=10 * atol)


@pytest.mark.parametrize(
    ("case", "replicas", "parts"),
    [
        # Its windows are those of "sampled softmax".
        *((case, 2, 2) for case in CASES if case != "language_model"),
        ("language_model, state carried, half windows", 1, 2),
    ],
)
def test_replicas_and_parts_train_as_one_device_does(
    case, replicas, parts, plainly_trained, tmp_path
):
    """Gradients clipped, batches with padding and empty rows included."""
    trainer = make_trainer(
        case, tmp_path, strategy=mirrored() if replicas == 2 else None,
        accumulate_steps=parts,
    )  # fmt: skip
    assert trainer.strategy.num_replicas_in_sync == replicas
    trainer.fit(verbose=0)
    assert_same(trainer, plainly_trained(case), 2e-5)


@pytest.mark.parametrize(
    "case", ["language_model, sampled softmax", "classifier", "seq2seq"]
)
def test_xla_trains_the_same(case, plainly_trained, tmp_path):
    """More tests of the language model are in training_test.py."""
    trainer = make_trainer(case, tmp_path, jit_compile=True)
    trainer.fit(verbose=0)
    assert_same(trainer, plainly_trained(case), 1e-4)


@pytest.mark.parametrize("case", RESUMED)
def test_an_interrupted_run_ends_as_if_it_had_not_been(case, tmp_path):
    """Bit for bit, dropout included; it stops within the second epoch.

    By Ctrl-C, or killed, with a checkpoint after each step.
    """
    task, model, settings = CASES[case]
    if "carry_state" in settings:
        model = model | REGULARIZED
    else:
        model = model | {"dropout": 0.2, "recurrent_dropout": 0.1}

    def make(directory):
        return small_tasks.make_trainer(
            task, tmp_path, tmp_path / directory, None, model,
            jit_compile=False, epochs=2, checkpoint_minutes=0.0, **settings,
        )  # fmt: skip

    def copy(batch, logs=None):
        if whole.step == at:
            shutil.copytree(tmp_path / "whole", tmp_path / "run")

    whole = make("whole")
    at = whole.total_steps // 2 + 1
    if "carry_state" in settings:
        whole.fit(verbose=0)
        interrupted = make("run")
        interrupted.fit([small_tasks.CtrlC(interrupted, at)], verbose=0)
        assert interrupted.interrupted
        at = interrupted.step
    else:
        noted = keras.callbacks.LambdaCallback(on_train_batch_begin=copy)
        whole.fit([noted], verbose=0)
    resumed = make("run")
    assert resumed.step == at
    resumed.fit(verbose=0)
    assert resumed.step == whole.step
    assert_same(resumed, whole, 0.0)
    assert (tmp_path / "run/history.csv").read_bytes() == (
        tmp_path / "whole/history.csv"
    ).read_bytes()


@every_task
def test_an_export_gives_the_results_of_the_model(
    task, plainly_trained, tmp_path
):
    """Loaded by TensorFlow alone; its description is that of the training."""
    trainer = plainly_trained(task)
    exported = small_tasks.export_of(trainer)
    path = exported.save(tmp_path, trainer.summary())
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    [argument] = serve.structured_input_signature[1]
    got = serve(**{argument: tf.constant(TEXTS)})
    expected = exported.serving_default(tf.constant(TEXTS))
    assert got.keys() == expected.keys()
    for name, value in got.items():
        if value.dtype.is_floating:
            np.testing.assert_allclose(value, expected[name], atol=1e-5)
        else:
            np.testing.assert_array_equal(value, expected[name])
    description = saved_models.read_description(path)
    assert description.task == task
    assert description.model_config == trainer.model.config
    assert description.tokenizer == trainer.data.tokenizer
    assert description.training == trainer.summary()
