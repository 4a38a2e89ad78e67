"""Clients that people use get the texts of `generate`.

`make clients` installs them into environments of their own; else skipped.
"""

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from stacked_rnn import configs
from tests.helpers import browsers
from tests.helpers.live_server import request, serving
from tests.helpers.waiting import wait_until

HERE = pathlib.Path(__file__).parent / "clients"
ENVIRONMENTS = pathlib.Path(os.environ.get("CLIENTS", ".venv-clients"))
NODE = shutil.which("node")
NODE_MODULES = HERE / "node_modules"
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module")
def running(saved_models):
    with serving(saved_models) as running:
        yield running


def address(running):
    return f"http://127.0.0.1:{running.port}/v1"


@pytest.fixture(scope="module")
def text(loaded):
    sampling = configs.SamplingConfig(
        max_new_tokens=20, temperature=1.0, seed=7
    )
    [continuation] = loaded.continuations(["abc"], sampling)
    return continuation


def python_of(environment):
    """The interpreter of an environment; skips where it is not installed."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment with the client: make clients")
    return python.absolute()


def run(*command):
    """Runs a client; returns what it prints as JSON."""
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        cwd=HERE,
    )  # fmt: skip
    assert not ran.returncode, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("environment", [None, "openai-1.40"])
def test_openai_for_python(environment, running, text):
    """Without an environment, the version that the other tests use."""
    python = python_of(environment) if environment else sys.executable
    answer = run(python, HERE / "use_openai.py", address(running))
    assert {*answer["texts"]} == {text.text}
    assert answer["log_probs"] == pytest.approx(text.log_probs, abs=1e-5)
    assert answer["usage"] == 20
    assert answer["dimensions"] == 6
    assert "letters" in answer["models"]


@pytest.mark.parametrize(
    "client", ["langchain", "llama_index", "litellm", "llm"]
)
def test_clients_in_python(client, running, text):
    script = HERE / f"use_{client}.py"
    answer = run(python_of(client), script, address(running))
    assert {*answer["texts"]} == {text.text}


def test_lm_eval_computes_what_the_model_does(letters, loaded):
    """It asks for the tokenizer of the one model that is served."""
    python = python_of("lm_eval")
    with serving(letters.parent) as running:
        answer = run(python, HERE / "use_lm_eval.py", address(running))

    def log_likelihood(context, text):
        """log p of a text, as evaluate.py computes it."""
        _, nats = loaded.token_nats(context + text)
        return -nats[len(context) - 1 :].sum()

    unknown = "\N{REPLACEMENT CHARACTER}"  # lm-eval wants a token before a text
    expected = [log_likelihood(unknown, text) for text in answer["texts"]]
    assert answer["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
    assert answer["byte_perplexity"] == pytest.approx(
        np.exp(-sum(expected) / len("".join(answer["texts"]))), rel=1e-4
    )
    for text, chosen in zip(answer["texts"], answer["chosen"], strict=True):
        assert chosen == pytest.approx(
            [log_likelihood(text, choice) for choice in answer["choices"]],
            abs=1e-3,
        )
    greedy = configs.SamplingConfig(max_new_tokens=20, temperature=0)
    for text, continued in zip(answer["texts"], answer["greedy"], strict=True):
        [continuation] = loaded.continuations([text], greedy)
        assert continued == continuation.text


@pytest.mark.parametrize("client", ["use_openai.mjs", "use_ai.mjs"])
def test_clients_in_javascript(client, running, text):
    if not (NODE and NODE_MODULES.exists()):
        pytest.skip("no node with the clients: make clients")
    answer = run(NODE, HERE / client, address(running))
    assert {*answer["texts"]} == {text.text}


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves the pages of the clients, silently."""

    def log_message(self, *arguments):
        """Logs nothing."""


@browsers.needed
def test_openai_in_a_page_of_another_origin(saved_models, text):
    if not NODE_MODULES.exists():
        pytest.skip("no clients for JavaScript: make clients")
    handler = functools.partial(Pages, directory=HERE)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages,
        browsers.chromium() as browser,
    ):
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{pages.server_port}"

        def answer(running):
            url = f"{origin}/use_openai_in_a_page.html#{address(running)}"
            browser.get("about:blank")
            browser.get(url)
            wait_until(lambda: browser.title.startswith("{"))
            return json.loads(browser.title)

        with serving(saved_models, cors_origins=(origin,)) as running:
            found = answer(running)
        with serving(saved_models) as running:
            refused = answer(running)
        pages.shutdown()
    assert {*found["texts"]} == {text.text} and found["request"]
    assert "Connection error" in refused["error"]


@pytest.mark.skipif(not PROMTOOL, reason="no promtool")
def test_promtool_finds_nothing_to_criticize(running):
    _, _, content = request(running, "GET", "/metrics")
    ran = subprocess.run(
        [PROMTOOL, "check", "metrics"],
        input=content, capture_output=True, check=False,
    )  # fmt: skip
    assert not ran.returncode and not ran.stdout + ran.stderr
