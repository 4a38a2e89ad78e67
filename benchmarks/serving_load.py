"""What serve.py does under load, beside the signature that it stands on.

  python benchmarks/serving_load.py

Exports untrained models, serves them in another process, and asks from this
one: closed loop (so many clients, each with its next request as soon as it has
its answer) and open loop (requests come at random moments, however many are
under way). All texts are streamed, 64 characters in, 256 tokens out.

"Raw" is the signature `generate` called in this process, before the server
starts. A server that runs one call for each request, in turn, is no faster than
raw at batch 1.

Writes serving_load.md and .json to --output_dir, and prints them.
"""

import asyncio
import dataclasses
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from measuring import Calm, machine, write_report

from stacked_rnn import command_line, configs
from stacked_rnn.configs import setting

SERVE = pathlib.Path(__file__).parents[1] / "serve.py"
PROMPT = "It was the best of tests, it was the worst of tests, it was new."
NEW_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    models: str = setting("gru:128,lstm:512", "Cell and units, with commas.")
    seconds: float = setting(10.0, "Length of a closed loop, about.")
    requests: int = setting(2000, "Of the run of 256 clients.", minimum=1)
    output_dir: str = setting("benchmarks/results", "Directory of the report.")


def export_model(cell, units, directory):
    """An untrained model of two layers over the characters of pydoc."""
    import keras

    from stacked_rnn import datasets, export, models, tokenizers

    keras.utils.set_random_seed(0)
    tokenizer = tokenizers.build("char", datasets.Corpus("pydoc").pieces())
    model = models.build_language_model(
        configs.ModelConfig(
            cell=cell, units=units, num_layers=2,
            vocabulary_size=tokenizer.vocabulary_size(),
        )
    )  # fmt: skip
    generator = export.TextGenerator(model.for_inference(), tokenizer)
    return generator.save(directory)


def raw_speeds(path):
    """Of the signature: tokens a second by batch, seconds to a first token."""
    import tensorflow as tf

    generate = tf.saved_model.load(str(path)).signatures["generate"]

    def call(rows, tokens):
        start = time.perf_counter()
        generate(
            prompts=tf.constant([PROMPT] * rows),
            max_new_tokens=tf.constant([tokens]),
            temperature=tf.constant([1.0]), top_k=tf.constant([0]),
            top_p=tf.constant([1.0]), repetition_penalty=tf.constant([1.0]),
            seed=tf.constant([0], tf.int64),
        )["token_ids"].numpy()  # fmt: skip
        return time.perf_counter() - start

    def best(rows, tokens):
        call(rows, tokens)
        return min(call(rows, tokens) for _ in range(5))

    speeds = {
        rows: rows * NEW_TOKENS / best(rows, NEW_TOKENS) for rows in (1, 64)
    }
    return speeds, best(1, 1)


class Client:
    """Asks one server, and notes when what came."""

    def __init__(self, port, model):
        self._port, self._model = port, model
        self.first, self.gaps, self.texts = [], [], {}

    async def ask(self, seed):
        """One request, streamed."""
        body = json.dumps(
            {
                "model": self._model, "prompt": PROMPT, "seed": seed,
                "max_tokens": NEW_TOKENS, "stream": True,
            }
        )  # fmt: skip
        start = before = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        text = ""
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            if text:
                self.gaps.append(now - before)
            else:
                self.first.append(now - start)
            before = now
            text += json.loads(line[6:])["choices"][0]["text"]
        writer.close()
        self.texts[seed] = text

    async def closed_loop(self, clients, requests):
        """So many clients; tokens a second."""
        seeds = iter(range(requests))

        async def client():
            for seed in seeds:
                await self.ask(seed)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return requests * NEW_TOKENS / (time.perf_counter() - start)

    async def open_loop(self, a_second, requests):
        """Requests at random moments."""
        rng, tasks = random.Random(0), []
        for seed in range(requests):
            tasks.append(asyncio.create_task(self.ask(seed)))
            await asyncio.sleep(rng.expovariate(a_second))
        await asyncio.gather(*tasks)

    def row(self):
        """Milliseconds: first token p50, p99; between events p50, p99."""
        return [
            1e3 * float(np.percentile(values, share))
            for values in (self.first, self.gaps)
            for share in (50, 99)
        ]


