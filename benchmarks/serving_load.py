"""Speed of serve.py under load, beside the signature that it calls.

  python benchmarks/serving_load.py
  python benchmarks/serving_load.py --soak_minutes=10

Exports untrained models, serves them in another process, and sends requests
from this one: in a closed loop (each client sends its next request as soon as
it has its answer) and in an open loop (requests come at random moments, however
many are running). All texts are streamed, 64 characters in, 256 tokens out.

"Raw" is the signature `generate`, called in a separate process before and after
each loop, while the server is idle. The "naive server" makes one such call per
request, one after the other, as `:predict` does for one client.

Writes serving_load.md, .json and .png to --output_dir, and prints the first.
With --soak_minutes it sends requests of all kinds at once instead, and writes
soak.md and .json.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import common
import numpy as np
from common import table

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

SERVE = pathlib.Path(__file__).parents[1] / "serve.py"
PROMPT = "It was the best of tests, it was the worst of tests, it was new."
NEW_TOKENS = 256
CLIENTS = (1, 8, 64, 256)
TURNS_OF_HARM = 3
LONG_PROMPT, LONG_PROMPTS = 4_000, 24  # characters, how many
TURNS_OF_CHAT = 3


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    models: str = setting(
        "gru:128,lstm:512", "Cell:units of each model, separated by commas."
    )
    seconds: float = setting(10.0, "Approximate length of a loop.", minimum=1.0)
    requests: int = setting(
        2000, "Requests of the loop with the most clients.", minimum=1
    )
    soak_minutes: float = setting(
        0.0, "Length of a soak (0: the benchmark instead).", minimum=0.0
    )


# In separate processes, so that the server has the cores afterwards -----------


def export_model(cell, units, directory):
    """An untrained model of two layers over the characters of pydoc."""
    import keras

    from stacked_rnn import datasets, export, models, tokenizers

    keras.utils.set_random_seed(0)
    tokenizer = tokenizers.build("char", *datasets.Corpus("pydoc").pieces())
    model = models.build_language_model(
        configs.ModelConfig(
            cell=cell, units=units, num_layers=2,
            vocabulary_size=tokenizer.vocabulary_size(),
        )
    )  # fmt: skip
    generator = export.TextGenerator(model.for_inference(), tokenizer)
    return str(generator.save(directory))


def raw_speeds(path):
    """The signature's tokens per second by batch, seconds to a first token."""
    import tensorflow as tf

    generate = tf.saved_model.load(path).signatures["generate"]

    def seconds(rows, tokens):
        times = []
        while len(times) < 6 or sum(times) < 2:
            start = time.perf_counter()
            generate(
                prompts=tf.constant([PROMPT] * rows),
                max_new_tokens=tf.constant([tokens]),
                temperature=tf.constant([1.0]), top_k=tf.constant([0]),
                top_p=tf.constant([1.0]), repetition_penalty=tf.constant([1.0]),
                seed=tf.constant([0], tf.int64),
            )["token_ids"].numpy()  # fmt: skip
            times.append(time.perf_counter() - start)
        return statistics.fmean(times[1:])

    return {
        "1": NEW_TOKENS / seconds(1, NEW_TOKENS),
        "64": 64 * NEW_TOKENS / seconds(64, NEW_TOKENS),
        "first": seconds(1, 1),
    }


def wrong_texts(path, texts):
    """How many texts differ from those that generate.py draws by seed."""
    from stacked_rnn import inference

    sampling = configs.SamplingConfig(
        max_new_tokens=NEW_TOKENS, temperature=1.0
    )
    expected = inference.load(path).continuations(
        [PROMPT], sampling, num_samples=1 + max(texts, default=0)
    )
    return sum(
        texts.get(text.seed, text.text) != text.text for text in expected
    )


# The clients ------------------------------------------------------------------


