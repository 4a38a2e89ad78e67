"""Harmful clients do not disturb an honest one.

What they do is refused or has no effect; meanwhile the honest client's stream
goes on and probes are answered.
"""

import contextlib
import gzip
import itertools
import json
import socket
import threading
import time

import pytest

from stacked_rnn.serving import bodies, connections, guard, openai_stream
from tests.helpers.live_server import active, completion, request, serving
from tests.helpers.waiting import wait_until

PATIENCE = 3.0  # seconds: known faults took 5 and more


@pytest.fixture(scope="module")
def running(saved_models):
    with serving(saved_models) as running:
        yield running


@pytest.fixture
def honest(running):
    """Streams all the time; checks that streams are whole and never stall."""
    stop, gaps, failures = threading.Event(), [], []

    def ask():
        for seed in itertools.count():
            if stop.is_set():
                return
            with connected(running) as sock:
                sock.settimeout(60)
                sock.sendall(
                    post(
                        "/v1/completions",
                        model="others", prompt="abc", max_tokens=200,
                        stream=True, seed=seed,
                    )
                )  # fmt: skip
                content, before = b"", time.monotonic()
                while b"data: [DONE]" not in content:
                    part = sock.recv(65_536)
                    if not part:
                        failures.append(content[-300:])
                        return
                    now = time.monotonic()
                    gaps.append(now - before)
                    content, before = content + part, now

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert not failures
    assert max(gaps) < PATIENCE
    for path in ("/healthz", "/metrics"):
        before = time.monotonic()
        assert request(running, "GET", path)[0] == 200
        assert time.monotonic() - before < PATIENCE
    wait_until(lambda: active(running) == 0)


def connected(running):
    return socket.create_connection(("127.0.0.1", running.port))


def post(path, body=None, headers="", **values):
    """The bytes of a request."""
    body = json.dumps(values).encode() if body is None else body
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# Bodies that are cheap to send and costly to check


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"stop": "a" * 900_000}, "stop: expected a string of 1 to 1,000"),
        ({"stop": ["a"] * 150_000}, "a list of at most 16"),
        ({"prompt": [None] * 150_000}, "prompt: expected a string"),
        ({"prompt": ["a"] * 150_000}, "prompt: expected a string"),
        ({"prompt": [1] * 300_000 + [None]}, "prompt: expected a string"),
        ({"prompt": [[1]] * 10_000 + [[]]}, "prompt: expected a string"),
        ({"prompt": [[]] * 200_000}, "lists and objects"),
        ({"prompt": [10**9] * 80_000, "n": 128}, "there is no token id"),
        (
            {str(number): 1 for number in range(60_000)} | {"n": 0},
            "n: expected a number from 1 to 128",
        ),
        (
            {"stream_options": dict.fromkeys(map(str, range(60_000))), "n": 0},
            "n: expected a number from 1 to 128",
        ),
        (
            {"logit_bias": dict.fromkeys(map(str, range(60_000)))},
            "logit_bias: expected an object of at most 1024 token ids",
        ),
        ({"user": {str(number): 1 for number in range(60_000)}}, "user: "),
        ({"model": "m" * 900_000}, "does not exist"),
        ({"prompt": "a" * 900_000, "echo": True}, "if echo is true"),
        ({"prompt": "a" * 900, "echo": True, "n": 128}, "if echo is true"),
        ({"n": 128, "max_tokens": 4096}, "more than 262,144 tokens at once"),
        ({"prompt": "\ud83d"}, "prompt: expected a string"),
        ({"stop": "\ud83d"}, "stop: expected a string"),
        ({"model": "\ud83d"}, "does not exist"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_costly_invalid_bodies_are_refused_at_once(
    running, honest, body, message
):
    before = time.monotonic()
    status, answer = completion(running, **body)
    assert time.monotonic() - before < PATIENCE
    assert status in (400, 404)
    assert message in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 1000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "it is empty"),
        (b'{"model": "m",}', "character 14"),
        (b"[" * 100_000, "lists and objects"),
        (b'"' + b'\\"' * 400_000 + b"[" * 90_000 + b"\\", "not JSON"),
        (b"[" * 15_000, "not JSON"),
        (b'{"n": ' + b"1" * 100_000 + b"}", "not JSON"),
        (b'{"presence_penalty": NaN}', "not JSON: it has NaN"),
        (b'{"logit_bias": {"1": -Infinity}}', "not JSON: it has -Infinity"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b"null", "expected a JSON object"),
        (b'"text"', "expected a JSON object"),
    ],
)
def test_malformed_json_is_refused_with_the_reason(running, body, message):
    for path in ("/v1/completions", "/v1/models/letters:predict"):
        status, _, content = request(running, "POST", path, body)
        assert status == 400
        if path == "/v1/completions":
            error = json.loads(content)["error"]
            assert message in error["message"] and error["param"] is None


