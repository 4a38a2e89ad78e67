"""The Trainer: one step by hand, replicas, resuming, stopping."""

import contextlib
import csv
import dataclasses
import errno
import functools
import json
import pathlib
import re
import shutil
import signal
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import (
    configs,
    datasets,
    export,
    inference,
    metrics,
    pipeline,
    tasks,
    tokenizers,
    training,
)
from stacked_rnn.training import descriptions, plan, runs
from stacked_rnn.utils import devices
from tests.helpers import exports
from tests.helpers.epochs import batch
from tests.helpers.small_models import mirrored, small_config
from tests.helpers.small_tasks import CtrlC

TEXT = "".join(chr(ord("a") + (3 * i * i + i // 7) % 10) for i in range(700))


def load_data(carry_state=False, batch_size=4, windows=None):
    """Makes data of TEXT as `load_language_data` would from a file."""
    tokenizer = tokenizers.build("char", TEXT.encode())
    token_ids = tokenizer.tokenize(tf.constant([TEXT])).flat_values
    kind = windows or (
        datasets.Streams if carry_state else datasets.RandomWindows
    )
    return datasets.LanguageData(
        tokenizer,
        kind(token_ids[:600], 5, batch_size),
        datasets.Streams(token_ids[600:], 5, 2),
    )


def make_trainer(
    data=None, model_dir=None, strategy=None, model=None, **changes
):
    settings = {
        "batch_size": 4,
        "epochs": 2,
        "learning_rate": 0.01,
        "learning_rate_schedule": "constant",
        "jit_compile": False,
    } | changes
    return training.Trainer(
        small_config(**{"cell": "simple_rnn", "num_layers": 1} | (model or {})),
        configs.TrainConfig(**settings),
        tasks.LanguageModelTask(data or load_data()),
        model_dir,
        strategy,
    )


def change_plan(monkeypatch, **changes):
    """Changes how each later trainer computes its steps."""
    make_plan = plan.make_plan
    monkeypatch.setattr(
        plan,
        "make_plan",
        lambda *args: dataclasses.replace(make_plan(*args), **changes),
    )


def weights(trainer):
    return [weight.numpy() for weight in trainer.model.weights]


def assert_weights_equal(trainer, other, atol):
    for got, expected in zip(weights(trainer), weights(other), strict=True):
        np.testing.assert_allclose(got, expected, atol=atol)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trainer that has trained for two epochs in a directory of its own."""
    trainer = make_trainer(model_dir=tmp_path_factory.mktemp("finished"))
    trainer.fit(verbose=0)
    return trainer


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run's directory."""
    return shutil.copytree(finished.model_dir, tmp_path / "run")


class History(keras.callbacks.Callback):
    """Collects the logs of every step and epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(logs)


class Forget(keras.callbacks.Callback):
    """Sets all weights to zero after the first epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.set_weights([0 * w for w in self.model.get_weights()])


# One step


@pytest.mark.parametrize(("half_windows", "length"), [(0.0, 5), (1.0, 3)])
def test_a_step_is_the_gradient_of_the_mean_loss(half_windows, length):
    """The learning rate is in proportion to the length of the windows."""
    kind = functools.partial(datasets.RandomWindows, half_windows=half_windows)
    trainer = make_trainer(
        load_data(windows=kind), optimizer="sgd", gradient_clip_norm=0.0,
        half_windows=half_windows,
    )  # fmt: skip
    inputs, targets = batch(trainer.data.training, 0)
    assert targets.shape == (4, length)
    before = weights(trainer)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                targets, trainer.model(inputs, training=True)
            )
        )
    gradients = tape.gradient(
        loss, [weight.value for weight in trainer.model.trainable_variables]
    )
    history = History()
    trainer.total_steps = 1
    trainer.fit([history], verbose=0)
    assert history.steps[0]["loss"] == pytest.approx(float(loss), abs=1e-6)
    rate = 0.01 * length / 5
    for old, new, gradient in zip(
        before, weights(trainer), gradients, strict=True
    ):
        np.testing.assert_allclose(
            new, old - rate * tf.convert_to_tensor(gradient), atol=1e-6
        )
    assert history.steps[0]["learning_rate"] == pytest.approx(rate)


@pytest.mark.parametrize(("clip", "expected"), [(0.01, 0.01), (1e6, None)])
def test_the_gradient_norm_is_clipped(clip, expected):
    trainer = make_trainer(
        optimizer="sgd", learning_rate=1.0, gradient_clip_norm=clip
    )
    before = weights(trainer)
    trainer.total_steps = 1
    trainer.fit(verbose=0)
    moved = np.sqrt(
        sum(np.sum((a - b) ** 2) for a, b in zip(before, weights(trainer)))
    )
    if expected:
        assert moved == pytest.approx(expected, rel=1e-4)
    else:
        assert moved > 0.05


def test_empty_rows_change_neither_loss_nor_gradient():
    """595 windows in one batch, without and with 45 empty rows."""
    losses = []
    for batch_size in (595, 640):
        trainer = make_trainer(
            load_data(windows=datasets.SlidingWindows, batch_size=batch_size),
            batch_size=batch_size,
            optimizer="sgd",
            learning_rate=0.5,
            gradient_clip_norm=0.0,
        )
        history = History()
        trainer.fit([history], verbose=0)
        losses.append([epoch["loss"] for epoch in history.epochs])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    assert losses[0][1] < losses[0][0] - 0.01


@pytest.fixture(scope="module")
def unsharded():
    """Trains a cell on whole batches, with carried state; each once."""

    @functools.cache
    def train(cell):
        with pytest.MonkeyPatch.context() as monkeypatch:
            change_plan(monkeypatch, shards=1)
            trainer = make_trainer(
                load_data(carry_state=True), model={"cell": cell}, epochs=1
            )
        trainer.fit(verbose=0)
        return trainer

    return train


@pytest.mark.parametrize(
    "cell, xla", [("gru", "shards"), ("lstm", "loops"), ("gru", "nothing")]
)
def test_shards_and_xla_change_nothing(cell, xla, unsharded, monkeypatch):
    """Three shards of a batch with carried state train as one does."""
    expected = unsharded(cell)
    change_plan(monkeypatch, shards=3, xla=xla)
    trainer = make_trainer(
        load_data(carry_state=True), model={"cell": cell}, epochs=1
    )
    trainer.fit(verbose=0)
    assert_weights_equal(trainer, expected, 1e-4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_loops_for_a_gpu_change_nothing(cell, monkeypatch):
    """Windows of 12 steps take two iterations of six."""
    trainers = []
    for xla_for_gpu in (False, True):
        change_plan(monkeypatch, xla_for_gpu=xla_for_gpu)
        trainer = make_trainer(
            load_data(
                windows=lambda tokens, _, rows: datasets.Streams(
                    tokens, 12, rows
                )
            ),
            model={"cell": cell},
            epochs=1,
        )
        trainer.fit(verbose=0)
        trainers.append(trainer)
    assert_weights_equal(*trainers, 1e-5)


@pytest.mark.parametrize(
    "windows, replicas, parts, half_windows",
    [(datasets.RandomWindows, 2, 1, 0.0), (datasets.Streams, 1, 2, 0.1)],
)
def test_several_steps_per_call_equal_single_steps(
    windows, replicas, parts, half_windows, monkeypatch
):
    """Up to the end of a page, of an epoch, of the run, or a half window."""
    monkeypatch.setattr(datasets.windows, "PAGE", 200)
    monkeypatch.setattr(datasets.windows, "_BLOCKS", 2)
    trainers, calls = [], []
    for steps in (1, 4):
        change_plan(monkeypatch, steps_per_call=steps)
        trainer = make_trainer(
            load_data(
                windows=functools.partial(windows, half_windows=half_windows)
            ),
            strategy=mirrored() if replicas == 2 else None,
            optimizer="sgd",
            accumulate_steps=parts,
            half_windows=half_windows,
        )
        assert trainer.data.training.batches_per_page % 4
        assert trainer.data.training.steps_per_epoch % 4
        trainer.total_steps = 35
        history = History()
        trainer.fit([history], verbose=0)
        trainers.append(trainer)
        calls.append(history.steps)
    assert trainer.step == 35
    assert len(calls[0]) == 35 >= 2 * len(calls[1])
    assert calls[0][-1]["loss"] == pytest.approx(calls[1][-1]["loss"], abs=1e-5)
    assert_weights_equal(*trainers, 1e-5)


@pytest.mark.parametrize(
    "units, rows, replicas, cores, expected",
    [
        (128, 32, 1, 2, 2),
        (128, 32, 2, 2, 1),
        (128, 8, 1, 2, 1),
        (128, 64, 1, 16, 8),
        (128, 1, 1, 2, 1),
        (512, 64, 1, 2, 1),
    ],
)
def test_shards_depend_on_cores_and_sizes(
    units, rows, replicas, cores, expected, monkeypatch
):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    decided = plan.make_plan(
        small_config(units=units), configs.TrainConfig(),
        rows, replicas, replicas, (),
    )  # fmt: skip
    assert decided.shards == expected


@pytest.mark.parametrize(
    "model, train, expected",
    [
        ({}, {}, "shards"),
        ({"units": 300}, {}, "loops"),
        ({"dropout": 0.1}, {}, "shards"),
        ({}, {"mixed_precision": True}, "loops"),
        ({"units": 512}, {"mixed_precision": True}, "nothing"),
        ({}, {"jit_compile": False}, "nothing"),
    ],
)
def test_xla_compiles_shards_loops_or_nothing(model, train, expected):
    settings = small_config(**model), configs.TrainConfig(**train)
    assert plan.make_plan(*settings, 64, 1, 1, ()).xla == expected


H100, A100, T4 = (
    devices.Gpu(name, capability)
    for name, capability in (("H100", (9, 0)), ("A100", (8, 0)), ("T4", (7, 5)))
)


@pytest.mark.parametrize(
    "model, train, gpus, expected",
    [
        ({"cell": "gru"}, {}, [H100], ("float32", False, "shards")),
        ({"cell": "lstm", "dropout": 0.1}, {"jit_compile": False}, [H100],
         ("float32", True, "nothing")),
        # What cuDNN lacks is computed by scans.
        ({"cell": "simple_rnn"}, {}, [H100], ("float32", False, "shards")),
        ({"recurrent_dropout": 0.1}, {}, [H100], ("float32", False, "shards")),
        ({"end_of_text": True}, {}, [H100], ("float32", False, "shards")),
        ({"end_of_text": True}, {"jit_compile": False}, [H100],
         ("float32", False, "nothing")),
        # cuDNN is wrong in bfloat16; float16 is for old GPUs.
        ({}, {"mixed_precision": True}, [H100],
         ("mixed_bfloat16", False, "shards")),
        ({}, {"mixed_precision": True}, [A100],
         ("mixed_bfloat16", False, "shards")),
        ({}, {"mixed_precision": True, "jit_compile": False}, [H100],
         ("mixed_float16", True, "nothing")),
        ({}, {"mixed_precision": True}, [H100, T4],
         ("mixed_float16", True, "nothing")),
        ({"cell": "simple_rnn"}, {"mixed_precision": True}, [T4],
         ("mixed_float16", False, "shards")),
        ({}, {}, [], ("float32", False, "shards")),
    ],
)  # fmt: skip
def test_precision_cudnn_and_xla_depend_on_the_devices(
    model, train, gpus, expected
):
    settings = small_config(**model), configs.TrainConfig(**train)
    decided = plan.make_plan(*settings, 64, 1, 1, tuple(gpus))
    got = decided.dtype_policy, decided.use_cudnn, decided.xla
    assert got == expected
    assert decided.use_xla_for_update == bool(
        gpus and train.get("jit_compile", True)
    )
    assert decided.steps_per_call == (10 if gpus else 1)
    several = plan.make_plan(*settings, 64, 2, 2, tuple(gpus))
    assert not several.use_xla_for_update and several.steps_per_call == 1
    # XLA would compile for each shape.
    varied = plan.make_plan(*settings, 64, 1, 1, tuple(gpus), 0)
    can_use_cudnn = bool(gpus) and plan._can_use_cudnn(
        settings[0], decided.dtype_policy
    )
    assert varied.use_cudnn == can_use_cudnn
    assert decided.xla_for_gpu == (bool(gpus) and decided.xla == "shards")


@pytest.mark.parametrize(
    "mixed_precision, gpus, expected",
    [
        (False, (), "the CPU (no GPU), float32, compiled by XLA"),
        (True, (), "the CPU (no GPU), matmuls in bfloat16, compiled by XLA"),
        (False, (H100,), "H100, float32, compiled"),
        (True, (H100, A100), "H100, A100, matmuls in bfloat16, compiled"),
        (True, (T4, T4), "T4, matmuls in float16, cuDNN"),
    ],
)
def test_a_run_describes_its_plan(mixed_precision, gpus, expected):
    train_config = configs.TrainConfig(mixed_precision=mixed_precision)
    decided = plan.make_plan(small_config(), train_config, 64, 1, 1, gpus)
    assert str(decided).startswith(expected)


def test_estimated_memory_is_near_the_measured_one():
    """GRU large of benchmarks/results/training_speed.md: 475 MiB."""
    config = small_config(
        cell="gru", units=512, embedding_dim=512, vocabulary_size=65
    )
    estimated = plan.estimated_bytes(config, 3_200_000, 6400)
    assert 0.66 * 475 * 2**20 < estimated < 475 * 2**20
    words, sampled = (
        plan.estimated_bytes(
            dataclasses.replace(config, vocabulary_size=9_000, sampled_words=n),
            8_000_000,
            6400,
        )
        for n in (0, 1_000)
    )
    assert words - sampled == 4 * 6400 * 3 * 8_000


def test_float16_with_loss_scaling_trains_like_float32(monkeypatch):
    """Except for the first steps, which find the scale."""
    losses = []
    for policy in ("float32", "mixed_float16"):
        decided = plan.ExecutionPlan(
            (), policy, False, "nothing", xla_for_gpu=False,
            use_xla_for_update=False, use_xla_for_masks=False,
            shards=1, steps_per_call=1,
        )  # fmt: skip
        monkeypatch.setattr(plan, "make_plan", lambda *_, d=decided: d)
        trainer = make_trainer(
            model={"cell": "gru", "units": 16}, gradient_clip_norm=0.1
        )
        history = History()
        trainer.fit([history], verbose=0)
        losses.append(history.epochs[-1]["loss"])
        assert history.epochs[-1]["gradient_norm"] < 2.0
    assert trainer.model.recurrent_layers[0].compute_dtype == "float16"
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


def test_a_run_in_float16_resumes_in_float32_and_back(tmp_path, monkeypatch):
    last = None
    for policy, steps in (
        ("mixed_float16", 3),
        ("mixed_float16", 0),
        ("float32", 3),
        ("mixed_float16", 0),
    ):
        change_plan(monkeypatch, dtype_policy=policy)
        trainer = make_trainer(model_dir=tmp_path / "run")
        if last:
            assert trainer.step == last.step
            assert_weights_equal(trainer, last, 0)
            for variable, expected in zip(
                trainer.model.optimizer.variables,
                last.model.optimizer.variables,
                strict=True,
            ):
                np.testing.assert_array_equal(variable, expected)
            if last._loss_scale and trainer._loss_scale:
                scale, count = map(float, trainer._loss_scale)
                assert [scale, count] == [*map(float, last._loss_scale)]
                assert (scale, count) != (2.0**15, 0)
        trainer.total_steps = trainer.step + steps
        trainer.fit(verbose=0)
        last = trainer
    assert last.step == 6 and last.model.compute_dtype == "float16"


def test_mixed_precision_trains_like_float32(tmp_path):
    losses = []
    for mixed_precision in (False, True):
        # In bfloat16, stopped within an epoch and resumed.
        for total_steps in (7, 30) if mixed_precision else (30,):
            trainer = make_trainer(
                load_data(carry_state=True),
                tmp_path / str(mixed_precision),
                model={"cell": "gru", "units": 16},
                mixed_precision=mixed_precision,
            )
            trainer.total_steps = total_steps
            trainer.fit(verbose=0)
        losses.append(trainer.evaluate(trainer.data.validation).nats_per_token)
        assert all(w.dtype == "float32" for w in trainer.best_model().weights)
    assert keras.config.dtype_policy().name == "float32"
    layer = trainer.model.recurrent_layers[0]
    assert layer.compute_dtype == "bfloat16"
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert losses[0] != losses[1]


# Replicas


def test_auto_takes_one_device_without_gpus():
    assert training.make_strategy("auto").num_replicas_in_sync == 1


def test_auto_takes_the_gpus_that_can_share_a_batch(monkeypatch, capsys):
    gpus = tf.config.list_logical_devices("CPU")[:2]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    assert training.make_strategy("auto", rows=4).num_replicas_in_sync == 2
    assert capsys.readouterr().err == ""
    assert training.make_strategy("auto", rows=3).num_replicas_in_sync == 1
    assert "note: 1 of 2 GPUs: more cannot share 3 rows" in (
        capsys.readouterr().err
    )
    for settings, count in (
        ({"batch_size": 4}, 2),
        ({"batch_size": 6, "accumulate_steps": 2}, 1),
    ):
        strategy = training.strategy_of(configs.TrainConfig(**settings))
        assert strategy.num_replicas_in_sync == count


def test_a_batch_that_does_not_divide_by_replicas_is_refused():
    with pytest.raises(
        configs.UserError, match="--batch_size=3.*multiple of 4"
    ):
        make_trainer(
            load_data(batch_size=3), batch_size=3, accumulate_steps=2,
            strategy=mirrored(),
        )  # fmt: skip


# State


def test_state_is_carried_within_an_epoch_only():
    """With a learning rate of 0, the loss of an epoch scores the streams."""
    data = load_data(carry_state=True)
    trainer = make_trainer(data, optimizer="sgd", learning_rate=0.0)
    history = History()
    trainer.fit([history], verbose=0)
    windows = data.training
    length = windows.stream_length
    model = tf.function(trainer.model)
    expected = []
    for epoch in range(2):
        text = windows.token_ids[windows._offset(epoch) :]
        nats = 0.0
        for row in range(4):
            stream = text[row * length : (row + 1) * length + 1]
            nats += float(
                tf.reduce_sum(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(
                        stream[None, 1:], model(stream[None, :-1])
                    )
                )
            )
        expected.append(nats / (len(text) - 1))
    losses = [epoch["loss"] for epoch in history.epochs]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert expected[0] != expected[1]  # the streams begin elsewhere


def test_validation_scores_every_token_with_carried_state():
    trainer = make_trainer()
    windows = trainer.data.validation
    score = trainer.evaluate(windows)
    assert score.tokens == windows.num_tokens - 1
    whole = datasets.Streams(windows.token_ids, 49, 2)
    assert trainer.evaluate(whole).nats == pytest.approx(score.nats, rel=1e-5)


# The run directory


def test_ctrl_c_saves_after_the_step_and_the_run_goes_on(tmp_path, monkeypatch):
    """In the middle of a page of a text larger than memory."""
    monkeypatch.setattr(datasets.windows, "PAGE", 60)
    handler = signal.getsignal(signal.SIGINT)
    data = load_data()
    assert not data.training.begins_page(41)
    whole = make_trainer(data, tmp_path / "whole")
    history = History()
    whole.fit([history], verbose=0)
    stopped = make_trainer(data, tmp_path / "run")
    stopped.fit([CtrlC(stopped, 40)], verbose=0)
    assert stopped.interrupted and stopped.step == 41
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = make_trainer(data, tmp_path / "run")
    assert resumed.step == 41
    resumed_history = History()
    resumed.fit([resumed_history], verbose=0)
    assert_weights_equal(resumed, whole, 1e-6)
    for logs, expected in zip(
        resumed_history.epochs, history.epochs[-1:], strict=True
    ):
        assert logs["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert logs["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-6)


def test_a_signal_during_the_last_validation_is_noticed(monkeypatch):
    trainer = make_trainer(epochs=1)
    evaluate = trainer.evaluate

    def interrupted(windows):
        signal.raise_signal(signal.SIGINT)
        return evaluate(windows)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    trainer.fit(verbose=0)
    assert trainer.is_finished and trainer.interrupted


def test_a_signal_during_a_print_still_stops_the_run(monkeypatch):
    """The handler cannot print then, as a stream refuses a second writer."""

    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

    monkeypatch.setattr("sys.stdout", Busy())
    with runs.StopRequest() as stop_request:
        signal.raise_signal(signal.SIGTERM)
        assert stop_request


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_stop_a_run_after_the_step(name, capsys):
    number = getattr(signal, name)
    # Where nohup runs the tests, SIGHUP is ignored.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with runs.StopRequest() as stop_request:
            signal.raise_signal(number)
            assert stop_request
    finally:
        signal.signal(number, before)
    assert "stopping after this step" in capsys.readouterr().out


def test_another_model_is_not_resumed(run):
    with pytest.raises(configs.UserError, match=r"--resume.*units: 6, not 7"):
        make_trainer(model_dir=run, model={"units": 7}, resume=True)
    assert (run / "checkpoints" / "last").exists()


@pytest.mark.parametrize(
    "changes", [{"model": {"units": 7}}, {"resume": False}]
)
def test_a_run_in_the_way_is_moved_aside(run, changes, capsys):
    fresh = make_trainer(model_dir=run, **changes)
    assert fresh.step == 0
    moved = run.with_name("run.1")
    assert (moved / "checkpoints" / "last" / "checkpoint").exists()
    assert "moved the run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate: 0.01, not 0.5"),
        ({"seed": 7}, "seed: 0, not 7"),
        ({"batch_size": 2}, "batch_size: 4, not 2"),
        ({"sequence_length": 7}, "sequence_length: 100, not 7"),
        ({"carry_state": True}, "carry_state: False, not True"),
        ({"tokenizer": "byte"}, "tokenizer: 'char', not 'byte'"),
        ({"mixed_precision": True}, "mixed_precision: False, not True"),
        ({}, "the text has changed"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    run, changes, message, capsys
):
    data = load_data()
    if not changes:
        data = dataclasses.replace(data, digest="of another text")
    elif "batch_size" in changes:
        data = load_data(batch_size=2)
    with pytest.raises(configs.UserError, match=f"--resume.*{message}"):
        make_trainer(data, run, resume=True, **changes)
    fresh = make_trainer(data, run, **changes)
    assert fresh.step == 0
    assert f"run.1 ({message})" in capsys.readouterr().out


def test_a_run_that_cannot_be_moved_aside_is_one_line(run, monkeypatch):
    monkeypatch.chdir(run)
    with pytest.raises(
        configs.UserError, match=r"^--model_dir=\.: .*learning_rate.* name an"
    ):
        make_trainer(model_dir=".", learning_rate=0.5)


def test_a_run_works_where_no_lock_can_be_written(tmp_path, monkeypatch):
    """As at the root of a volume; the directory may also be `.`"""
    monkeypatch.chdir(tmp_path)
    with runs.lock_run(pathlib.Path(".")):
        assert tmp_path.with_name(f"{tmp_path.name}.lock").exists()
        with (
            pytest.raises(configs.UserError, match="another process"),
            runs.lock_run(tmp_path),
        ):
            pass
    assert not tmp_path.with_name(f"{tmp_path.name}.lock").exists()
    with runs.lock_run(pathlib.Path("/proc/self")):
        pass


def test_duration_and_speed_settings_may_change(run):
    changed = make_trainer(
        model_dir=run, epochs=3, max_minutes=5.0, early_stopping=2,
        checkpoint_minutes=1.0, accumulate_steps=2, corpus="moved.txt",
    )  # fmt: skip
    assert changed.step == 60 and not changed.is_finished
    assert make_trainer(model_dir=run).is_finished


def test_a_run_recorded_without_settings_is_resumed(run):
    path = run / runs.RECORD
    record = json.loads(path.read_text())
    del record["settings"], record["digest"], record["init_from"]
    del record["held_out"]
    path.write_text(json.dumps(record))
    assert make_trainer(model_dir=run, seed=3).step == 60
    # Earlier versions validated on the end of the text.
    data = dataclasses.replace(load_data(), held_out="documents")
    with pytest.raises(
        configs.UserError, match="held_out: 'the end', not 'documents'"
    ):
        make_trainer(data, model_dir=run, resume=True)


@pytest.mark.parametrize(
    ("kind", "separator"), [("char", ". "), ("subword", "")]
)
def test_validation_bits_per_character_equal_evaluate(
    kind, separator, tmp_path
):
    """They divide by the characters of the validation text, whose words are
    half as long as those of the training text."""
    if kind == "subword":
        pytest.importorskip("tokenizers")
    text = (
        "abcdef ghijkl \u00e9\u00e9\u00e9\u00e9\u00e9\u00e9 " * 60
        + "ab cd ef g " * 20
    )
    if separator:
        words = ["abcdef", "gh", "ijkl", "\u00e9\u00e9\u00e9"]
        text = separator.join(
            " ".join(words[n // 4**place % 4] for place in range(4))
            for n in range(99)
        )
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    config = configs.TrainConfig(
        corpus=str(tmp_path / "a.txt"), tokenizer=kind, sequence_length=20,
        batch_size=4, epochs=1, jit_compile=False,
        document_separator=separator,
    )  # fmt: skip
    data = datasets.load_language_data(config, 300 if kind == "subword" else 0)
    trainer = training.Trainer(
        small_config(
            vocabulary_size=data.tokenizer.vocabulary_size(),
            end_of_text=bool(separator),
        ),
        config,
        tasks.LanguageModelTask(data),
        tmp_path / "run",
    )
    trainer.fit(verbose=0)
    (row,) = trainer.history
    held_out = text[int(len(text) * 0.9) :].encode()
    if separator:
        corpus = datasets.Corpus(config.corpus, document_separator=separator)
        part = datasets.split(corpus, 0.1, config.seed)["validation"]
        held_out = b"".join(corpus.pieces(part))
        assert held_out not in text.encode()
    exported = export.TextGenerator(trainer.best_model(), data.tokenizer)
    if separator:
        with exports.in_memory():
            loaded = inference.load(exported.save(tmp_path / "model"))
        result = loaded.evaluate(held_out)
        tokens, nats = result["tokens"], result["nats_per_token"]
        bits_per_character = result["bits_per_character"]
    else:  # the signature that `evaluate` agrees with, without a SavedModel
        score = exported.score(tf.constant([held_out]))
        tokens, nats = int(score["tokens"][0]), float(score["nats"][0])
        bits_per_character = nats / np.log(2) / int(score["characters"][0])
        nats /= tokens
    # Training reads the first document from zeros, an export as all others.
    assert row["val_loss"] == pytest.approx(
        nats, rel=1e-3 if separator else 1e-4
    )
    # The first token is given in both, but only one counts it.
    assert row["val_bits_per_character"] == pytest.approx(
        bits_per_character * (tokens + 1) / tokens, rel=1e-3
    )


def test_twenty_lines_train_with_the_defaults(tmp_path):
    """Even with more streams and shards than windows."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {n}\n" for n in range(20)))
    config = configs.TrainConfig(
        corpus=str(path), document_separator=r"\n", carry_state=True,
        jit_compile=False,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    assert data.training.num_streams == 1
    model = small_config(
        vocabulary_size=data.tokenizer.vocabulary_size(), end_of_text=True
    )
    run = tmp_path / "run"
    task = tasks.LanguageModelTask(data)
    trainer = training.Trainer(model, config, task, run)
    trainer.fit(verbose=0)
    first, *_, last = trainer.history
    assert last["loss"] < first["loss"]
    assert last["val_loss"] < first["val_loss"]
    assert training.Trainer(model, config, task, run).is_finished


@pytest.mark.parametrize(
    "losses, expected",
    [
        ([2.0, 1.5], "those of epoch 2 of 2, val_loss 1.5000."),
        ([2.0, 1.5, 1.6, 1.7], "epoch 2 of 4, val_loss 1.5000."),
        ([1.5, 2.0, 1.6, 1.7], "epoch 1 of 4.*3 epochs after it.*--dropout"),
        ([], "no validation texts"),
    ],
)
def test_the_best_epoch_is_named(losses, expected):
    trainer = make_trainer()
    trainer.history.extend(
        {"epoch": epoch, "val_loss": loss} for epoch, loss in enumerate(losses)
    )
    assert re.search(expected, descriptions.describe_best(trainer))


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """Before the damaged weights are saved."""
    trainer = make_trainer(model_dir=tmp_path / "run", checkpoint_minutes=0.0)
    train, steps = trainer._steps.train, []

    def poisoned(*arguments):
        sums, states, learning_rate, norm = train(*arguments)
        steps.append(sums)
        if len(steps) == 9:
            norm = tf.constant(np.inf)
        return sums, states, learning_rate, norm

    monkeypatch.setattr(trainer._steps, "train", poisoned)
    with pytest.raises(
        configs.UserError, match="gradient norm is inf at step 9 .*last/ckpt-8"
    ):
        trainer.fit(verbose=0)


def test_a_validation_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    trainer = make_trainer(model_dir=tmp_path / "run")
    score = metrics.Score(float("nan"), 10, 10.0)
    monkeypatch.setattr(trainer, "evaluate", lambda windows: score)
    with pytest.raises(configs.UserError, match="validation loss is nan"):
        trainer.fit(verbose=0)
    assert not list((tmp_path / "run/checkpoints/best").glob("ckpt*"))
    assert not list((tmp_path / "run/checkpoints/last").glob("ckpt*"))


def test_resume_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(configs.UserError, match="no checkpoint"):
        make_trainer(model_dir=tmp_path / "run", resume=True)


def test_an_epoch_interrupted_before_validation_ends_once(finished, tmp_path):
    """At step 30 the first epoch has ended but for its validation."""
    stopped = make_trainer(model_dir=tmp_path / "run")
    stopped.fit([CtrlC(stopped, 29)], verbose=0)
    assert stopped.step == 30
    make_trainer(model_dir=tmp_path / "run").fit(verbose=0)
    histories = [
        (directory / "history.csv").read_bytes()
        for directory in (finished.model_dir, tmp_path / "run")
    ]
    assert histories[0] == histories[1]
    assert histories[0].count(b"\n") == 3


def test_history_is_restored_from_the_checkpoint(run):
    """A kill between the two writes leaves them different."""
    path = run / "history.csv"
    expected = path.read_text()
    path.write_text("epoch,loss\n0,1.0\n")
    make_trainer(model_dir=run)
    assert path.read_text() == expected


def test_checkpoints_within_an_epoch_are_saved_by_time(tmp_path):
    """With 0 minutes after every step; the last two are kept."""
    data = load_data(carry_state=True)
    settings = {"epochs": 1, "checkpoint_minutes": 0.0}
    whole = make_trainer(data, tmp_path / "whole", epochs=1)
    whole.fit(verbose=0)
    killed = make_trainer(data, tmp_path / "run", **settings)

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if killed.step == 13:
                raise SystemExit

    with pytest.raises(SystemExit):
        killed.fit([Kill()], verbose=0)
    resumed = make_trainer(data, tmp_path / "run", **settings)
    assert resumed.step == 12
    resumed.fit(verbose=0)
    assert_weights_equal(resumed, whole, 1e-6)


def test_early_stopping_counts_across_resumes(tmp_path):
    """Nothing is learned, so the first epoch stays the best."""
    settings = {"optimizer": "sgd", "learning_rate": 0.0, "epochs": 9}
    trainer = make_trainer(
        model_dir=tmp_path / "run", early_stopping=3, **settings
    )
    steps = trainer.data.training.steps_per_epoch
    trainer.fit([CtrlC(trainer, 2 * steps + 4)], verbose=0)
    for _ in range(2):
        resumed = make_trainer(
            model_dir=tmp_path / "run", early_stopping=3, **settings
        )
        resumed.fit(verbose=0)
        assert resumed.step == 4 * steps


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + b"?!" + content[middle + 2 :])


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("ckpt-60.data*", "cut"),
        ("ckpt-60.data*", "changed"),
        ("ckpt-60.index", "empty"),
    ],
)
def test_a_damaged_checkpoint_is_skipped(run, file, how, capsys):
    (path,) = (run / "checkpoints/last").glob(file)
    damage(path, how)
    assert make_trainer(model_dir=run).step == 30
    assert "ckpt-60 is damaged" in capsys.readouterr().err


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(finished, run):
    expected = (run / "history.csv").read_bytes()
    (path,) = (run / "checkpoints/last").glob("ckpt-60.data*")
    damage(path, "cut")
    resumed = make_trainer(model_dir=run)
    resumed.fit(verbose=0)
    assert_weights_equal(resumed, finished, 1e-6)
    assert (run / "history.csv").read_bytes() == expected


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_damaged_list_of_checkpoints_does_no_harm(run, how):
    damage(run / "checkpoints/last/checkpoint", how)
    assert make_trainer(model_dir=run).step == 60


def test_where_all_checkpoints_are_damaged_the_newest_is_named(run):
    for path in (run / "checkpoints/last").glob("*.data*"):
        damage(path, "cut")
    with pytest.raises(
        configs.UserError, match=r"--resume: neither .*last/ckpt-60 nor an earl"
    ):
        make_trainer(model_dir=run)


def test_a_full_disk_costs_no_checkpoint(run):
    """A limit on file sizes simulates the full disk."""
    resource = pytest.importorskip("resource")
    trainer = make_trainer(model_dir=run, epochs=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(configs.UserError) as error:
            trainer.fit(verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    message = str(error.value)
    assert "--model_dir: cannot write a checkpoint" in message
    assert "kept" in message and "\n" not in message
    resumed = make_trainer(model_dir=run, epochs=3)
    assert resumed.step == 60
    resumed.fit(verbose=0)
    assert resumed.step == 90


def test_a_disk_full_at_the_history_loses_nothing(tmp_path, monkeypatch):
    """The checkpoint before is whole, and resuming writes the history again."""
    whole_file = runs.files.whole_file

    @contextlib.contextmanager
    def full(path):
        with whole_file(path) as file:
            if path.name == "history.csv":
                raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    trainer = make_trainer(model_dir=tmp_path / "run", epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(runs.files, "whole_file", full)
        with pytest.raises(
            configs.UserError,
            match="cannot write .*/history.csv .No space.*checkpoint is kept",
        ):
            trainer.fit(verbose=0)
    assert not list((tmp_path / "run").glob("history*"))
    resumed = make_trainer(model_dir=tmp_path / "run", epochs=2)
    assert resumed.step == 30
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("regularized", [{}, {"token_dropout": 0.1}])
def test_the_best_weights_are_kept(tmp_path, regularized):
    """Word dropout is a layer more, which the exported model lacks."""
    trainer = make_trainer(
        model_dir=tmp_path / "run", epochs=2, model=regularized
    )
    history = History()
    trainer.fit([Forget(), history], verbose=0)
    first, second = (epoch["val_loss"] for epoch in history.epochs)
    assert first < second
    last = weights(trainer)
    best = trainer.best_model()
    for got, expected in zip(weights(trainer), last):
        assert np.array_equal(got, expected)
    trainer.model.set_weights(best.get_weights())
    score = trainer.evaluate(trainer.data.validation)
    assert score.nats_per_token == pytest.approx(first, abs=1e-6)


def test_the_last_weights_do_not_stand_in_for_damaged_best_ones(
    tmp_path, capsys
):
    """The second epoch is worse than the first."""
    trainer = make_trainer(model_dir=tmp_path / "run", epochs=2)
    trainer.fit([Forget()], verbose=0)
    best = trainer.best_model()
    assert not np.array_equal(best.get_weights()[0], weights(trainer)[0])
    (data,) = (tmp_path / "run/checkpoints/best").glob("ckpt-30.data*")
    damage(data, "cut")
    with pytest.raises(
        configs.UserError, match="best, are missing or damaged: .* --init_from="
    ):
        trainer.best_model()
    assert "best/ckpt-30 is damaged" in capsys.readouterr().err


def test_without_validation_the_last_weights_are_exported(tmp_path):
    data = load_data()
    data = datasets.LanguageData(data.tokenizer, data.training, None)
    trainer = make_trainer(data, tmp_path / "run", epochs=1)
    history = History()
    trainer.fit([history], verbose=0)
    assert "val_loss" not in history.epochs[0]
    for got, expected in zip(
        trainer.best_model().get_weights(), weights(trainer)
    ):
        assert np.array_equal(got, expected)


# Around the step


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                first = self.model.weights[0]
                first.assign(first * np.nan)

    trainer = make_trainer(model_dir=tmp_path / "run", epochs=3)
    steps = trainer.data.training.steps_per_epoch
    with pytest.raises(configs.UserError) as error:
        trainer.fit([Poison()], verbose=0)
    message = str(error.value)
    assert f"the loss is nan at step {steps + 1}" in message
    assert "learning rate 0.01" in message and "--learning_rate" in message
    kept = pathlib.Path(message.rsplit(" ", 1)[1])
    assert kept.name == f"ckpt-{steps}"
    resumed = make_trainer(model_dir=tmp_path / "run", epochs=3)
    assert resumed.step == steps
    assert all(np.isfinite(weight).all() for weight in weights(resumed))


def test_keras_callbacks_work(tmp_path):
    history = History()
    trainer = make_trainer(epochs=9)
    trainer.fit(
        [
            history,
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.0),
            keras.callbacks.EarlyStopping(patience=2),
            keras.callbacks.CSVLogger(str(tmp_path / "history.csv")),
            keras.callbacks.TensorBoard(
                str(tmp_path / "board"), write_graph=False
            ),
        ],
        verbose=0,
    )
    assert len(history.epochs) == 3  # nothing moved, so the first was the best
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["tokens_per_second"]) > 0
    for split in ("", "val_"):
        loss, perplexity, bits = (
            float(rows[0][f"{split}{name}"])
            for name in ("loss", "perplexity", "bits_per_character")
        )
        assert perplexity == pytest.approx(np.exp(loss))
        assert bits == pytest.approx(loss / np.log(2))  # a token is one
    for split in ("train", "validation"):
        assert list((tmp_path / "board" / split).glob("events*"))


@pytest.fixture
def a_second_a_step(monkeypatch):
    """Makes each step of a trainer, passed to this, take one second."""
    trainers = []
    clock = types.SimpleNamespace(
        monotonic=lambda: float(trainers[-1].step if trainers else 0),
        perf_counter=time.perf_counter,
    )
    for module in ("schedules", "trainer"):
        monkeypatch.setattr(f"stacked_rnn.training.{module}.time", clock)
    return trainers.append


def test_the_time_limit_stops_within_an_epoch(a_second_a_step):
    trainer = make_trainer(epochs=1000, max_minutes=0.75)
    a_second_a_step(trainer)
    trainer.fit(verbose=0)
    assert trainer.step in (45, 46) and not trainer.is_finished
    assert [row["epoch"] for row in trainer.history] == [0, 1]
    assert "val_loss" in trainer.history[-1]
    trainer.fit(verbose=0)  # goes on for as long again
    assert 90 <= trainer.step <= 93


def test_a_slow_first_step_ends_no_epoch(monkeypatch, a_second_a_step):
    """XLA compiles in it: it says nothing of how long a validation takes."""
    trainer = make_trainer(epochs=0, max_minutes=0.75)
    a_second_a_step(trainer)
    monkeypatch.setattr(
        training.trainer.time,
        "perf_counter",
        lambda: trainer.step + 100.0 * (trainer.step > 0),
    )
    trainer.fit(verbose=0)
    assert [row["step"] for row in trainer.history] == [30, trainer.step]


def test_a_resumed_run_leaves_time_for_its_validation(
    tmp_path, monkeypatch, a_second_a_step
):
    """A batch has 20 tokens, the validation text 100, in half the time each."""
    for last in (35, 40):
        trainer = make_trainer(
            model_dir=tmp_path / "run", epochs=0, max_minutes=2.0
        )
        a_second_a_step(trainer)
        monkeypatch.setattr(
            training.trainer.time,
            "perf_counter",
            lambda trainer=trainer: float(trainer.step),
        )
        trainer.fit([CtrlC(trainer, last)], verbose=0)
    assert trainer.interrupted and trainer.step == 41
    assert trainer._clock.validation == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize(("replicas", "steps_of_a_call"), [(2, 1), (1, 4)])
def test_a_timed_run_ends_with_its_schedule(
    replicas, steps_of_a_call, tmp_path, monkeypatch, a_second_a_step
):
    """75 seconds are 2.5 epochs, even if the run is interrupted."""
    change_plan(
        monkeypatch,
        steps_per_call=steps_of_a_call,
        use_xla_for_update=steps_of_a_call > 1,  # as on a GPU
    )

    def make(minutes):
        trainer = make_trainer(
            model_dir=tmp_path / "run",
            strategy=mirrored() if replicas == 2 else None,
            learning_rate_schedule="cosine", epochs=0, max_minutes=minutes,
        )  # fmt: skip
        a_second_a_step(trainer)
        return trainer

    stopped = make(1.25)
    stopped.fit([CtrlC(stopped, 38)], verbose=0)
    assert stopped.interrupted and not stopped.is_finished
    assert 30 < stopped.step < 50
    progress = descriptions.describe_progress(stopped)
    assert f"step {stopped.step}, after 0." in progress
    trainer = make(1.25)
    history = History()
    trainer.fit([history], verbose=0)
    # A step learns of the time when the next one begins.
    assert 75 <= trainer.step <= 75 + 3 * steps_of_a_call
    assert trainer.is_finished and make(1.25).is_finished
    assert not make(2.0).is_finished
    assert [row["epoch"] for row in trainer.history] == [0, 1, 2]
    assert len(history.epochs) == 2 and "val_loss" in history.epochs[-1]
    rates = [logs["learning_rate"] for logs in history.steps]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.004 and rates[-1] < 0.0004


def test_the_time_that_continues_a_finished_run_is_longer_than_its_own():
    trainer = types.SimpleNamespace(
        config=configs.TrainConfig(epochs=0, max_minutes=2.0),
        has_converged=False, seconds=600.0,
    )  # fmt: skip
    assert pipeline._how_to_continue(trainer) == "--max_minutes=20"


def test_the_softmax_temperature_of_the_validation_text_is_found(finished):
    task = finished.task
    exported = task.exported(finished.best_model())
    readout = exported.model.readout
    weights = readout.get_weights()

    def found_at(temperature):
        readout.set_weights([weight / temperature for weight in weights])
        return task.calibrate(exported)["softmax_temperature"]

    # Repeated, steps of Newton's method end where the loss is the lowest.
    score = finished.evaluate(task.data.validation)
    found = found_at(1.0)
    assert found["tokens"] == score.tokens
    assert found["loss_at_1"] == pytest.approx(score.nats_per_token)
    best = found["temperature"]
    for _ in range(3):
        found = found_at(best)
        best *= found["temperature"]
    assert found["temperature"] == pytest.approx(1.0, abs=0.002)
    lowest, below, above = (found_at(best * x) for x in (1.0, 0.9, 1.1))
    assert lowest["loss_at_1"] < min(below["loss_at_1"], above["loss_at_1"])
    assert above["loss"] == pytest.approx(lowest["loss_at_1"], abs=1e-3)


def test_a_long_epoch_is_validated_within(monkeypatch, a_second_a_step):
    """A run of 150 seconds, whose epoch has 120 steps; training goes on."""
    trainers = []
    for tokens_per_scored, steps in (
        (11, [120, 152]),
        (1, [31, 62, 93, 120, 152]),
    ):
        monkeypatch.setattr(
            training.trainer, "_TOKENS_PER_SCORED", tokens_per_scored
        )
        trainer = make_trainer(
            load_data(carry_state=True, batch_size=1),
            epochs=0, max_minutes=2.5,
        )  # fmt: skip
        a_second_a_step(trainer)
        history = History()
        trainer.fit([history], verbose=0)
        rows = trainer.history
        assert [row["step"] for row in rows] == pytest.approx(steps, abs=1)
        assert [row["epoch"] for row in rows][-2:] == [0, 1]
        assert len(history.epochs) == len(rows)
        # The loss of a row is that since the row before.
        losses = [logs["loss"] for logs in history.steps]
        assert rows[-1]["loss"] == pytest.approx(losses[-1])
        trainers.append(trainer)
    plain = make_trainer(load_data(carry_state=True, batch_size=1), epochs=2)
    plain.fit([CtrlC(plain, trainer.step - 1)], verbose=0)
    for trainer in trainers:
        assert_weights_equal(trainer, plain, atol=1e-6)


@pytest.fixture
def validated_as(monkeypatch):
    """Makes the validations of all trainers give losses, passed to this."""

    def script(*losses):
        scores = (metrics.Score(100 * loss, 100, 100) for loss in losses)
        monkeypatch.setattr(
            training.Trainer, "evaluate", lambda *_: next(scores)
        )

    return script


@pytest.mark.parametrize(
    ("at_the_end", "rows"), [(1.5, [2.0, 1.0, 1.5]), (0.5, [2.0, 0.5])]
)
def test_the_row_of_the_best_weights_is_kept(
    at_the_end, rows, tmp_path, validated_as, a_second_a_step
):
    """The time cuts the second epoch, which ends later."""
    validated_as(2.0, 1.0, at_the_end)
    trainer = make_trainer(model_dir=tmp_path / "run", max_minutes=0.75)
    a_second_a_step(trainer)
    trainer.fit(verbose=0)
    assert 30 < trainer.step < 60
    trainer.fit(verbose=0)
    assert trainer.is_finished
    assert [row["val_loss"] for row in trainer.history] == rows
    assert trainer.best_row["val_loss"] == min(rows)


def test_early_stopping_counts_whole_epochs(
    monkeypatch, validated_as, a_second_a_step
):
    """The best check is within the first one, of 120 steps."""
    monkeypatch.setattr(training.trainer, "_TOKENS_PER_SCORED", 1)
    validated_as(3.0, 2.0, 1.0, 1.5, 1.5)
    trainer = make_trainer(
        load_data(carry_state=True, batch_size=1),
        epochs=0, max_minutes=2.5, early_stopping=1,
    )  # fmt: skip
    a_second_a_step(trainer)
    trainer.fit(verbose=0)
    assert trainer.step > 150 and not trainer.has_converged


def test_a_timed_run_resumes_by_epochs_and_back(tmp_path, a_second_a_step):
    run = tmp_path / "run"
    for settings, step in (
        ({"epochs": 0, "max_minutes": 0.6}, 37),
        ({"epochs": 2}, 60),
        ({"epochs": 0, "max_minutes": 1.0}, 85),
    ):
        trainer = make_trainer(
            model_dir=run, learning_rate_schedule="cosine", **settings
        )
        a_second_a_step(trainer)
        # Ctrl-C in the last step of the first run still validates.
        trainer.fit([CtrlC(trainer, 36)], verbose=0)
        assert trainer.step == pytest.approx(step, abs=1)
        assert trainer.is_finished and trainer.interrupted == (step == 37)
        assert "val_loss" in trainer.history[-1]


def test_cosine_schedule_warms_up_and_decays():
    trainer = make_trainer(
        epochs=100, learning_rate=1.0, learning_rate_schedule="cosine"
    )
    rates = []
    assert trainer.total_steps == 3000
    for step in (0, 50, 100, 1550, 3000):
        trainer.optimizer.iterations.assign(step)
        rates.append(float(trainer.optimizer.learning_rate))
    np.testing.assert_allclose(
        rates, [1 / 101, 0.505, 1, 0.505, 0.01], atol=1e-3
    )


def test_rmsprop_learns():
    """Other tests train with each of the other optimizers."""
    trainer = make_trainer(optimizer="rmsprop")
    trainer.fit(verbose=0)
    losses = [row["loss"] for row in trainer.history]
    assert losses[1] < losses[0]


def test_a_run_is_described_in_two_lines(monkeypatch):
    what, how = descriptions.describe_run(make_trainer()).splitlines()
    assert "600 tokens to learn from, 2 epoch(s) of 30 steps" in what
    assert how == "On the CPU (no GPU), float32, without XLA"
    monkeypatch.setattr(plan, "estimated_bytes", lambda *_: 2e9)
    trainer = make_trainer(strategy=mirrored(), epochs=0, max_minutes=3.0)
    what, how = descriptions.describe_run(trainer).splitlines()
    assert "epochs of 30 steps, as many as fit in 3 minutes" in what
    assert how.startswith("On 2 devices: the CPU (no GPU), float32")
    assert how.endswith(", about 2.0 GB of memory on each device")