def _post(path, body, headers="", cut=None):
    """The bytes of a request, or the first `cut` of them."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return (head.encode() + body)[:cut]


_ASK, _PREDICT = "/v1/completions", "/v1/models/model:predict"
_CHAT = "/v1/chat/completions"
HARM = (  # hostile requests
    _post(_ASK, {"model": "model", "prompt": [None] * 150_000}),
    _post(_ASK, {"model": "model", "stop": "a" * 900_000}),
    _post(_ASK, {str(number): 0 for number in range(60_000)}),
    _post(_ASK, b"[" * 900_000),
    _post(_ASK, b'{"model": ' * 90_000),
    _post(_ASK, {"model": "model", "prompt": PROMPT}, cut=-5),
    _post(_ASK, {"model": "model", "prompt": PROMPT * 10_000}, cut=300_000),
    _post(_ASK, {"model": "model", "max_tokens": 4096, "n": 128}),
    _post(_PREDICT, {"instances": [PROMPT] * 9_000}),
    _post(_PREDICT, {"instances": ["a"] * 1_000 + ["a" * 800_000]}),
    _post(_PREDICT, {"instances": [[[]]] * 90_000}),
    b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    b"\0" * 1_000,
)


def probe(port, seconds):
    """Polls the health and the metrics of a server; milliseconds of each."""
    end, times = time.monotonic() + seconds, []
    while time.monotonic() < end:
        for path in ("healthz", "metrics"):
            start = time.perf_counter()
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/{path}"
            ) as got:
                got.read()
            times.append(1e3 * (time.perf_counter() - start))
        time.sleep(0.05)
    return times


class Client:
    """Sends requests to one server, and records its answers.

    Args:
        port: of the server.
        failures: a list that gets what came instead of whole answers; None: a
            new one.

    Attributes:
        first: seconds to the first event of each answer.
        gaps: seconds between the events of an answer.
        texts: seed -> text of each whole answer.
        failures: see above.
    """

    def __init__(self, port, failures=None):
        self._port = port
        self.first, self.gaps, self.texts = [], [], {}
        self.failures = [] if failures is None else failures

    def _connect(self):
        return asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self, seed, patience=np.inf, chats=False, **options) -> None:
        """Sends one request for a streamed text.

        Args:
            seed: of its text.
            patience: events after which the client leaves.
            chats: whether the request is one of a chat.
            **options: of the request.
        """
        body = {
            "model": "model", "prompt": PROMPT, "seed": seed,
            "max_tokens": NEW_TOKENS, "stream": True, **options,
        }  # fmt: skip
        if chats:
            content = body.pop("prompt")
            body["messages"] = [{"role": "user", "content": content}]
        headers = "connection: close\r\ncontent-type: application/json\r\n"
        status, events = await self._events(
            _post(_CHAT if chats else _ASK, body, headers), patience
        )
        if len(events) >= patience:
            return
        if b" 200 " not in status or events[-1:] != [b"data: [DONE]\n"]:
            self.failures.append((status, events[-1:]))
            return
        choices = [json.loads(line[6:])["choices"][0] for line in events[:-1]]
        if choices[-1]["finish_reason"] not in ("length", "stop"):
            self.failures.append((status, events[-2:]))
            return
        self.texts[seed] = "".join(
            choice["delta"]["content"] if chats else choice["text"]
            for choice in choices
        )

    async def _events(self, request, patience):
        """Sends a request; returns the first line and events of its answer.

        If the connection breaks, the reason is in place of the first line.
        """
        events, before = [], time.perf_counter()
        try:
            reader, writer = await self._connect()
            writer.write(request)
            status = await reader.readline()
            async for line in reader:
                if not line.startswith(b"data: "):
                    continue
                now = time.perf_counter()
                (self.gaps if events else self.first).append(now - before)
                before = now
                events.append(line)
                if len(events) >= patience:
                    break
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        except ConnectionError as error:
            status = repr(error).encode()
        return status, events

    async def predict(self) -> None:
        """Sends one request of TensorFlow Serving's API."""
        try:
            reader, writer = await self._connect()
            writer.write(_post(_PREDICT, {"instances": [PROMPT]}))
            status = await reader.readline()
            writer.close()
        except ConnectionError as error:
            status = repr(error).encode()
        if b" 200 " not in status and b" 429 " not in status:
            self.failures.append((status, []))

    async def harm(self, message) -> None:
        """Sends bytes; leaves at the first answer, or after one second."""
        with contextlib.suppress(ConnectionError):
            reader, writer = await self._connect()
            writer.write(message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.read(1)
            writer.close()

    async def closed_loop(
        self, clients, requests, harm_every=0, chats=False, prompts=(PROMPT,)
    ) -> float:
        """Several clients, each with one request at a time.

        Args:
            clients: how many.
            requests: of all of them.
            harm_every: one hostile request more for this many requests (0:
                none).
            chats: whether the requests are those of a chat.
            prompts: of the requests in turn.

        Returns:
            Tokens of whole answers per second.
        """
        seeds, harms = iter(range(requests)), []

        async def client():
            for seed in seeds:
                if harm_every and seed % harm_every == 0:
                    message = HARM[seed // harm_every % len(HARM)]
                    harms.append(asyncio.create_task(self.harm(message)))
                prompt = prompts[seed % len(prompts)]
                await self.ask(seed, chats=chats, prompt=prompt)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.perf_counter() - start
        await asyncio.gather(*harms)
        return len(self.texts) * NEW_TOKENS / seconds

    def naive_loop(self, requests) -> float:
        """One call of the signature per request; tokens per second."""
        body = {
            "signature_name": "generate",
            "inputs": {
                "prompts": [PROMPT], "max_new_tokens": [NEW_TOKENS],
                "temperature": [1.0],
            },
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/v1/models/model:predict",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        start = time.perf_counter()
        for _ in range(requests):
            urllib.request.urlopen(request).read()
        return requests * NEW_TOKENS / (time.perf_counter() - start)

    async def open_loop(self, rate, requests) -> None:
        """Requests at random moments, `rate` per second on average."""
        rng, tasks = random.Random(0), []
        for seed in range(requests):
            tasks.append(asyncio.create_task(self.ask(seed)))
            await asyncio.sleep(rng.expovariate(rate))
        await asyncio.gather(*tasks)

    def times(self) -> list[float]:
        """Milliseconds: first token p50, p99; between events p50, p99."""
        return [
            1e3 * float(np.percentile(values, share))
            for values in (self.first, self.gaps)
            for share in (50, 99)
        ]


class Server:
    """serve.py in another process while the `with` block lasts.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, directory, *flags):
        self._process = subprocess.Popen(
            [
                sys.executable, SERVE, f"--saved_model={directory}", "--port=0",
                "--noaccess_log", *flags,
            ],
            stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(SERVE.parent)},
        )  # fmt: skip

    def __enter__(self):
        for line in self._process.stderr:
            if found := re.search(r"Serving .* at .*:(\d+)/", line):
                self.port = int(found[1])
                return self
        raise RuntimeError("the server did not start")

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    @property
    def resident(self) -> float:
        """Resident memory in MB."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3

    def wait_for_xla(self) -> None:
        """Waits until the compiled functions are in use."""
        while not self.metric("stacked_rnn_is_compiled"):
            time.sleep(1)

    def metric(self, name) -> float:
        """The sum of one of its metrics over all labels."""
        address = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(address) as answer:
            content = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", content, re.MULTILINE)
        return sum(map(float, found))


# The benchmark ----------------------------------------------------------------


def measure(directory, path, config, pool):
    """Measures one model.

    Yields:
        A dict for the tables and the JSON file after each loop; the last one
        has everything.
    """
    rows, failures = {}, []
    result = {"rows": rows}
    with Server(directory) as server:
        server.wait_for_xla()
        Client(server.port).naive_loop(2)  # the first take longer
        for clients in CLIENTS:
            before = pool.submit(raw_speeds, path).result()
            warm_up = Client(server.port, failures)
            asyncio.run(warm_up.closed_loop(clients, clients))
            naive = Client(server.port).naive_loop(10)
            expected = before["1"] if clients == 1 else before["64"]
            requests = int(config.seconds * expected / NEW_TOKENS)
            if clients == CLIENTS[-1]:
                requests = config.requests
            client = Client(server.port, failures)
            speed = asyncio.run(
                client.closed_loop(clients, max(4 * clients, requests))
            )
            after = pool.submit(raw_speeds, path).result()
            raw = {name: (before[name] + after[name]) / 2 for name in before}
            rows[f"{clients} clients"] = [raw, naive, speed, *client.times()]
            yield result
        texts = client.texts
        for share in (0.5, 0.8):
            rate = share * rows["64 clients"][2] / NEW_TOKENS
            client = Client(server.port, failures)
            requests = max(20, int(config.seconds * rate))
            asyncio.run(client.open_loop(rate, requests))
            rows[f"open loop, {share:.0%} of 64 clients"] = [
                raw, naive, rate * NEW_TOKENS, *client.times(),
            ]  # fmt: skip
            yield result
        speed = rows["64 clients"][2]
        result["harm"] = measure_harm(server, speed, config, pool)
        yield result
        result["chats"] = measure_chats(server, speed, config, failures)
        yield result
        result["prefixes"] = measure_prefixes(directory, server, failures)
        yield result
    result["texts"] = len(texts)
    result["wrong"] = pool.submit(wrong_texts, path, texts).result()
    result["failures"] = len(failures) + result["harm"]["failures"]
    yield result


def measure_chats(server, speed, config, failures):
    """The speed of chats, divided by that of completions, in several turns."""
    requests, shares = max(200, int(config.seconds * speed / NEW_TOKENS)), []
    for _ in range(TURNS_OF_CHAT):
        plain, chats = (
            asyncio.run(
                Client(server.port, failures).closed_loop(
                    64, requests, chats=chats
                )
            )
            for chats in (False, True)
        )
        shares.append(chats / plain)
    return shares


def measure_prefixes(directory, server, failures):
    """What the prefix cache brings and costs, with prompts of `LONG_PROMPT`.

    Returns:
        "first": what was asked -> ms to the first token, the median; "cost":
        tokens per second of 8 clients whose prompts never repeat, divided by
        those of a server without a cache, in several turns.
    """
    numbers = random.Random(0)

    def texts(count):
        return [
            "".join(numbers.choices("abcdefgh ", k=LONG_PROMPT))
            for _ in range(count)
        ]

    def first(prompts):
        client = Client(server.port, failures)
        for seed, prompt in enumerate(prompts):
            asyncio.run(client.ask(seed, prompt=prompt))
        return client.times()[0]

    new = texts(LONG_PROMPTS)
    times = {
        "an empty prompt": first([""] * LONG_PROMPTS),
        "new": first(new),
        "the same again": first(new),
        "the same with another end": first([f"{one} And?" for one in new]),
        "an empty prompt again": first([""] * LONG_PROMPTS),
    }
    costs = []
    with Server(directory, "--prefix_cache_mib=0") as other:
        other.wait_for_xla()
        for _ in range(TURNS_OF_CHAT):
            with_cache, without = (
                asyncio.run(
                    Client(one.port, failures).closed_loop(
                        8, LONG_PROMPTS, prompts=texts(LONG_PROMPTS)
                    )
                )
                for one in (server, other)
            )
            costs.append(with_cache / without)
    return {"first": times, "cost": costs}


def measure_harm(server, speed, config, pool):
    """What 1 % of hostile requests costs 64 honest clients.

    Loops without and with hostile requests take turns.

    Returns:
        "shares": the honest clients' speed, divided by that without hostile
        requests; "gaps": ms between events, p99, without and with; "failures"
        of honest requests; "probes": ms of each in the meantime.
    """
    requests = max(200, int(config.seconds * speed / NEW_TOKENS))
    speeds, gaps, failures, probes = [], ([], []), 0, []
    for turn in range(2 * TURNS_OF_HARM + 1):
        client, is_harmed = Client(server.port), turn % 2
        if is_harmed:
            probing = pool.submit(probe, server.port, config.seconds)
        speeds.append(
            asyncio.run(client.closed_loop(64, requests, 100 * is_harmed))
        )
        gaps[is_harmed].append(client.times()[-1])
        failures += len(client.failures)
        if is_harmed:
            probes += probing.result()
    shares = [
        2 * speeds[turn] / (speeds[turn - 1] + speeds[turn + 1])
        for turn in range(1, len(speeds), 2)
    ]
    return {
        "shares": shares,
        "gaps": [*map(statistics.median, gaps)],
        "failures": failures,
        "probes": probes,
    }


def model_lines(name, results):
    """The lines on one model."""
    rows = []
    for what, (raw, naive, speed, *times) in results["rows"].items():
        others = (raw["1"], raw["64"], naive)
        shares = [f"{speed / other:.2f} of {other:,.0f}" for other in others]
        rows.append([what, speed, *shares, 1e3 * raw["first"], *times])
    harm, probes = results["harm"], results["harm"]["probes"]
    shares = [f(harm["shares"]) for f in (statistics.median, min, max)]
    slow = [np.percentile(probes, share) for share in (50, 99, 100)]
    return [
        f"\n## {name}\n",
        *table(
            {
                "": "", "tokens/s": ",.0f", "of raw at 1": "",
                "of raw at 64": "", "of the naive server": "",
                "raw first token, ms": ".1f", "first token p50, ms": ".1f",
                "first token p99, ms": ".1f", "gap p50, ms": ".1f",
                "gap p99, ms": ".1f",
            },
            rows,
        ),
        "",
        *table(
            {
                f"texts of {CLIENTS[-1]} clients": ",", "wrong": "",
                "failed in all loops": "",
            },
            [[results["texts"], results["wrong"], results["failures"]]],
        ),
        "\n64 clients beside 1 % of hostile requests; their speed is a share "
        "of that without such requests, the median of several loops.\n",
        *table(
            {
                "speed": ".0%", "least": ".0%", "most": ".0%", "failed": "",
                "gap p99 without, ms": ".1f", "gap p99, ms": ".1f",
                "probes": ",", "probe p50, ms": ".0f",
                "probe p99, ms": ".0f", "slowest probe, ms": ".0f",
            },
            [[*shares, harm["failures"], *harm["gaps"], len(probes), *slow]],
        ),
        "\nChats of 64 clients: "
        + ", ".join(f"{share:.2f}" for share in results["chats"])
        + " of the speed of completions.\n",
        f"ms to the first token of one client, prompts of {LONG_PROMPT:,} "
        "characters:\n",
        *table(
            dict.fromkeys(results["prefixes"]["first"], ".1f"),
            [[*results["prefixes"]["first"].values()]],
        ),
        "\nPrompts that never repeat, 8 clients: "
        + ", ".join(f"{share:.2f}" for share in results["prefixes"]["cost"])
        + " of the speed without a prefix cache.",
    ]  # fmt: skip


def plot(results, report):
    """Draws tokens per second by the number of clients, beside raw."""
    with report.plot(9, 3.2) as figure:
        panels = figure.subplots(1, len(results), squeeze=False)[0]
        for axes, (name, result) in zip(panels, results.items()):
            rows = [result["rows"][f"{count} clients"] for count in CLIENTS]
            speeds = [speed for _, _, speed, *_ in rows]
            axes.plot(CLIENTS, speeds, "o-", label="serve.py")
            for size, style in (("64", "--"), ("1", ":")):
                axes.plot(
                    CLIENTS, [raw[size] for raw, *_ in rows], style,
                    color="gray", label=f"one call of generate, batch {size}",
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(CLIENTS, CLIENTS)
            axes.set_ylim(bottom=0)
            axes.set(xlabel="clients", ylabel="tokens per second", title=name)
            axes.legend()


# The soak ---------------------------------------------------------------------


async def soak(server, minutes):
    """Sends requests of all kinds; some clients leave early.

    Returns:
        The `Client`, how many left, how many requests were hostile, and the
        server's MB along the way.
    """
    client, rng = Client(server.port), random.Random(0)
    end, memory = time.monotonic() + 60 * minutes, []
    leavers = harms = 0

    async def one_after_the_other():
        nonlocal leavers, harms
        while time.monotonic() < end:
            leaves = rng.random() < 0.2
            leavers += leaves
            if rng.random() < 0.05:
                await client.harm(rng.choice(HARM))
                harms += 1
            if rng.random() < 0.02:
                await client.predict()
            await client.ask(
                rng.randrange(2**32),
                patience=rng.randrange(1, 5) if leaves else np.inf,
                prompt=PROMPT * rng.choice([0, 1, 1, 1, 50]),
                max_tokens=rng.choice([2, 20, NEW_TOKENS]),
                temperature=rng.choice([0.0, 0.8, 1.0]),
                top_k=rng.choice([0, 5]),
                stop=rng.choice([[], ["e"], ["zq"]]),
                logprobs=rng.choice([None, 0, 3]),
            )
            client.texts.clear()
            del client.first[:], client.gaps[:]

    async def watch():
        while time.monotonic() < end:
            memory.append(server.resident)
            await asyncio.sleep(30 if minutes >= 5 else 5)

    await asyncio.gather(watch(), *(one_after_the_other() for _ in range(100)))
    await asyncio.sleep(2)
    memory.append(server.resident)
    return client, leavers, harms, memory


def soak_figures(server, minutes):
    """The figures of a soak."""
    client, leavers, harms, memory = asyncio.run(soak(server, minutes))
    return {
        "minutes": minutes,
        "requests": server.metric("stacked_rnn_requests_total"),
        "left": leavers,
        "harmful": harms,
        "failures": len(client.failures),
        "places still taken": server.metric("stacked_rnn_texts_active"),
        "texts still waiting": server.metric("stacked_rnn_texts_waiting"),
        "tokens": server.metric("stacked_rnn_generated_tokens_total"),
        "MB": memory,
    }


def soak_lines(name, figures):
    """The lines on a soak."""
    *names, memory = figures
    places = np.linspace(0, len(figures[memory]) - 1, 11).astype(int)
    along = [f"{figures[memory][place]:,.0f}" for place in places]
    return [
        f"\n## {name}\n",
        *table(
            dict.fromkeys(names, ",.10g"), [[figures[name] for name in names]]
        ),
        f"\nMB resident, from the beginning to the end: {', '.join(along)}",
    ]


def main(config):
    """Measures, prints and writes the report."""
    soaks, results = config.soak_minutes, {}
    name, title = "serving_load", "Under load"
    if soaks:
        name, title = "soak", "A long run of the server"
    report = common.Report(config, name, title, plots=not soaks)
    lines = ["The clients run on the same cores."]
    if not soaks:
        lines[0] += (
            " A gap is the time between two events of a stream; a wrong text "
            "differs from that of generate.py."
        )
    for model in config.models.split(","):
        cell, units = model.split(":")
        with (
            tempfile.TemporaryDirectory() as scratch,
            concurrent.futures.ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
            ) as pool,
        ):
            directory = f"{scratch}/model"
            path = pool.submit(
                export_model, cell, int(units), directory
            ).result()
            if soaks:
                with Server(directory) as server:
                    server.wait_for_xla()
                    results[model] = soak_figures(server, soaks)
                report.save(results)
                lines += soak_lines(model, results[model])
            else:
                for result in measure(directory, path, config, pool):
                    results[model] = result
                    report.save(results)  # in case of an interruption
                lines += model_lines(model, results[model])
    if not soaks:
        plot(results, report)
        lines.append("\n![tokens per second](serving_load.png)")
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
