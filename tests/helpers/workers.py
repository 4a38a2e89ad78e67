"""Trainings by train.py, alone or as workers on the loopback."""

import json
import socket

import numpy as np
import tensorflow as tf

from tests.helpers.processes import Script

TEXT = "The cat sat on the mat. The dog lay on the log.\n" * 60
FLAGS = (
    "--corpus=cats.txt", "--cell=gru", "--units=16", "--embedding_dim=8",
    "--num_layers=1",
    "--epochs=2", "--batch_size=8", "--sequence_length=20", "--carry_state",
    "--learning_rate=0.01", "--gradient_clip_norm=0.3", "--nojit_compile",
    # Others draw their own masks.
    "--dropout=0", "--output_dropout=0", "--weight_dropout=0",
    "--reset_states=0",
)  # fmt: skip


def start(directory, *flags, **environment) -> Script:
    """Starts train.py with FLAGS, and more flags, on a text of cats.

    It exports as in `exports.in_memory`.
    """
    if not (directory / "cats.txt").exists():
        (directory / "cats.txt").write_text(TEXT)
    return Script(
        directory, "train.py", *FLAGS, *flags, in_memory=True, **environment
    )


def cluster_config(addresses, index) -> str:
    """The TF_CONFIG of one worker."""
    return json.dumps(
        {
            "cluster": {"worker": list(addresses)},
            "task": {"type": "worker", "index": index},
        }
    )


def start_workers(directories, flags):
    """Starts a worker in each directory, each with flags of its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in directories]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for bound in sockets:
        bound.close()
    return [
        start(
            directory,
            "--strategy=multi_worker",
            *extra,
            TF_CONFIG=cluster_config(addresses, index),
        )
        for index, (directory, extra) in enumerate(zip(directories, flags))
    ]


def finish(workers):
    """Waits for workers, which have to succeed; returns their outputs."""
    ended = [worker.finish() for worker in workers]
    for one in ended:
        assert one.returncode == 0, one.stdout + one.stderr
    return [one.stdout for one in ended]


def checkpoints(directory):
    """The checkpoints that a run on cats.txt has written so far."""
    last = directory / "runs/cats/checkpoints/last"
    return list(last.glob("ckpt-*.index"))


def history(directory):
    """The history of a run on cats.txt, a row per epoch."""
    return np.genfromtxt(
        directory / "runs/cats/history.csv", delimiter=",", skip_header=1
    )


def results(directory):
    """The history of a run on cats.txt, and its weights at the end."""
    checkpoint = tf.train.load_checkpoint(
        str(directory / "runs/cats/checkpoints/last")
    )
    return history(directory), {
        name: checkpoint.get_tensor(name)
        for name in checkpoint.get_variable_to_shape_map()
        if name.startswith("model/")
    }


def assert_close(directory, expected):
    """Compares a run with the `results` of another."""
    rows, weights = results(directory)
    np.testing.assert_allclose(rows, expected[0], atol=1e-5)
    assert weights.keys() == expected[1].keys()
    for name, value in expected[1].items():
        if np.issubdtype(value.dtype, np.floating):
            np.testing.assert_allclose(weights[name], value, atol=1e-5)
