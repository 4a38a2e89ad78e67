"""SavedModels and checkpoints of earlier versions are still read.

released/ has what the commands of November 2026 wrote, before the modules got
the names that they have now. Never write it anew: people have such files.
"""

import csv
import tarfile

import numpy as np
import pytest

from stacked_rnn import inference
from stacked_rnn.configs import SamplingConfig
from tests.helpers import ROOT
from tests.helpers.processes import run


@pytest.fixture
def unpacked(tmp_path):
    """Unpacks an archive of released/; returns its directory."""

    def unpack(name):
        with tarfile.open(ROOT / f"tests/released/{name}.tar.xz") as archive:
            archive.extractall(tmp_path / name, filter="data")
        return tmp_path / name

    return unpack


def test_a_language_model_generates_the_same_texts(unpacked):
    model = inference.load(unpacked("language_model"))
    prompts = ["the cat ", ""]

    def texts(**options):
        sampling = SamplingConfig(max_new_tokens=40, **options)
        return [found.text for found in model.continuations(prompts, sampling)]

    assert texts(temperature=0.0) == [
        "sun to and to and to and to and to and t",
        "to and to and to and to and to and to an",
    ]
    assert texts(seed=3) == [
        "red dog red.",
        "cat sand and to a to sun and sun to cat ",
    ]


def test_a_classifier_gives_the_same_probabilities(unpacked):
    model = inference.load(unpacked("classifier"))
    scores = [found.scores for found in model.predict(["good cat", "sad dog"])]
    np.testing.assert_allclose(
        [(row["neg"], row["pos"]) for row in scores],
        [(0.073891, 0.926109), (0.720524, 0.279476)],
        rtol=1e-4,
    )


def test_a_seq2seq_model_writes_the_same_texts(unpacked):
    model = inference.load(unpacked("seq2seq"))
    found = model.rewrite(["abc", "dcba"])
    assert [one.output for one in found] == ["cba", "abcd"]


def test_a_run_is_resumed(unpacked):
    directory = unpacked("run")
    history = directory / "run/history.csv"
    before = history.read_text()
    ended = run(
        directory, "train.py", "--flagfile=run/config.flags",
        "--model_dir=run", "--export_dir=exported", "--epochs=13",
        in_memory=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    # Its rows had no step.
    *old, last = csv.DictReader(history.read_text().splitlines())
    assert last["step"] and not any(row.pop("step") for row in old)
    assert old == [*csv.DictReader(before.splitlines())]
    assert (directory / "exported/1/saved_model.pb").exists()
