"""Shared by all tests: two logical CPUs, and models small and quick."""

import functools
import os
import pathlib
import signal
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, models, training

# Two replicas for the distribution tests; must be said before the first op.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

# First of all, so that the workers of `make test` end at about the same time.
LONGEST = (
    "resume_test.py", "distributed_test.py", "training_test.py",
    "commands_test.py", "export_test.py",
)  # fmt: skip
CELLS = ("simple_rnn", "gru", "lstm")
SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


# A shell has commands in its background ignore Ctrl-C, and so would all that
# the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(monkeypatch):
    """Kills what a test that fails has started and not stopped."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    yield
    for process in started:
        if process.poll() is None:
            process.kill()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@functools.cache
def mirrored() -> tf.distribute.Strategy:
    """Over both CPUs.

    One for all tests: the collectives of a second one in the same process may
    be taken for those of the first.
    """
    return training.make_strategy("mirrored")


def small_config(**changes) -> configs.ModelConfig:
    """A model of two narrow layers over eleven tokens."""
    values = {
        "units": 6,
        "embedding_dim": 5,
        "vocabulary_size": 11,
        "num_layers": 2,
    }
    return configs.ModelConfig(**values | changes)


def randomized_model(config, seed=0) -> models.LanguageModel:
    """A model whose weights, biases included, are all random."""
    model = models.build_language_model(config)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0.0, 0.5, weight.shape))
    return model


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def shared_text():
    """Reads a corpus of the workplace, or skips where it is absent."""

    def read(name):
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(
                f"{name} is not here: no shared/data beside the project"
            )
        return path.read_bytes()

    return read
