"""Benchmarks: equal work, failures that are counted, rows that are saved."""

import asyncio
import itertools
import json
import socket
import struct
import subprocess
import sys
import time
import types
from concurrent import futures

import pytest

from stacked_rnn import inference
from stacked_rnn.configs import UserError
from stacked_rnn.utils import quiet_import
from tests.helpers import ROOT

sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]

import classifier_speed
import draw_speed
import generation_speed
import scaling
import serving_load
import training_speed

# The plot of training speed ---------------------------------------------------

NAMES = (training_speed.OURS, *training_speed.RIVALS)


def names_drawn(speeds, path):
    """Names of the contenders in a plot, and the one whose speed is 1."""
    draw_speed.draw(speeds, path)
    svg = path.read_text()
    return (
        [name for name in NAMES if f"<!-- {name} -->" in svg],
        [name for name in NAMES if f"<!-- speed ({name} = 1) -->" in svg],
    )


def test_all_contenders_of_the_benchmark_are_drawn(tmp_path):
    assert {*draw_speed.CONTENDERS} == {*NAMES}
    speeds = {work: dict.fromkeys(NAMES, 2e3) for work in ("GRU d2l", "LSTM x")}
    path = tmp_path / "speed.svg"
    assert names_drawn(speeds, path) == ([*NAMES], [training_speed.PYTORCH])
    del speeds["LSTM x"][training_speed.MXNET]
    assert names_drawn(speeds, path)[0] == [*NAMES]
    del speeds["GRU d2l"][training_speed.MXNET]
    assert names_drawn(speeds, path)[0] == [*NAMES[:-1]]
    del speeds["GRU d2l"][training_speed.PYTORCH]
    assert names_drawn(speeds, path)[1] == [training_speed.OURS]
    del speeds["LSTM x"][training_speed.OURS]
    with pytest.raises(SystemExit, match="neither PyTorch nor stacked_rnn"):
        draw_speed.draw(speeds, path)


# The clients of serve.py ------------------------------------------------------

REFUSED = b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}"
CUT = b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n'
WHOLE = (
    b"HTTP/1.1 200 OK\r\n\r\n"
    b'data: {"choices": [{"text": "ab", "finish_reason": null}]}\n\n'
    b'data: {"choices": [{"text": "c", "finish_reason": "length"}]}\n\n'
    b"data: [DONE]\n\n"
)


def with_answers(answers, use):
    """Runs `use(port)`, a coroutine, beside a server with these answers.

    An answer of None resets the connection.
    """
    left = iter(answers)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        content = next(left)
        if content is None:
            # Then the other side learns that it is a reset, and no end.
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
            return
        writer.write(content)
        await writer.drain()
        writer.close()

    async def run():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await use(server.sockets[0].getsockname()[1])

    return asyncio.run(run())


def test_only_whole_answers_count_and_all_failures_do(monkeypatch):
    failures, ticks = [], itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))

    async def use(port):
        client = serving_load.Client(port, failures)
        speed = await client.closed_loop(1, 5)
        await client.predict()
        await client.harm(b"\0\r\n\r\n")
        return client, speed

    answers = [WHOLE, None, REFUSED, CUT, WHOLE, None, None]
    client, speed = with_answers(answers, use)
    seconds = next(ticks) - 1
    assert speed == 2 * serving_load.NEW_TOKENS / seconds
    assert client.texts == {0: "abc", 4: "abc"}
    assert client.failures is failures and len(failures) == 4
    assert b"ConnectionResetError" in failures[0][0]


def test_a_failed_request_is_no_wrong_text(monkeypatch):
    class Model:
        def continuations(self, prompts, sampling, num_samples):
            for seed in range(num_samples):
                yield types.SimpleNamespace(seed=seed, text=f"text {seed}")

    monkeypatch.setattr(inference, "load", lambda path: Model())
    texts = {0: "text 0", 2: "text 1", 3: "text 3"}
    assert serving_load.wrong_texts("", texts) == 1
    assert serving_load.wrong_texts("", {}) == 0