def serve(directory):
    """A server in another process, and its port."""
    process = subprocess.Popen(
        [
            sys.executable, SERVE, f"--saved_model={directory}", "--port=0",
            "--noaccess_log", "--poll_seconds=60",
        ],
        stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(SERVE.parent)},
    )  # fmt: skip
    for line in process.stderr:
        if found := re.search(r"Serving .* at .*:(\d+)/", line):
            return process, int(found[1])
    raise RuntimeError("the server did not start")


def measure(cell, units, config):
    """All figures of one model."""
    results = {"rows": {}}
    with tempfile.TemporaryDirectory() as scratch:
        path = export_model(cell, units, f"{scratch}/model")
        raw, results["raw_first"] = raw_speeds(path)
        results["raw"] = raw
        process, port = serve(f"{scratch}/model")
        time.sleep(20)  # the small sizes of batch are compiled meanwhile
        try:
            for clients in (1, 8, 64, 256):
                client = Client(port, "model")
                asyncio.run(client.closed_loop(clients, clients))  # warm
                client = Client(port, "model")
                expected = raw[1] if clients == 1 else raw[64]
                requests = max(
                    2 * clients, int(config.seconds * expected / NEW_TOKENS)
                )
                if clients == 256:
                    requests = config.requests
                speed = asyncio.run(client.closed_loop(clients, requests))
                results["rows"][f"{clients} clients"] = [speed, *client.row()]
            capacity = results["rows"]["64 clients"][0] / NEW_TOKENS
            results["wrong"] = wrong_texts(path, client.texts)
            for share in (0.5, 0.8):
                client = Client(port, "model")
                asyncio.run(
                    client.open_loop(
                        share * capacity,
                        max(20, int(config.seconds * share * capacity)),
                    )
                )
                results["rows"][f"open, {share:.0%} of that"] = [
                    share * capacity * NEW_TOKENS, *client.row(),
                ]  # fmt: skip
        finally:
            process.terminate()
            process.wait()
    return results


def wrong_texts(path, texts):
    """How many texts are not what their seeds give alone, or not whole."""
    from stacked_rnn import inference

    model = inference.load(str(path))
    sampling = configs.SamplingConfig(
        max_new_tokens=NEW_TOKENS, temperature=1.0
    )
    expected = model.generate([PROMPT], sampling, num_samples=len(texts))
    return sum(texts[text.seed] != text.text for text in expected)


def report(name, results):
    """The lines on one model."""
    raw, rows = results["raw"], results["rows"]
    lines = [
        f"\n## {name}\n",
        f"Raw: {raw[1]:,.0f} tokens a second at batch 1, {raw[64]:,.0f} at "
        f"batch 64; {1e3 * results['raw_first']:.1f} ms to a first token.\n",
        "| | tokens/s | of raw at 1 | of raw at 64 | first token p50 | p99 | "
        "between events p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, (speed, *times) in rows.items():
        lines.append(
            f"| {what} | {speed:,.0f} | {speed / raw[1]:.2f} | "
            f"{speed / raw[64]:.2f} | "
            + " | ".join(f"{value:.1f} ms" for value in times)
            + " |"
        )
    total = results["total"]
    lines.append(
        f"\nOf the {total:,} texts of 256 clients {results['wrong']} differ "
        "from what generate.py makes of their seeds."
    )
    return lines


def main(config):
    """Measures, prints and writes the report."""
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    calm, results, lines = Calm(), {}, []
    for name in config.models.split(","):
        cell, units = name.split(":")
        results[name] = measure(cell, int(units), config)
        results[name]["total"] = config.requests
        lines += report(name, results[name])
    head = [
        f"# Serving under load\n\n{machine()}; {calm}.\n",
        "The client that asks runs on the same cores.",
    ]
    write_report(output, "serving_load", head + lines, results)


if __name__ == "__main__":
    command_line.run(main, BenchmarkConfig)
