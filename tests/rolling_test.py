"""Two servers behind one nginx are restarted in turn, and no request fails."""

import concurrent.futures
import contextlib
import http.client
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from stacked_rnn.serving import access
from tests.helpers import ROOT
from tests.helpers.processes import Script
from tests.helpers.waiting import wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
CONF = ROOT / "deploy" / "nginx.conf"
LENGTHS = (1, 20, 100)  # of the texts, in tokens


@pytest.fixture
def directory(letters, tmp_path):
    shutil.copytree(letters, tmp_path / "saved_models" / "letters" / "1")
    return tmp_path


def free_ports(count):
    with contextlib.ExitStack() as stack:
        return [
            stack.enter_context(
                socket.create_server(("127.0.0.1", 0))
            ).getsockname()[1]
            for _ in range(count)
        ]


def ask(connection, method, path, body=None):
    """Sends a request on an open connection; returns (status, body)."""
    connection.request(
        method, path, json.dumps(body), {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@contextlib.contextmanager
def connected(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        yield connection


def is_ready(port):
    try:
        with connected(port) as connection:
            return ask(connection, "GET", "/readyz")[0] == 200
    except OSError:
        return False


@contextlib.contextmanager
def nginx(directory, port, upstream):
    """Runs nginx with deploy/nginx.conf and this test's ports and paths."""
    conf = CONF.read_text()
    for pattern, own in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("127.0.0.1:8501", f"127.0.0.1:{upstream[0]}"),
        ("127.0.0.1:8502", f"127.0.0.1:{upstream[1]}"),
        ("/run/nginx.pid", f"{directory}/nginx.pid"),
        ("/var/log/nginx", str(directory)),
        ("rate=50r/s", "rate=10000r/s"),  # all clients have one address here
        (
            "server_tokens off;",
            "".join(
                f"{kind}_temp_path {directory}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
        ),
    ):
        assert pattern in conf
        conf = conf.replace(pattern, own)
    path = directory / "nginx.conf"
    path.write_text(conf)
    process = subprocess.Popen(
        [NGINX, "-p", directory, "-c", path, "-g", "daemon off;"]
    )
    try:
        wait_until(lambda: is_ready(port), 20)
        yield directory / "access.log"
    finally:
        process.terminate()
        process.wait(20)


class Servers:
    """Two processes of serve.py that can be restarted."""

    def __init__(self, directory, ports):
        self._directory, self._processes = directory, {}
        for port in ports:
            self.start(port)

    def start(self, port):
        self._processes[port] = Script(
            self._directory, "serve.py", f"--port={port}", "--nojit_compile"
        )

    def restart(self, port):
        """Stops a server with SIGTERM and starts it again; its exit code."""
        process = self._processes[port]
        process.send_signal(signal.SIGTERM)
        ended = process.finish(60)
        self.start(port)
        self.wait(port)
        return ended.returncode

    def wait(self, port):
        """Waits until a server is ready."""
        process = self._processes[port]
        wait_until(lambda: is_ready(port) or process.poll() is not None, 120)
        assert process.poll() is None, process.errors

    def kill(self):
        for process in self._processes.values():
            process.kill()


def complete(connection, max_tokens, stream):
    """Asks for a completion, checks the answer, returns its text."""
    status, content = ask(
        connection, "POST", "/v1/completions",
        {"model": "letters", "prompt": "abc", "max_tokens": max_tokens,
         "seed": 5, "stream": stream},
    )  # fmt: skip
    assert status == 200, (status, content)
    if not stream:
        [choice] = json.loads(content)["choices"]
        assert choice["finish_reason"] == "length"
        return choice["text"]
    *events, done, rest = content.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    choices = [
        choice
        for event in events
        if event.startswith("data: ")  # and no comment
        for choice in json.loads(event.removeprefix("data: "))["choices"]
    ]
    assert choices[-1]["finish_reason"] == "length"
    return "".join(choice["text"] for choice in choices)


@pytest.mark.skipif(not NGINX, reason="nginx is not installed")
def test_a_rolling_restart_fails_no_request(directory):
    port, *ports = free_ports(3)
    servers = Servers(directory, ports)
    stop, answers = threading.Event(), []

    def load(stream):
        with connected(port) as connection:
            for length in itertools.cycle(LENGTHS):
                if stop.wait(0.03):  # leaves the new servers some CPU
                    return
                text = complete(connection, length, stream)
                answers.append((length, text))

    with contextlib.ExitStack() as stack:
        stack.callback(servers.kill)
        for own in ports:
            servers.wait(own)
        log = stack.enter_context(nginx(directory, port, ports))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(6))
        stack.callback(stop.set)
        clients = [pool.submit(load, stream) for stream in (True, False) * 3]

        def wait_for_answers():
            enough = len(answers) + 30

            def are_enough():
                for client in clients:
                    if client.done():  # raises what made it fail
                        client.result()
                return len(answers) >= enough

            wait_until(are_enough, 120)

        wait_for_answers()
        exit_codes = []
        for own in ports:
            exit_codes.append(servers.restart(own))
            wait_for_answers()
        stop.set()
        for client in clients:
            client.result()
    assert exit_codes == [0, 0]
    # The same text, whoever wrote it and in whatever pieces.
    assert len({text for _, text in answers}) == len(set(LENGTHS))
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    posts = [entry for entry in entries if entry["method"] == "POST"]
    assert {entry["status"] for entry in posts} == {200}
    assert len(posts) == len(answers)
    answered = [re.findall(r":(\d+)", entry["upstream"]) for entry in posts]
    third = len(answered) // 3
    assert {ends[-1] for ends in answered[:third]} == {*map(str, ports)}
    assert {ends[-1] for ends in answered[-third:]} == {*map(str, ports)}
    # Some requests needed the second server.
    assert any(len(ends) > 1 for ends in answered)


class Upstream(http.server.BaseHTTPRequestHandler):
    """Stands for serve.py and answers with what it received."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nfirst\r\n")
            assert self.server.may_end.wait(60)
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")
            return
        self.server.received.append(self.path)
        size = int(self.headers.get("content-length", 0))
        content = json.dumps(
            {
                "size": len(self.rfile.read(size)),
                "port": self.server.server_port,
            }
            | {name.lower(): value for name, value in self.headers.items()}
        ).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815


@contextlib.contextmanager
def upstream():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.received, server.status = [], 200
    server.may_end = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.may_end.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.skipif(not NGINX, reason="nginx is not installed")
def test_nginx_forwards_headers_bodies_and_streams(tmp_path):
    [port] = free_ports(1)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(upstream()) for _ in range(2)]
        ports = [server.server_port for server in servers]
        log = stack.enter_context(nginx(tmp_path, port, ports))
        connection = stack.enter_context(connected(port))

        def sent(path="/v1/models", body=None, **headers):
            connection.request("POST" if body else "GET", path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(
                content if content.startswith(b"{") else b"{}"
            )

        status, received = sent(host="models.example.org")
        assert status == 200 and received["host"] == "models.example.org"
        assert re.fullmatch("[0-9a-f]{32}", received["x-request-id"])
        assert received["x-forwarded-for"] == "127.0.0.1"
        assert received.get("connection") is None  # it is kept
        _, received = sent(**{"x-request-id": "mine"})
        assert received["x-request-id"] == "mine"
        # The largest body that a server takes, and one that is far too large.
        assert sent(body=b"x" * 1_000_000)[1]["size"] == 1_000_000
        assert sent(body=b"x" * 1_200_000)[0] == 413
        connection.close()
        for path in access.PATHS_WITHOUT_KEY:
            if "metrics" not in path:
                continue
            assert sent(path)[0] == 403
            assert not any(path in server.received for server in servers)
        # A page's own requests have its port in both.
        host = f"models.example.org:{port}"
        assert sent(body=b"{}", host=host)[1]["host"] == host
        # A server that stops or starts answers 503; nginx asks the other one.
        servers[0].status = 503
        answers = [sent(body=b"{}") for _ in range(4)]
        assert {(status, received["port"]) for status, received in answers} == {
            (200, ports[1])
        }
        servers[1].status = 503
        assert sent(body=b"{}")[0] == 503
        # A stream arrives as it is written.
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.read(5) == b"first"
        for server in servers:
            server.may_end.set()
        assert answer.read() == b"last"
        connection.close()
    ids = [
        json.loads(line)["request_id"] for line in log.read_text().splitlines()
    ]
    assert "mine" in ids and all(ids)
