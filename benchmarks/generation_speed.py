"""Speed of generation beside PyTorch, Keras called from Python, and memory.

  python benchmarks/generation_speed.py
  python benchmarks/generation_speed.py --cells=gru --units=128

Vocabulary 65, embedding 128, two layers, drawn at temperature 1. This project's
part is what generate.py calls: a SavedModel that another process wrote, loaded,
without XLA and with it. PyTorch's is the better of a loop over `nn.GRU` or
`nn.LSTM` and one over the cells, in inference mode. The bound is what reading
every weight once a token takes, measured as NumPy's product of a matrix of that
size and a vector, again and again: from the cache, where the weights fit there.

Writes generation_speed.md and .json to --output_dir, and prints the tables.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from concurrent import futures

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

from measuring import (
    Calm,
    interleaved,
    machine,
    thousands,
    timed,
    write_report,
)

from stacked_rnn import command_line, configs
from stacked_rnn.configs import UserError, setting

VOCABULARY, EMBEDDING, LAYERS = 65, 128, 2
TOKENS = 256  # of one step of a contender
OPTIONS = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    cells: str = setting("gru,lstm", "gru, lstm, or both.")
    units: str = setting("128,512", "Widths, separated by commas.")
    batches: str = setting("1,64", "Batch sizes, separated by commas.")
    repetitions: int = setting(
        5, "Turns that each contender gets; the median counts.", minimum=1
    )
    seconds: float = setting(1.0, "Length of a turn, about.", minimum=0.0)
    output_dir: str = setting("benchmarks/results", "Directory of the report.")


def build_model(cell, units):
    """A language model of random weights."""
    from stacked_rnn import models

    return models.build_language_model(
        configs.ModelConfig(
            cell=cell,
            units=units,
            num_layers=LAYERS,
            embedding_dim=EMBEDDING,
            vocabulary_size=VOCABULARY,
        )
    )


def export(cell, units, directory):
    """Writes a SavedModel of random weights; run in a process of its own."""
    from stacked_rnn import tokenizers
    from stacked_rnn.export import TextGenerator

    tokenizer = tokenizers.CharTokenizer(
        ["\ufffd", *map(chr, range(33, 32 + VOCABULARY))]
    )
    generator = TextGenerator(build_model(cell, units), tokenizer)
    return str(generator.save(directory))


def this_project(model, batch_size, compiles, **options):
    """`decode`, as `SavedModel.generate` and generate.py call it."""
    from stacked_rnn import inference

    def run(steps):
        sampling = configs.SamplingConfig(
            **{"max_new_tokens": TOKENS * steps, "temperature": 1.0} | options
        )
        inference.WORTH_COMPILING = 0 if compiles else 10**9
        samples = model.generate(["A"], sampling, num_samples=batch_size)
        assert all(len(s.tokens) == TOKENS * steps for s in samples)

    return run


def streaming(model):
    """The same, a piece at a time to somebody who reads."""
    from stacked_rnn import inference

    def run(steps):
        inference.WORTH_COMPILING = 0
        sampling = configs.SamplingConfig(
            max_new_tokens=TOKENS * steps, temperature=1.0
        )
        text = inference.Conversation(model, sampling)
        text.read("A")
        assert sum(map(len, text.write())) == TOKENS * steps

    return run


def keras_from_python(cell, units, batch_size):
    """A compiled Keras step, called for each token."""
    import tensorflow as tf

    model = build_model(cell, units)

    @tf.function(autograph=False)
    def step(token_ids, states):
        new = model.decode_step({"token_ids": token_ids, "states": states})
        drawn = tf.random.categorical(new["logits"], 1, tf.int32)[:, 0]
        return drawn, new["states"]

    def run(steps):
        token_ids = tf.zeros([batch_size], tf.int32)
        states = model.initial_states(batch_size)
        for _ in range(TOKENS * steps):
            token_ids, states = step(token_ids, states)
        token_ids.numpy()

    return run


def pytorch(cell, units, batch_size, cells):
    """A step at a time of `nn.GRU` or `nn.LSTM`, or of their cells."""
    import torch

    name = {"gru": "GRU", "lstm": "LSTM"}[cell]
    embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING)
    readout = torch.nn.Linear(units, VOCABULARY)
    if cells:
        kind = getattr(torch.nn, f"{name}Cell")
        stack = [kind(EMBEDDING, units)]
        stack += [kind(units, units) for _ in range(LAYERS - 1)]
    else:
        kind = getattr(torch.nn, name)
        stack = kind(EMBEDDING, units, LAYERS, batch_first=True)

    def advance(x, states):
        if not cells:
            outputs, states = stack(x[:, None], states)
            return outputs[:, 0], states
        states = states or [None] * LAYERS
        new_states = []
        for layer, state in zip(stack, states):
            state = layer(x, state)
            x = state[0] if cell == "lstm" else state
            new_states.append(state)
        return x, new_states

    def run(steps):
        with torch.inference_mode():
            token_ids, states = torch.zeros(batch_size, dtype=torch.long), None
            for _ in range(TOKENS * steps):
                x, states = advance(embedding(token_ids), states)
                probabilities = torch.softmax(readout(x), -1)
                token_ids = torch.multinomial(probabilities, 1)[:, 0]

    return run


def bound(cell, units):
    """Tokens a second of one core that reads each weight once a token.

    Returns:
        That, and the bandwidth in GB/s: of a product of a matrix of as many
        weights and a vector, again and again.
    """
    import numpy as np

    gates = {"gru": 3, "lstm": 4}[cell]
    inputs = [EMBEDDING] + [units] * (LAYERS - 1)
    weights = sum(gates * units * (n + units) for n in inputs)
    matrix = np.ones((weights // units + VOCABULARY, units), np.float32)
    vector = np.ones(units, np.float32)

    def run(steps):
        for _ in range(steps):
            matrix @ vector

    run(3)
    steps = 200
    seconds = min(timed(run, steps) for _ in range(5)) / steps
    return 1 / seconds, matrix.nbytes / seconds / 1e9


def compare(cell, units, batch_size, path, config):
    """Tokens a second of each contender."""
    from stacked_rnn import inference

    model = inference.load(path)
    runs = {
        "without XLA": this_project(model, batch_size, compiles=False),
        "with XLA": this_project(model, batch_size, compiles=True),
        "with XLA, options": this_project(model, batch_size, True, **OPTIONS),
        "PyTorch, layer": pytorch(cell, units, batch_size, cells=False),
        "PyTorch, cells": pytorch(cell, units, batch_size, cells=True),
        "Keras from Python": keras_from_python(cell, units, batch_size),
    }
    if batch_size == 1:
        runs["streamed"] = streaming(model)
    compiling = timed(runs["with XLA"], 1)
    times = interleaved(runs, config.repetitions, config.seconds)
    tokens = batch_size * TOKENS
    speeds = {n: tokens / statistics.median(t) for n, t in times.items()}
    torch = max(speeds["PyTorch, layer"], speeds["PyTorch, cells"])
    plain, fast = speeds["without XLA"], speeds["with XLA"]
    gain = batch_size * (1 / plain - 1 / fast)  # seconds a step
    roofline, bandwidth = bound(cell, units)
    return {
        "tokens_per_second": speeds,
        "against_pytorch": fast / torch,
        "options_cost": 1 - speeds["with XLA, options"] / fast,
        "streamed": speeds.get("streamed", float("nan")) / fast,
        "compile_seconds": compiling - tokens / fast,
        "break_even_steps": (
            (compiling - tokens / fast) / gain if gain > 0 else float("inf")
        ),
        "bound": roofline,
        "bandwidth": bandwidth,
        "seconds_a_step": times,
    }


def start_up(path):
    """Seconds of the parts of a start of generate.py, in a new process."""
    program = """
