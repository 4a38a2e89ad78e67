"""A server in this process, and requests to it."""

import contextlib
import http.client
import json
from unittest import mock

import openai

from stacked_rnn import configs
from stacked_rnn.serving import memory, server
from tests.helpers import loading


@contextlib.contextmanager
def serving(directory, **settings):
    """Serves a directory of models on a free port, without XLA.

    A model is loaded as in `loading.once`, and no garbage is collected: there
    is more of it in a process of tests.
    """
    config = configs.ServeConfig(
        **{
            "saved_model": str(directory), "port": 0, "poll_seconds": 0.1,
            "access_log": False,
            "jit_compile": False,
        }
        | settings
    )  # fmt: skip
    with (
        loading.once(),
        mock.patch.object(memory, "collect_garbage"),
        server.Server(config) as running,
    ):
        yield running


def openai_client(running, key="none"):
    """OpenAI's own client for the server."""
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{running.port}/v1",
        api_key=key,
        max_retries=0,
    )


def request(running, method, path, body=None, headers=()):
    """Sends a request; returns (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, 60)
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    headers = {"content-type": "application/json"} | dict(headers)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def completion(running, **values):
    """Asks the model "letters" for a completion; returns (status, answer)."""
    body = {"model": "letters", "prompt": "abc"} | values
    status, _, content = request(running, "POST", "/v1/completions", body)
    return status, json.loads(content)


def active(running, name="letters"):
    """How many texts of a model have a slot or wait for one."""
    _, _, content = request(running, "GET", "/metrics")
    return sum(
        float(line.split()[-1])
        for line in content.decode().splitlines()
        if line.startswith(("stacked_rnn_texts_active", "stacked_rnn_texts_w"))
        and f'"{name}"' in line
    )
