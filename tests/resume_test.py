"""A training that is killed ends as if it had not been."""

import random
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import workers
from tests.helpers.processes import Script

FLAGS = (
    "--corpus=cats.txt", "--cell=gru", "--units=16",
    "--embedding_dim=8", "--num_layers=1", "--batch_size=8",
    "--sequence_length=20", "--carry_state", "--dropout=0.1",
    "--deterministic", "--checkpoint_minutes=0.01", "--early_stopping=12",
    "--nojit_compile",
)  # fmt: skip
# TensorFlow numbers the functions of a graph by a counter of the process, and
# writes them in the order of a hash table: two runs side by side differ, too.
NUMBERED = ("saved_model.pb", "fingerprint.pb")


def start(directory, epochs):
    return Script(
        directory, "train.py", *FLAGS, f"--epochs={epochs}", in_memory=True
    )


def finish(directory, epochs):
    ended = start(directory, epochs).finish(300)
    assert ended.returncode == 0, ended.stderr


def kill_after_the_first_epoch(directory, epochs, seconds):
    """Kills a run so many seconds after its first epoch; returns its output."""
    script = start(directory, epochs)
    script.wait_for("sample:")
    time.sleep(seconds)
    script.kill()
    return script.output


def results(directory):
    """The history, weights and exported files of a run."""
    checkpoint = tf.train.load_checkpoint(
        str(directory / "runs/cats/checkpoints/last")
    )
    (version,) = (directory / "saved_models/cats").iterdir()
    return {
        "history": (directory / "runs/cats/history.csv").read_bytes(),
        "weights": {
            name: checkpoint.get_tensor(name)
            for name in checkpoint.get_variable_to_shape_map()
            if name.endswith("VARIABLE_VALUE") and "save_counter" not in name
        },
        "exported": {
            str(path.relative_to(version)): path.read_bytes()
            for path in version.rglob("*")
            if path.is_file() and path.name not in NUMBERED
        },
    }


def assert_same(got, expected):
    assert got["history"] == expected["history"]
    assert got["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        assert np.array_equal(got["weights"][name], value), name
    assert got["exported"].keys() == expected["exported"].keys()
    for name, content in expected["exported"].items():
        assert got["exported"][name] == content, name


@pytest.mark.parametrize(
    ("kills", "epochs"),
    [(1, 12), pytest.param(20, 40, marks=pytest.mark.drill)],
)
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(
    kills, epochs, tmp_path
):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for directory in (undisturbed, killed):
        directory.mkdir()
        (directory / "cats.txt").write_text(workers.TEXT)
    finish(undisturbed, epochs)
    rng = random.Random(0)
    for number in range(kills):
        output = kill_after_the_first_epoch(
            killed, epochs, rng.uniform(0.0, 0.5)
        )
        assert "Exported" not in output, "it was over before: train longer"
        assert ("resuming at step" in output) == (number > 0), output
    finish(killed, epochs)
    assert_same(results(killed), results(undisturbed))
