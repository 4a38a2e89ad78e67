"""An hour of requests, and clients that leave: nothing fails, nothing stays."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARK = pathlib.Path(__file__).parents[1] / "benchmarks" / "serving_load.py"


@pytest.mark.soak
def test_an_hour_under_load(tmp_path):
    subprocess.run(
        [
            sys.executable, BENCHMARK, "--soak_minutes=60", "--models=gru:128",
            f"--output_dir={tmp_path}",
        ],
        check=True,
    )  # fmt: skip
    soak = json.loads((tmp_path / "soak.json").read_text())["gru:128"]
    assert soak["failures"] == soak["places still taken"] == 0
    assert soak["texts still waiting"] == 0 and soak["left"] > 100
    memory = soak["MB"]
    settled = memory[len(memory) // 4]
    assert max(memory[len(memory) // 4 :]) < 1.1 * settled
