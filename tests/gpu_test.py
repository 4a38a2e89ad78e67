"""On a GPU: results equal those of a CPU, and exports run anywhere.

Skipped where there is none. Some minutes on one, most of them for compiling;
with 16 cores, and where pytest-benchmark is installed, whose warning is fatal:

  python -m pytest tests/gpu_test.py -n 8 --dist=loadgroup -p no:benchmark
"""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, inference, layers, rnn_ops
from stacked_rnn.utils import devices
from tests.helpers import ROOT, small_tasks, workers
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"), reason="there is no GPU"
)
of_runs = pytest.mark.xdist_group("runs")
PROMPTS = ["", "The", "The cat sat on the mat. The d", "T"]


@pytest.fixture(autouse=True)
def without_tf32():
    """Turns off TensorFloat-32, which keeps ten bits only."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(True)


def fit(trainer, steps=20):
    """Trains for some steps; returns their mean loss."""
    losses = []
    trainer.total_steps = steps
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    trainer.fit([note], verbose=0)
    assert trainer.step == steps
    return losses[-1]


def on_cpu(monkeypatch, *arguments, **options):
    """Makes a trainer that knows of no GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(devices, "gpus", lambda: ())
        return small_tasks.make_trainer(
            *arguments,
            strategy=tf.distribute.OneDeviceStrategy("CPU:0"),
            **options,
        )