def test_long_stop_strings_for_many_texts_are_cheap(running, honest):
    """Stop strings that the text matches for a long way."""
    _, answer = completion(running, max_tokens=300, temperature=0)
    stop = answer["choices"][0]["text"][:300]
    stops = [(stop * 4)[:999] + end for end in "\0\1\2\3"]
    status, answer = completion(
        running, max_tokens=300, temperature=0, n=64, stop=stops
    )
    assert status == 200
    assert {one["finish_reason"] for one in answer["choices"]} == {"length"}


def test_a_long_prompt_for_many_texts_is_checked_once(running, honest):
    token_ids = [3, 4, 5] * 30_000
    with connected(running) as sock:
        sock.sendall(
            post(
                "/v1/completions", model="letters", prompt=token_ids, n=128,
                max_tokens=1,
            )
        )  # fmt: skip
        wait_until(lambda: active(running) > 100)
    # The client has left.


def predict(running, **body):
    status, headers, content = request(
        running, "POST", "/v1/models/letters:predict", body
    )
    answer = json.loads(content)
    return status, answer.get("error", ""), headers


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompts": ["a"] * 5_000}, "5000 rows: at most 1024"),
        ({"prompts": ["a"] * 998 + ["a" * 900_000]}, "999 rows, the longest"),
        (
            {"prompts": ["a"] * 1_000, "max_new_tokens": [300] * 1_000},
            "up to 300 new tokens",
        ),
        ({"prompts": ["a"], "max_new_tokens": [5_000]}, "at most 4096"),
    ],
)
def test_predictions_beyond_the_limits_are_refused(
    running, honest, inputs, message
):
    status, error, _ = predict(
        running, signature_name="generate", inputs=inputs
    )
    assert status == 400 and message in error


def test_predictions_have_their_own_queue(running, honest):
    body = json.dumps(
        {
            "signature_name": "generate",
            "inputs": {"prompts": ["a"] * 64, "max_new_tokens": [4_000]},
        }
    ).encode()
    message = post("/v1/models/letters:predict", body)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(running)) for _ in range(100)]
        for sock in socks:
            sock.sendall(message)
        for path in ("/healthz", "/readyz", "/metrics", "/", "/v1/models"):
            before = time.monotonic()
            assert request(running, "GET", path)[0] == 200
            assert time.monotonic() - before < PATIENCE
        wait_until(lambda: "429" in codes(running, "predict"))
        status, _, headers = predict(running, instances=["a"])
        assert status == 429 and headers["retry-after"]
    # The waiting clients have left, and their calls with them.
    wait_until(lambda: predict(running, instances=["a"])[0] == 200, 60)


def codes(running, path):
    """The status codes that /metrics has counted for a path."""
    _, _, content = request(running, "GET", "/metrics")
    return {
        line.split('code="')[1][:3]
        for line in content.decode().splitlines()
        if line.startswith("stacked_rnn_requests_total{") and path in line
    }


# Clients that leave early or send slowly


def test_clients_that_leave_free_their_slots(running, honest):
    """Whether they wait in the queue or have a slot."""
    values = {"model": "letters", "prompt": "abc", "max_tokens": 4000, "n": 64}
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            sock = stack.enter_context(connected(running))
            sock.sendall(post("/v1/completions", **values))
        wait_until(lambda: active(running) > 1000)
        assert completion(running, n=128)[0] == 429
    wait_until(lambda: active(running) == 0, 5)
    assert completion(running, n=128)[0] == 200


