"""Many requests, and clients that leave: no failure, no leak."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.soak
def test_an_hour_under_load(tmp_path):
    subprocess.run(
        [
            sys.executable, BENCHMARKS / "serving_load.py",
            "--soak_minutes=60", "--models=gru:128",
            f"--output_dir={tmp_path}",
        ],
        check=True,
    )  # fmt: skip
    soak = json.loads((tmp_path / "soak.json").read_text())["gru:128"]
    assert soak["failures"] == soak["places still taken"] == 0
    assert soak["texts still waiting"] == 0
    assert soak["left"] > 100 and soak["harmful"] > 100
    memory = soak["MB"]
    settled = memory[len(memory) // 4]
    assert max(memory[len(memory) // 4 :]) < 1.1 * settled


@pytest.mark.drill
def test_ten_thousand_requests_leave_no_memory_behind(tmp_path, monkeypatch):
    """By the slope of a line through the resident memory once it is stable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import serving_load

    serving_load.export_model("gru", 64, tmp_path / "model")
    with serving_load.Server(tmp_path / "model") as server:
        client, memory = serving_load.Client(server.port), []

        async def ask(number):
            kind = number % 10
            if kind == 0:
                await client.predict()
            elif kind == 1:
                harm = serving_load.HARM
                await client.harm(harm[number // 10 % len(harm)])
            else:
                await client.ask(
                    number,
                    patience=1 if kind == 2 else np.inf,
                    max_tokens=kind,
                    logprobs=[None, 0, 3][kind % 3],
                    echo=kind == 5,
                    n=1 + (kind == 6),
                )
            client.texts.clear()

        async def ask_all():
            for begin in range(0, 12_000, 50):
                await asyncio.gather(*map(ask, range(begin, begin + 50)))
                memory.append(server.resident)

        server.wait_for_xla()
        asyncio.run(ask_all())
        assert not client.failures
        assert server.metric("stacked_rnn_texts_active") == 0
    settled = np.array(memory[len(memory) // 6 :])
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    assert slope * len(settled) < 0.05 * settled.mean()
