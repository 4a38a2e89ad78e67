"""What serve.py does under load, beside the signature that it stands on.

  python benchmarks/serving_load.py
  python benchmarks/serving_load.py --soak_minutes=10

Exports untrained models, serves them in another process, and asks from this
one: closed loop (so many clients, each with its next request as soon as it has
its answer) and open loop (requests come at random moments, however many are
under way). All texts are streamed, 64 characters in, 256 tokens out.

"Raw" is the signature `generate`, called for seconds in a process of its own
before and after each loop, while the server has nothing to do. The "naive
server" runs one such call for each request, in turn, as `:predict` does for one
client.

Writes serving_load.md, .json and .png to --output_dir, and prints the first.
With --soak_minutes it asks in all ways at once instead, and writes soak.md.
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

import numpy as np
from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting
from stacked_rnn.utils import terminal

SERVE = pathlib.Path(__file__).parents[1] / "serve.py"
PROMPT = "It was the best of tests, it was the worst of tests, it was new."
NEW_TOKENS = 256
CLIENTS = (1, 8, 64, 256)
TURNS_OF_HARM = 3


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    models: str = setting("gru:128,lstm:512", "Cell and units, with commas.")
    seconds: float = setting(10.0, "Length of a loop, about.", minimum=1.0)
    requests: int = setting(
        2000, "Of the loop with the most clients.", minimum=1
    )
    soak_minutes: float = setting(
        0.0, "Length of a soak (0: the benchmark instead).", minimum=0.0
    )
    output_dir: str = setting("benchmarks/results", "Directory of the report.")


# In a process of their own: the cores are the server's then -------------------


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
    """Of the signature: tokens a second by batch, seconds to a first token."""
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
    """How many texts are not what generate.py makes of their seeds."""
    from stacked_rnn import inference

    sampling = configs.SamplingConfig(
        max_new_tokens=NEW_TOKENS, temperature=1.0
    )
    expected = inference.load(path).generate(
        [PROMPT], sampling, num_samples=len(texts)
    )
    return sum(texts[text.seed] != text.text for text in expected)


# The clients ------------------------------------------------------------------


def _post(path, body, cut=None):
    """The bytes of a request, or the first of them."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: "
    return (head.encode() + b"%d\r\n\r\n" % len(body) + body)[:cut]