def test_an_aborted_upload_logs_no_traceback(running, honest, capfd):
    for path in ("/v1/completions", "/v1/models/letters:predict"):
        whole = post(path, model="letters", prompt="abc")
        for part in (whole[:-5], whole[:40]):
            with connected(running) as sock:
                sock.sendall(part)
        wait_until(lambda path=path: active(running) == 0)
    assert completion(running)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_slow_upload_times_out(running, honest, monkeypatch):
    monkeypatch.setattr(bodies, "SECONDS", 0.3)
    with connected(running) as sock:
        sock.sendall(post("/v1/completions", model="letters")[:-5])
        sock.settimeout(30)
        assert sock.recv(65_536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "begin", [b"", b"POST /v1/compl", b"GET / HTTP/1.1\r\n"]
)
def test_slow_request_headers_are_cut(running, honest, monkeypatch, begin):
    monkeypatch.setattr(connections, "SECONDS", 0.3)
    with connected(running) as sock:
        sock.settimeout(30)
        sock.sendall(begin)
        assert ended(sock)


def test_endless_request_headers_are_cut(running, honest):
    with connected(running) as sock:
        sock.settimeout(30)
        sock.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(b"x: y\r\n" * 1_000)
        assert ended(sock)


def ended(sock):
    """Waits until a connection ends, by a close or an error."""
    try:
        while sock.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def test_idle_connections_do_not_block_others(running, honest):
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connected(running))
        assert completion(running)[0] == 200


def slow_reader(running, **values):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", running.port))
    sock.sendall(
        post(
            "/v1/completions",
            model="letters", prompt="abc", max_tokens=4000, n=64, stream=True,
            logprobs=0, **values,
        )
    )  # fmt: skip
    return sock


def test_a_client_that_does_not_read_is_cut(running, honest, monkeypatch):
    monkeypatch.setattr(guard, "STALL_SECONDS", 0.5)
    with slow_reader(running):
        wait_until(lambda: active(running) > 0)
        wait_until(lambda: active(running) == 0)


def test_unread_output_is_limited_and_the_cut_reported(
    running, honest, monkeypatch
):
    """The stream ends with an error, not as if it were whole."""
    monkeypatch.setattr(openai_stream, "_MOST_UNREAD", 100)
    with slow_reader(running) as sock:
        wait_until(lambda: active(running) > 0)
        wait_until(lambda: active(running) == 0)
        sock.settimeout(30)
        content = b""
        while part := sock.recv(1_000_000):
            content += part
            if content.endswith(b"\r\n0\r\n\r\n"):
                break
    assert b"read too slowly" in content and b"[DONE]" not in content


def test_what_the_server_has_not_ranked_is_not_the_fault_of_the_client(
    running, honest, monkeypatch
):
    monkeypatch.setattr(openai_stream, "_MOST_UNREAD", 5)
    status, answer = completion(running, n=16, max_tokens=300, logprobs=1)
    assert status == 200, answer
    for choice in answer["choices"]:
        assert len(choice["logprobs"]["top_logprobs"]) == 300


# Packed bodies


def test_gzip_is_accepted_and_a_gzip_bomb_refused(running, honest):
    body = gzip.compress(json.dumps({"instances": ["abc"]}).encode())
    packed = {"content-encoding": "gzip"}
    path = "/v1/models/letters:predict"
    assert request(running, "POST", path, body, packed)[0] == 200
    bomb = gzip.compress(b" " * 10**8)
    assert request(running, "POST", path, bomb, packed)[0] == 413
    packed["content-encoding"] = "br"
    assert request(running, "POST", path, body, packed)[0] == 415


# Web pages


def test_requests_from_other_web_pages_are_refused(running, honest):
    body = {"instances": ["abc"]}
    for path in ("/v1/models/letters:predict", "/v1/completions"):
        for headers in (
            {"origin": "https://evil.example", "content-type": "text/plain"},
            {"origin": "null"},
            {"host": "evil.example:8501"},
        ):
            status, _, content = request(running, "POST", path, body, headers)
            assert status == 403 and json.loads(content)["error"]["message"]
    status, _, _ = request(
        running, "GET", "/v1/models", headers={"host": "evil.example"}
    )
    assert status == 403
    own = {"origin": f"http://localhost:{running.port}",
           "host": f"localhost:{running.port}"}  # fmt: skip
    assert request(running, "POST", path, {"model": "letters"}, own)[0] == 200