import json, time
marks = [time.perf_counter()]
import tensorflow, keras
marks.append(time.perf_counter())
from stacked_rnn import configs, inference
marks.append(time.perf_counter())
model = inference.load({path!r})
marks.append(time.perf_counter())
text = inference.Conversation(model, configs.SamplingConfig())
text.read("A")
next(text.write())
marks.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""
    runs = []
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", program.format(path=path)],
            capture_output=True, check=True,
        )  # fmt: skip
        runs.append(json.loads(ran.stdout))
    parts = [min(values) for values in zip(*runs)]
    names = ("import TensorFlow", "import this", "load", "first characters")
    return dict(zip(names, parts))


def table(results):
    """The comparison as a Markdown table."""
    lines = [
        "| model, batch | without XLA | with XLA | best PyTorch | Keras from "
        "Python | ratio to PyTorch | options cost | streamed | compiling | "
        "pays from | bound |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        speeds = result["tokens_per_second"]
        torch = max(("PyTorch, layer", "PyTorch, cells"), key=speeds.get)
        streamed = result["streamed"]
        lines.append(
            f"| {name} | {thousands(speeds['without XLA'])} | "
            f"{thousands(speeds['with XLA'])} | {thousands(speeds[torch])} "
            f"({torch.split(', ')[1]}) | "
            f"{thousands(speeds['Keras from Python'])} | "
            f"{result['against_pytorch']:.2f} | "
            f"{100 * result['options_cost']:.0f} % | "
            + (f"{100 * streamed:.0f} %" if streamed == streamed else "")
            + f" | {result['compile_seconds']:.1f} s | "
            f"{result['break_even_steps']:,.0f} steps | "
            f"{thousands(result['bound'])} ({result['bandwidth']:.0f} GB/s) |"
        )
    return "\n".join(lines)


def main(config):
    """Measures, prints and writes the report."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            "torch is missing: pip install --editable '.[bench]'"
        ) from error
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    results, starts, calm = {}, {}, Calm()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        for cell in config.cells.split(","):
            for units in map(int, config.units.split(",")):
                directory = os.path.join(scratch, f"{cell}{units}")
                with futures.ProcessPoolExecutor(1, context) as pool:
                    path = pool.submit(export, cell, units, directory).result()
                starts[f"{cell.upper()} {units}"] = start_up(path)
                for batch_size in map(int, config.batches.split(",")):
                    name = f"{cell.upper()} {units}, {batch_size}"
                    results[name] = compare(
                        cell, units, batch_size, path, config
                    )
                    row = table({name: results[name]}).splitlines()[-1]
                    print(row, flush=True)
    names = list(next(iter(starts.values())))
    report = [
        f"# Generation speed\n\n{machine()}; {calm}.\n",
        "Tokens a second, medians of "
        f"{config.repetitions} turns of about {config.seconds:g} s, in turn.\n",
        table(results),
        "\nOptions: temperature 0.9, top-k 40, top-p 0.95. A step is one token "
        "of every row; compiling pays from so many steps in one process.\n",
        "\n## From start to first characters\n\nSeconds, the best of three new "
        "processes.\n",
        f"| model | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *(
            f"| {name} | "
            + " | ".join(f"{seconds:.2f}" for seconds in parts.values())
            + " |"
            for name, parts in starts.items()
        ),
    ]
    write_report(
        output,
        "generation_speed",
        report,
        {"results": results, "start_up": starts},
    )


if __name__ == "__main__":
    command_line.run(main, BenchmarkConfig)