_ASK, _PREDICT = "/v1/completions", "/v1/models/model:predict"
HARM = (  # what a client sends that means it
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
    """Asks for the health and the metrics of a server; milliseconds of each."""
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
    """Asks one server, and notes when what came."""

    def __init__(self, port):
        self._port = port
        self.first, self.gaps, self.texts = [], [], {}
        self.failures = []

    async def ask(self, seed, patience=np.inf, **options) -> None:
        """One request, streamed.

        Args:
            seed: of its text.
            patience: events after which the client leaves.
            **options: of the request.
        """
        body = json.dumps(
            {
                "model": "model", "prompt": PROMPT, "seed": seed,
                "max_tokens": NEW_TOKENS, "stream": True, **options,
            }
        )  # fmt: skip
        before = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"connection: close\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        status, events = await reader.readline(), []
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
        if len(events) >= patience:
            return
        if b" 200 " not in status or events[-1] != b"data: [DONE]\n":
            self.failures.append((status, events[-1:]))
            return
        choices = [json.loads(line[6:])["choices"][0] for line in events[:-1]]
        if choices[-1]["finish_reason"] not in ("length", "stop"):
            self.failures.append((status, events[-2:]))
        self.texts[seed] = "".join(choice["text"] for choice in choices)

    async def predict(self) -> None:
        """A text by TensorFlow Serving's API."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_post(_PREDICT, {"instances": [PROMPT]}))
        status = await reader.readline()
        if b" 200 " not in status and b" 429 " not in status:
            self.failures.append((status, []))
        writer.close()

    async def harm(self, message) -> None:
        """Sends bytes, and leaves once something comes back, if it does."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(message)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                await reader.read(1)
        writer.close()

    async def closed_loop(self, clients, requests, harm_every=0) -> float:
        """So many clients; tokens a second.

        Args:
            clients: that ask at the same time.
            requests: of all of them.
            harm_every: so many requests there is one more that means harm (0:
                never), which is no client's.
        """
        seeds, harms = iter(range(requests)), []

        async def client():
            for seed in seeds:
                if harm_every and seed % harm_every == 0:
                    message = HARM[seed // harm_every % len(HARM)]
                    harms.append(asyncio.create_task(self.harm(message)))
                await self.ask(seed)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.perf_counter() - start
        await asyncio.gather(*harms)
        return requests * NEW_TOKENS / seconds

    def naive_loop(self, requests) -> float:
        """One call of the signature for each request; tokens a second."""
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

    async def open_loop(self, a_second, requests) -> None:
        """Requests at random moments."""
        rng, tasks = random.Random(0), []
        for seed in range(requests):
            tasks.append(asyncio.create_task(self.ask(seed)))
            await asyncio.sleep(rng.expovariate(a_second))
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
        port: of it.
    """

    def __init__(self, directory):
        self._process = subprocess.Popen(
            [
                sys.executable, SERVE, f"--saved_model={directory}", "--port=0",
                "--noaccess_log",
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
        """MB of memory."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3

    def wait_for_xla(self) -> None:
        """Until requests are as fast as they get."""
        while not self.metric("stacked_rnn_is_compiled"):
            time.sleep(1)

    def metric(self, name) -> float:
        """The sum of a metric over its labels."""
        address = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(address) as answer:
            content = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", content, re.MULTILINE)
        return sum(map(float, found))


# The benchmark ----------------------------------------------------------------


def measure(directory, path, config, pool):
    """All figures of one model."""
    rows, failures = {}, 0
    with Server(directory) as server:
        server.wait_for_xla()
        Client(server.port).naive_loop(2)  # the first take longer
        for clients in CLIENTS:
            before = pool.submit(raw_speeds, path).result()
            asyncio.run(Client(server.port).closed_loop(clients, clients))
            naive = Client(server.port).naive_loop(10)
            expected = before["1"] if clients == 1 else before["64"]
            requests = int(config.seconds * expected / NEW_TOKENS)
            if clients == CLIENTS[-1]:
                requests = config.requests
            client = Client(server.port)
            speed = asyncio.run(
                client.closed_loop(clients, max(4 * clients, requests))
            )
            after = pool.submit(raw_speeds, path).result()
            raw = {name: (before[name] + after[name]) / 2 for name in before}
            rows[f"{clients} clients"] = [raw, naive, speed, *client.times()]
            failures += len(client.failures)
        texts = client.texts
        for share in (0.5, 0.8):
            a_second = share * rows["64 clients"][2] / NEW_TOKENS
            client = Client(server.port)
            asyncio.run(
                client.open_loop(
                    a_second, max(20, int(config.seconds * a_second))
                )
            )
            rows[f"open loop, {share:.0%} of 64 clients"] = [
                raw, naive, a_second * NEW_TOKENS, *client.times(),
            ]  # fmt: skip
        harm = measure_harm(server, rows["64 clients"][2], config, pool)
    wrong = pool.submit(wrong_texts, path, texts).result()
    return {
        "rows": rows, "texts": len(texts), "wrong": wrong,
        "failures": failures, "harm": harm,
    }  # fmt: skip


def measure_harm(server, speed, config, pool):
    """What 1 % of requests that mean harm costs 64 honest clients.

    Returns:
        "shares": of the tokens a second that there are without them, of loops
        in turn; "gaps": ms between events, p99, without and with; "failures"
        of honest requests; "probes": ms, meanwhile.
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


def report(name, results):
    """The lines on one model."""
    lines = [
        f"\n## {name}\n",
        "| | tokens/s | of raw at 1 | of raw at 64 | of the naive server | "
        "first token, raw | p50 | p99 | between events p50 | p99 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for what, (raw, naive, speed, *times) in results["rows"].items():
        lines.append(
            f"| {what} | {speed:,.0f} | {speed / raw['1']:.2f} of "
            f"{raw['1']:,.0f} | {speed / raw['64']:.2f} of {raw['64']:,.0f} | "
            f"{speed / naive:.2f} of {naive:,.0f} | "
            f"{1e3 * raw['first']:.1f} ms | "
            + " | ".join(f"{value:.1f} ms" for value in times)
            + " |"
        )
    lines.append(
        f"\nOf the {results['texts']:,} texts of {CLIENTS[-1]} clients "
        f"{results['failures']} failed, and {results['wrong']} differ from "
        "what generate.py makes of their seeds."
    )
    harm = results["harm"]
    (clean, harmed), probes = harm["gaps"], harm["probes"]
    lines.append(
        "\nWhere 1 % of all requests mean harm, 64 honest clients have "
        f"{statistics.median(harm['shares']):.0%} "
        f"({min(harm['shares']):.0%} to {max(harm['shares']):.0%}) of the "
        f"tokens a second that they have without, {harmed:.1f} ms between "
        f"events (p99) instead of {clean:.1f}, and {harm['failures']} of their "
        "requests fail. A probe is answered within "
        f"{np.percentile(probes, 50):.0f} ms (p50), "
        f"{np.percentile(probes, 99):.0f} ms (p99), {max(probes):.0f} ms (the "
        f"slowest of {len(probes):,})."
    )
    return lines


def draw(results, path):
    """Tokens a second by the number of clients, beside raw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, result) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items()
    ):
        rows = [result["rows"][f"{count} clients"] for count in CLIENTS]
        speeds = [speed for _, _, speed, *_ in rows]
        axes.plot(CLIENTS, speeds, marker="o", label="serve.py")
        for size, style in (("64", "--"), ("1", ":")):
            axes.plot(
                CLIENTS, [raw[size] for raw, *_ in rows], style, color="gray",
                label=f"one call of generate, batch {size}",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(CLIENTS, CLIENTS)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("clients")
        axes.set_ylabel("tokens a second")
        axes.set_title(name)
        axes.legend()
    figure.savefig(path, dpi=150)


# The soak ---------------------------------------------------------------------


async def soak(server, minutes):
    """Requests of all kinds, clients that leave among them.

    Returns:
        The `Client`, how many left, how many meant harm, and the server's MB
        along the way.
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


def soak_report(server, minutes):
    """The lines on a soak, and its figures."""
    client, leavers, harms, memory = asyncio.run(soak(server, minutes))
    requests = server.metric("stacked_rnn_requests_total")
    figures = {
        "minutes": minutes,
        "requests": requests,
        "left": leavers,
        "harmful": harms,
        "failures": len(client.failures),
        "places still taken": server.metric("stacked_rnn_texts_active"),
        "texts still waiting": server.metric("stacked_rnn_texts_waiting"),
        "tokens": server.metric("stacked_rnn_generated_tokens_total"),
        "MB": memory,
    }
    places = np.linspace(0, len(memory) - 1, 11).astype(int)
    return figures, [
        f"{minutes:g} minutes, 100 clients: {requests:,.0f} requests, "
        f"{figures['tokens']:,.0f} tokens; {leavers:,} clients left before the "
        f"end, {harms:,} sent what means harm. {figures['failures']} failed; "
        f"{figures['places still taken']:.0f} places and "
        f"{figures['texts still waiting']:.0f} places in the queue were taken "
        "afterwards.\n",
        "MB resident, from the beginning to the end: "
        + ", ".join(f"{memory[place]:,.0f}" for place in places),
    ]


def main(config):
    """Measures, prints and writes the report."""
    output = terminal.writable_directory("output_dir", config.output_dir)
    calm, results, lines = Calm(), {}, []
    name = "soak" if config.soak_minutes else "serving_load"
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
            if config.soak_minutes:
                with Server(directory) as server:
                    server.wait_for_xla()
                    results[model], more = soak_report(
                        server, config.soak_minutes
                    )
                lines += [f"\n## {model}\n", *more]
            else:
                results[model] = measure(directory, path, config, pool)
                lines += report(model, results[model])
    if not config.soak_minutes:
        draw(results, output / "serving_load.png")
        lines.append("\n![](serving_load.png)")
    title = "A long run of the server" if config.soak_minutes else "Under load"
    head = [
        f"# {title}\n\n{machine()}; {calm}.\n",
        "The clients run on the same cores.",
    ]
    write_report(output, name, head + lines, results)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
