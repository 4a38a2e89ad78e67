"""Clients that people use get the texts of `generate`.

`make clients` installs them into environments of their own; else skipped.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from stacked_rnn import configs
from tests.helpers.live_server import serving

HERE = pathlib.Path(__file__).parent / "clients"
PYTHON = pathlib.Path(os.environ.get("CLIENTS", ".venv-clients"), "bin/python")
NODE = shutil.which("node")
NODE_MODULES = HERE / "node_modules"


@pytest.fixture(scope="module")
def address(saved_models):
    with serving(saved_models) as running:
        yield f"http://127.0.0.1:{running.port}/v1"


@pytest.fixture(scope="module")
def text(loaded):
    sampling = configs.SamplingConfig(
        max_new_tokens=20, temperature=1.0, seed=7
    )
    [continuation] = loaded.continuations(["abc"], sampling)
    return continuation


def run(*command):
    """Runs a client; returns what it prints as JSON."""
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        cwd=HERE,
    )  # fmt: skip
    assert not ran.returncode, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def check_openai(answer, text):
    assert {*answer["texts"]} == {text.text}
    assert answer["log_probs"] == pytest.approx(text.log_probs, abs=1e-5)
    assert answer["usage"] == 20
    assert answer["dimensions"] == 6
    assert "letters" in answer["models"]


def test_openai_for_python(address, text):
    answer = run(sys.executable, HERE / "use_openai.py", address)
    check_openai(answer, text)


@pytest.mark.parametrize(
    "client",
    [
        "use_openai.py", "use_langchain.py", "use_llama_index.py",
        "use_litellm.py", "use_llm.py",
    ],
)  # fmt: skip
def test_clients_in_python(client, address, text):
    if not PYTHON.exists():
        pytest.skip("no environment with the clients: make clients")
    answer = run(PYTHON.absolute(), HERE / client, address)
    assert {*answer["texts"]} == {text.text}
    if client == "use_openai.py":
        check_openai(answer, text)


@pytest.mark.parametrize("client", ["use_openai.mjs", "use_ai.mjs"])
def test_clients_in_javascript(client, address, text):
    if not (NODE and NODE_MODULES.exists()):
        pytest.skip("no node with the clients: make clients")
    answer = run(NODE, HERE / client, address)
    assert {*answer["texts"]} == {text.text}