def test_failures_of_all_loops_are_reported_and_each_row_is_saved(monkeypatch):
    class Client(serving_load.Client):
        """One request of each loop fails."""

        def naive_loop(self, requests):
            return 1e3

        async def ask(self, *args, **kwargs):
            self.first, self.gaps = [0.1], [0.1]

        async def closed_loop(self, *args, **kwargs):
            self.failures.append("one")
            self.first, self.gaps = [0.1], [0.1]
            return 2560.0

        async def open_loop(self, rate, requests):
            await self.closed_loop()

    class Server:
        port = 0

        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def wait_for_xla(self):
            pass

    class Pool:
        def submit(self, function, *args):
            future = futures.Future()
            raw = {"1": 10.0, "64": 10.0, "first": 0.1}
            future.set_result(
                {serving_load.raw_speeds: raw, serving_load.probe: [1.0]}.get(
                    function, 0
                )
            )
            return future

    monkeypatch.setattr(serving_load, "Client", Client)
    monkeypatch.setattr(serving_load, "Server", Server)
    config = serving_load.BenchmarkConfig()
    rows = []
    for result in serving_load.measure("", "", config, Pool()):
        json.dumps(result)
        rows.append(len(result["rows"]))
    assert rows[:6] == [1, 2, 3, 4, 5, 6]
    clients = 2 * len(serving_load.CLIENTS)  # one loop warms up
    loops = 2 + 2 * serving_load.TURNS_OF_HARM + 1
    assert result["harm"]["failures"] == loops - 2
    loops += 2 * serving_load.TURNS_OF_CHAT  # of chats
    loops += 2 * serving_load.TURNS_OF_CHAT  # of prefixes
    assert result["failures"] == clients + loops
    serving_load.model_lines("gru:128", result)


# Equal work -------------------------------------------------------------------


def test_texts_of_classifiers_are_padded_to_one_length():
    examples = classifier_speed.examples()
    lengths = {
        examples.page(step)["token_ids"].shape[1]
        for step in range(examples.steps_per_epoch)
    }
    assert lengths == {classifier_speed.TIME}
    assert len({*map(len, examples.token_ids)}) > 1


def test_a_start_is_that_of_a_command(monkeypatch, capsys):
    """TensorFlow is imported as the commands import it."""
    imported = []

    def run(command, **kwargs):
        exec(command[2], {})
        return types.SimpleNamespace(stdout=capsys.readouterr().out)

    class Conversation:
        def __init__(self, model, sampling):
            assert model == "the model"

        def read(self, text):
            pass

        def write(self):
            yield "text"

    monkeypatch.setattr(
        quiet_import,
        "import_tensorflow",
        lambda **options: imported.append(options),
    )
    monkeypatch.setattr(inference, "load", lambda path: f"the {path}")
    monkeypatch.setattr(inference, "Conversation", Conversation)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["-c", "model"])
    parts = generation_speed.start_up("model")
    assert [*parts] == [*generation_speed.START_UP]
    assert imported == 3 * [{"with_extras": False}]


# scaling.py -------------------------------------------------------------------


@pytest.fixture
def train_py(monkeypatch, tmp_path):
    """A function that replaces train.py by a program."""
    path = tmp_path / "train.py"
    monkeypatch.setattr(scaling, "TRAIN", path)
    return path.write_text


def test_several_processes_do_the_same_work(train_py):
    train_py(
        "import json, os, sys\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "assert '--sequence_length=100' in sys.argv\n"
        "assert '--units=64' in sys.argv\n"
        "print('1,234 tokens/s')\n"
        "print('2,345 tokens/s' if not index else '')\n"
    )
    assert scaling.tokens_per_second(2, 64) == 2345


def test_a_failed_training_is_quoted(train_py, tmp_path):
    train_py(
        "import sys\n"
        "print('100 parameters, ')\n"
        "sys.exit('train.py: error: --strategy: no')\n"
    )
    reason = "^train.py ended with 1: train.py: error: --strategy: no$"
    with pytest.raises(UserError, match=reason):
        scaling.tokens_per_second(1, 64)
    with pytest.raises(UserError, match=reason):
        scaling.trained_corpus(tmp_path / "text", tmp_path)


def test_each_row_of_scaling_is_saved(monkeypatch, tmp_path):
    def tokenization(kind, path, cores):
        if kind == "char":
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(scaling, "tokens_per_second", lambda *args: 5.0)
    monkeypatch.setattr(scaling, "checkpoint", lambda *args: (1, 2, 3.0, 4.0))
    monkeypatch.setattr(scaling, "write_text", lambda *args: None)
    monkeypatch.setattr(scaling, "tokenization", tokenization)
    config = scaling.BenchmarkConfig(output_dir=str(tmp_path), units="8")
    with pytest.raises(KeyboardInterrupt):
        scaling.main(config)
    saved = json.loads((tmp_path / "scaling.json").read_text())
    assert saved["tokens_per_second"]["256"] == {"1": 5, "2": 5, "4": 5}
    assert saved["checkpoints"] == {"8": [1, 2, 3, 4]}
    assert saved["tokenization"] == {"byte": [1, 1]}