def assert_same_run(one, other, atol=1e-3):
    assert fit(one) == pytest.approx(fit(other), abs=atol)
    for a, b in zip(
        one.model.get_weights(), other.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    "task, use_cudnn, model, train",
    [
        ("language_model", True, {"cell": "gru"}, {}),
        ("language_model", True, {"cell": "lstm", "num_layers": 3},
         {"carry_state": True, "gradient_clip_norm": 0.1}),
        ("language_model", True, {"cell": "lstm", "residual": True},
         {"accumulate_steps": 2, "carry_state": True}),
        # Long enough for XLA.
        ("language_model", False, {"cell": "gru"}, {"epochs": 10**6}),
        ("language_model", False, {"cell": "lstm"},
         {"epochs": 10**6, "carry_state": True, "optimizer": "muon"}),
        ("language_model", False, {"cell": "simple_rnn"}, {}),
        ("language_model", False, {"cell": "gru"},
         {"document_separator": "\\n", "carry_state": True}),
        ("classifier", True, {"cell": "gru"}, {}),
        ("classifier", True, {"cell": "lstm", "pooling": "max"}, {}),
        ("classifier", False, {"cell": "simple_rnn", "num_layers": 1}, {}),
        ("seq2seq", True, {"cell": "gru"}, {}),
        ("seq2seq", True, {"cell": "lstm", "num_layers": 1}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_training_on_the_gpu_equals_the_cpu(
    task, use_cudnn, model, train, tmp_path, monkeypatch
):
    settings = {"model": model, "epochs": 9} | train
    trainer = small_tasks.make_trainer(task, tmp_path, **settings)
    assert trainer.plan.use_cudnn == use_cudnn
    variable = trainer.model.trainable_variables[0].value
    assert "GPU" in variable.device
    other = on_cpu(monkeypatch, task, tmp_path, **settings, jit_compile=False)
    assert_same_run(trainer, other)
    validation = trainer.data.validation
    if validation:
        scores = [
            t.evaluate(validation).logs()["loss"] for t in (trainer, other)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("task", small_tasks.TASKS)
def test_mirrored_over_one_gpu_equals_one_device(task, tmp_path):
    one, other = (
        small_tasks.make_trainer(task, tmp_path, epochs=9, strategy=strategy)
        for strategy in (
            None, tf.distribute.MirroredStrategy(["GPU:0"])
        )
    )  # fmt: skip
    assert_same_run(one, other, 1e-4)


@pytest.mark.parametrize(
    "policy, train",
    [("mixed_bfloat16", {}), ("mixed_float16", {"jit_compile": False})],
)
@pytest.mark.parametrize("task", small_tasks.TASKS)
def test_mixed_precision_trains(task, policy, train, tmp_path):
    losses = []
    for mixed in (False, True):
        trainer = small_tasks.make_trainer(
            task, tmp_path, epochs=40, mixed_precision=mixed, **train
        )
        losses.append(fit(trainer, 60))
    assert trainer.model.dtype_policy.name == policy
    assert losses[0] == pytest.approx(losses[1], abs=0.1)


@pytest.mark.parametrize(
    "before, growth", [("", ""), ("tf.zeros(1); ", "true")]
)
def test_gpu_memory_grows_on_demand(before, growth):
    """In a new process, as TensorFlow decides when it starts.

    A strategy can also be made once TensorFlow has started.
    """
    program = (
        "import tensorflow as tf; from stacked_rnn import training; "
        f"{before}strategy = training.make_strategy('one_device'); "
        "gpu = tf.config.list_physical_devices('GPU')[0]; "
        "print(type(strategy).__name__, "
        "tf.config.experimental.get_memory_growth(gpu))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True,
        text=True, check=True,
        env=os.environ | {"TF_FORCE_GPU_ALLOW_GROWTH": growth},
    )  # fmt: skip
    name, grows = ran.stdout.split()[-2:]
    assert name == "OneDeviceStrategy"
    assert before or grows == "True"


# Layers


def values_and_gradients(layer, dtype, mask=None):
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(size=(3, 7, 5)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs, *states = layer(
            x, mask=None if mask is None else tf.constant(mask), training=True
        )
        loss = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float32))) + sum(
            tf.reduce_sum(tf.cast(state, tf.float32) ** 2) for state in states
        )
    gradients = tape.gradient(loss, [x, *(w.value for w in layer.weights)])
    return [
        tf.cast(value, tf.float32) for value in (outputs, *states, *gradients)
    ]


def layer_pair(name, dtype, **options):
    """Makes a layer with the scan and one with cuDNN, with equal weights."""
    rng = np.random.default_rng(0)
    made = []
    for use_cudnn in (False, True):
        layer = getattr(layers, name)(
            6,
            use_cudnn=use_cudnn,
            return_sequences=True,
            return_state=True,
            zero_output_for_mask=True,
            dtype=dtype,
            **options,
        )
        layer.build((3, 7, 5))
        made.append(layer)
    weights = [rng.normal(0, 0.5, w.shape) for w in made[0].get_weights()]
    for layer in made:
        layer.set_weights(weights)
    return made


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["GRU", "LSTM"])
@pytest.mark.parametrize(
    "policy, atol", [("float32", 1e-5), ("mixed_float16", 0.02)]
)
def test_cudnn_equals_the_scan(name, masked, go_backwards, policy, atol):
    """Including a row of padding only."""
    scan, cudnn = layer_pair(name, policy, go_backwards=go_backwards)
    dtype = "float16" if "16" in policy else policy
    mask = np.arange(7) < np.array([[7], [3], [0]]) if masked else None
    for got, wanted in zip(
        values_and_gradients(cudnn, dtype, mask),
        values_and_gradients(scan, dtype, mask),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, atol=atol)


@pytest.mark.parametrize("cell", rnn_ops.cudnn.CELLS)
def test_cudnn_in_bfloat16_is_still_wrong(cell):
    """If TensorFlow mends it, `plan` may use it (2.21 has not)."""
    rng = np.random.default_rng(0)
    gates = {"gru": 3, "lstm": 4}[cell]
    values = [
        tf.constant(rng.normal(0, 0.5, shape), tf.float32)
        for shape in (
            (3, 7, 8), (3, 8), (3, 8), (8, 8 * gates), (8, 8 * gates),
            (2, 8 * gates) if cell == "gru" else (8 * gates,),
        )
    ]  # fmt: skip

    def results(dtype):
        x, h, c, *weights = (tf.cast(value, dtype) for value in values)
        states = (h, c) if cell == "lstm" else (h,)
        with tf.GradientTape() as tape:
            tape.watch([x, *states, *weights])
            outputs, _ = rnn_ops.cudnn.stack(cell, x, (states,), (weights,))
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        gradients = tape.gradient(loss, [x, *states, *weights])
        return [tf.cast(value, tf.float32) for value in [outputs, *gradients]]

    off = [
        float(tf.reduce_max(tf.abs(got - wanted)))
        for got, wanted in zip(results("bfloat16"), results("float32"))
    ]
    print(f"{cell} by cuDNN in bfloat16 is off by", off)
    assert max(off) > 0.5


# Commands


def start(script, directory, *flags, **environment):
    return subprocess.Popen(
        [sys.executable, ROOT / script, *flags],
        cwd=directory,
        env=os.environ | {"NVIDIA_TF32_OVERRIDE": "0"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return output


def train(directory, *flags, **environment):
    directory.mkdir(exist_ok=True)
    (directory / "cats.txt").write_text(workers.TEXT)
    return start(
        "train.py", directory, "--corpus=cats.txt", "--units=64",
        "--cell=lstm", "--epochs=6", "--batch_size=8", "--sequence_length=20",
        "--carry_state", *flags, **environment,
    )  # fmt: skip


NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of runs: on the GPU, on the CPU, and killed on the GPU."""
    directory = tmp_path_factory.mktemp("runs")
    on_gpu = train(directory / "gpu")
    on_cpu = train(directory / "cpu", **NO_GPU)
    killed = train(directory / "killed", "--checkpoint_minutes=0")

    def has_checkpoint():
        assert killed.poll() is None
        return workers.checkpoints(directory / "killed")

    wait_until(has_checkpoint, 100)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    outputs = [finish(on_gpu), finish(on_cpu)]
    again = train(directory / "killed", "--checkpoint_minutes=0")
    outputs.append(finish(again))
    return directory, outputs


@of_runs
def test_a_run_reports_its_devices(runs):
    _, (gpu, cpu, killed) = runs
    assert f"{devices.gpus()[0].name}, float32, cuDNN" in gpu
    assert "the CPU (no GPU), float32, compiled by XLA" in cpu
    assert "resuming at step" in killed


@of_runs
def test_a_killed_run_resumes_to_the_same_result(runs):
    directory, _ = runs
    np.testing.assert_allclose(
        workers.history(directory / "killed"),
        workers.history(directory / "gpu"),
        atol=1e-3,
    )
    on_cpu, on_gpu = (
        workers.history(directory / name)[:, 2]  # the loss
        for name in ("cpu", "gpu")
    )
    np.testing.assert_allclose(on_cpu, on_gpu, atol=2e-2)


@of_runs
@pytest.mark.parametrize("made_on", ["gpu", "cpu"])
def test_an_export_gives_the_same_text_anywhere(made_on, runs, monkeypatch):
    directory, _ = runs
    saved_model = directory / made_on / "saved_models/cats"
    graph = (saved_model / "1/saved_model.pb").read_bytes()
    assert b"Cudnn" not in graph and b"GPU:" not in graph
    lines = directory / f"{made_on}.txt"
    lines.write_text("\n".join(PROMPTS[1:]) + "\n")
    flags = (
        f"--saved_model={saved_model}", f"--prompts_file={lines}",
        "--temperature=0", "--max_new_tokens=60", "--output=jsonl",
    )  # fmt: skip
    processes = [
        start("generate.py", directory, *flags, **environment)
        for environment in ({}, NO_GPU)
    ]
    gpu, cpu = (
        [json.loads(line)["text"] for line in finish(process).splitlines()]
        for process in processes
    )
    assert gpu == cpu
    model = inference.load(str(saved_model))
    sampling = configs.SamplingConfig(max_new_tokens=60, temperature=0.0)
    for worth in (0, 10**9):  # with XLA, and without
        monkeypatch.setattr(inference.language_model, "WORTH_COMPILING", worth)
        texts = [row.text for row in model.continuations(PROMPTS, sampling)]
        assert texts[1:] == cpu
        assert len(texts[0]) == 60
