"""The book's model in Flax and MXNet learns, and perplexity is exact."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT

sys.path.append(str(ROOT / "experiments"))

import d2l_rivals

PERIODIC = [0, 1, 2] * 20
CONFIG = {
    "sequence_length": 6, "batch_size": 16, "epochs": 40, "learning_rate": 2,
    "gradient_clip_norm": 1,
}  # fmt: skip


def test_perplexity_counts_every_window_once_after_training():
    steps, scored = [], []

    def make(config, seed):
        def total(inputs, targets):
            assert (inputs[:, 1:] == targets[:, :-1]).all()
            assert len(steps) == config["epochs"] * 4  # batches of 54 windows
            scored.append(len(targets))
            return targets.size * math.log(2.5)

        return lambda *batch: steps.append(batch), total

    perplexities = d2l_rivals.train(make, PERIODIC, range(16), CONFIG, seed=0)
    np.testing.assert_allclose(perplexities[:2], 2.5)
    assert scored == [16, 16, 16, 6, 10]
    epoch = np.concatenate([inputs for inputs, _ in steps[:4]])
    assert np.bincount(epoch[:, 0]).tolist() == [18, 18, 18]


@pytest.mark.parametrize("system", ["flax", "mxnet"])
def test_the_model_learns_that_a_coin_has_two_sides(system):
    """MXNet's interpreter is that in the environment variable MXNET_PYTHON."""
    python = os.environ.get("MXNET_PYTHON")
    if system == "flax":
        python = sys.executable
        for package in ("flax", "optax"):
            if not importlib.util.find_spec(package):
                pytest.skip(f"{package} is not installed")
    elif not python:
        pytest.skip("MXNET_PYTHON names no interpreter")
    coins = np.random.default_rng(0).integers(2, size=400).tolist()
    request = {
        "training": coins[:300], "validation": coins[300:],
        "config": CONFIG | {"epochs": 6}, "seed": 0, "cell": "gru",
        "units": 8, "num_layers": 2, "vocabulary_size": 3,
    }  # fmt: skip
    ran = subprocess.run(
        [python, d2l_rivals.__file__, system],
        input=json.dumps(request),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    training, validation, seconds = json.loads(ran.stdout)
    assert 1.8 < training < 2.1  # 3 before training
    assert 1.8 < validation < 2.3
    assert seconds > 0
