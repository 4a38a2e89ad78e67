"""Training on a simulated GPU, and exports that run anywhere."""

import ctypes
import os

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from stacked_rnn import configs, tokenizers
from stacked_rnn.training import descriptions
from stacked_rnn.utils import devices
from tests.helpers import simulated_gpu, small_tasks

TEXTS = ["", "abc", "a", "hgfedcbahgfe"]


@pytest.mark.parametrize(
    "limit, expected",
    [
        ("max 100000", 6), ("150000 100000", 2), ("50000 100000", 1),
        ("1600000 100000", 6), ("garbage", 6), (None, 6),
    ],
)  # fmt: skip
def test_cores_are_those_available_to_the_process(
    limit, expected, tmp_path, monkeypatch
):
    """64 cores, of which affinity allows six, and a container fewer."""
    monkeypatch.setattr(devices, "_CPU_LIMIT", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n", encoding="utf-8")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(6)), raising=False
    )
    assert devices.cores() == expected


def test_cores_without_an_affinity_are_those_of_the_machine(monkeypatch):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, expected in ((64, 64), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert devices.cores() == expected


def test_the_gpus_of_a_strategy_are_those_that_it_names(monkeypatch):
    cards = [devices.Gpu("new", (9, 0)), devices.Gpu("old", (7, 5))]
    monkeypatch.setattr(devices, "gpus", lambda: tuple(cards))
    job = "/job:localhost/replica:0/task:0/device:"
    for names, expected in (
        ([f"{job}GPU:0"], cards[:1]), ([f"{job}GPU:1"], cards[1:]),
        ([f"{job}CPU:0"], cards), ([f"{job}GPU:0", f"{job}GPU:2"], cards),
    ):  # fmt: skip
        assert devices.gpus_among(names) == tuple(expected)


def saved_graph(path):
    """All nodes of a SavedModel, those of its functions included."""
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    return [
        *graph.node,
        *(
            node
            for function in graph.library.function
            for node in function.node_def
        ),
    ]


def use(saved, task):
    """Calls each signature with texts of different lengths, an empty one."""
    texts = tf.constant(TEXTS)
    results = {}
    for name, signature in saved.signatures.items():
        inputs = {
            argument: texts
            for argument in ("texts", "prompts", "outputs")
            if argument in signature.structured_input_signature[1]
        }
        if name == "generate":
            continue  # by its defaults below
        if name == "search":
            inputs |= {
                "num_beams": tf.constant(3),
                "length_penalty": tf.constant(0.0),
                "max_new_tokens": tf.constant(5),
            }
        if name == "decode_step":
            ids = tf.constant([1, 2])
            states = {
                argument: tf.ones([2, spec.shape[1]], spec.dtype)
                for argument, spec in signature.structured_input_signature[
                    1
                ].items()
                if argument != "token_ids"
            }
            inputs = {"token_ids": ids, **states}
        results[name] = signature(**inputs)
    if task == "language_model":
        results["generate"] = saved.generate(texts)
    return results


@pytest.mark.parametrize(
    "task, cell, model, separator",
    [
        ("language_model", "lstm", {"residual": True}, "|"),
        ("classifier", "gru", {}, None),
        ("classifier", "lstm",
         {"bidirectional": True, "pooling": "mean_max"}, None),
        ("seq2seq", "gru", {"bidirectional": True}, "|"),
    ],
    ids=str,
)  # fmt: skip
def test_an_export_made_beside_a_gpu_runs_anywhere(
    task, cell, model, separator, tmp_path, monkeypatch
):
    """Layers that train with cuDNN; conformance_test.py exports others."""
    config = configs.ModelConfig(
        cell=cell,
        units=6,
        embedding_dim=5,
        dropout=0.1,
        end_of_text=task == "language_model" and bool(separator),
        **model,
    )
    tokenizer = tokenizers.build(
        "char", b"abcdefgh", document_separator=separator or ""
    )
    with monkeypatch.context() as patch:
        simulated_gpu.plug_in(patch)
        product = small_tasks.untrained_export(
            task, config, tokenizer, use_cudnn=True
        )
        path = product.save(tmp_path)
    nodes = saved_graph(path)
    assert len(nodes) > 100
    assert [node.op for node in nodes if "Cudnn" in node.op] == []
    # TensorFlow itself has saving and restoring on the CPU.
    assert {node.device for node in nodes} <= {
        "", "/device:CPU:0", "/device:CPU:*",
    }  # fmt: skip
    results = use(tf.saved_model.load(str(path)), task)
    assert (
        len(results)
        == {"language_model": 6, "classifier": 1, "seq2seq": 3}[task]
    )
    for name, result in results.items():
        for value in result.values():
            if value.dtype.is_floating and name != "search":
                assert np.isfinite(value).all()


@pytest.mark.parametrize(
    "task, model, train",
    [
        ("language_model", {"cell": "lstm", "residual": True},
         {"carry_state": True, "accumulate_steps": 2}),
        ("classifier", {"cell": "gru", "num_layers": 1, "pooling": "last"}, {}),
        ("seq2seq", {"cell": "lstm", "num_layers": 1}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_training_with_cudnn_equals_training_with_the_scan(
    task, model, train, tmp_path, monkeypatch
):
    """Including batches with padding and with empty rows."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    scores, weights = [], []
    for with_gpu in (False, True):
        if with_gpu:
            simulated_gpu.plug_in(monkeypatch)
            simulated_gpu.plug_in_cudnn(monkeypatch)
        trainer = small_tasks.make_trainer(
            task, tmp_path, strategy=strategy, model=model, jit_compile=False,
            **train,
        )  # fmt: skip
        assert trainer.plan.use_cudnn == with_gpu
        said = descriptions.describe_run(trainer)
        assert ("Simulated GPU, float32, cuDNN" in said) == (with_gpu)
        trainer.fit(verbose=0)
        scores.append(trainer.history[0]["val_loss"])
        weights.append(trainer.model.get_weights())
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    for got, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_training_in_float16_with_cudnn_learns(tmp_path, monkeypatch):
    """As on an older GPU without bfloat16."""
    simulated_gpu.plug_in(monkeypatch, devices.Gpu("Old", (7, 5)))
    simulated_gpu.plug_in_cudnn(monkeypatch)
    trainer = small_tasks.make_trainer(
        "language_model", tmp_path,
        strategy=tf.distribute.OneDeviceStrategy("CPU:0"),
        model={"cell": "gru", "num_layers": 1}, mixed_precision=True,
        jit_compile=False, epochs=3,
    )  # fmt: skip
    assert "Old, matmuls in float16, cuDNN" in str(trainer.plan)
    trainer.fit(verbose=0)
    losses = [row["loss"] for row in trainer.history]
    assert losses == sorted(losses, reverse=True) != losses[::-1]


def test_xla_runs_the_scans_and_the_update_on_a_gpu(tmp_path, monkeypatch):
    """Without cuDNN; the results, validation included, stay the same."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    results = []
    for with_gpu in (False, True):
        if with_gpu:
            simulated_gpu.plug_in(monkeypatch)
        trainer = small_tasks.make_trainer(
            "language_model",
            tmp_path,
            strategy=strategy,
            jit_compile=with_gpu,
            document_separator="\\n",
            gradient_clip_norm=0.1,
        )
        assert trainer.plan.use_xla_for_update == with_gpu
        trainer.fit(verbose=0)
        results.append(list(trainer.history[0].values()))
    np.testing.assert_allclose(*results, atol=1e-4)


def test_a_gpu_run_can_be_resumed_on_a_cpu_and_back(
    tmp_path, monkeypatch, capsys
):
    """Checkpoints are the same with cuDNN and without."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")

    def trainer(with_gpu, directory, epochs):
        with monkeypatch.context() as patch:
            if with_gpu:
                simulated_gpu.plug_in(patch)
                simulated_gpu.plug_in_cudnn(patch)
            trainer = small_tasks.make_trainer(
                "language_model", tmp_path, tmp_path / directory, strategy,
                {"cell": "lstm", "num_layers": 1}, jit_compile=False,
                epochs=epochs,
            )  # fmt: skip
            trainer.fit(verbose=0)
        return trainer

    straight = trainer(False, "straight", 3)
    for epochs, with_gpu in ((1, True), (2, False), (3, True)):
        last = trainer(with_gpu, "changing", epochs)
    assert len(last.history) == 3
    assert "damaged" not in capsys.readouterr().err
    for got, expected in zip(
        last.best_model().get_weights(),
        straight.best_model().get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, atol=1e-4)


# What is missing


@pytest.mark.parametrize(
    "cards, hidden, missing, expected",
    [
        (["/dev/nvidia0"], None, ["libcudnn.so.9"], ["libcudnn.so.9"]),
        (["/dev/nvidia0"], None, [], []),
        (["/dev/nvidia0"], "-1", ["libcudnn.so.9"], []),
        ([], None, ["libcudnn.so.9"], []),
    ],
)
def test_missing_gpu_libraries_are_named(
    cards, hidden, missing, expected, monkeypatch
):
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: cards)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)

    def load(name):
        if name in missing:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert devices.missing_libraries() == expected


def test_a_run_says_which_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "missing_libraries", lambda: ["libcudnn.so.9"])
    trainer = small_tasks.make_trainer("classifier", tmp_path)
    assert (
        "(no GPU; TensorFlow found a card but not libcudnn.so.9), float32"
        in descriptions.describe_run(trainer)
    )


@pytest.mark.parametrize(
    "error, cause, message",
    [
        (tf.errors.ResourceExhaustedError, "OOM", "--accumulate_steps=2"),
        (tf.errors.ResourceExhaustedError,
         "a/events.v2; No space left on device", "^--model_dir: the disk is"),
        (tf.errors.InternalError, "libdevice not found at ./libdevice.10.bc",
         "add --nojit_compile"),
    ],
)  # fmt: skip
def test_errors_of_a_gpu_or_a_disk_are_one_line(error, cause, message):
    with (
        pytest.raises(configs.UserError, match=message),
        devices.errors_explained(),
    ):
        raise error(None, None, cause)
    with (
        pytest.raises(tf.errors.InternalError, match="something else"),
        devices.errors_explained(),
    ):
        raise tf.errors.InternalError(None, None, "something else")


def test_the_gpus_are_those_of_tensorflow(monkeypatch):
    assert devices.gpus() == ()
    simulated = ["GPU:0"]
    for name in ("list_logical_devices", "get_visible_devices"):
        monkeypatch.setattr(tf.config, name, lambda kind: simulated)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"device_name": "A card", "compute_capability": (7, 5)},
    )
    assert devices.gpus() == (devices.Gpu("A card", (7, 5)),)
