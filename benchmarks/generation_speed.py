"""Speed of generation beside PyTorch, Keras called from Python, and memory.

  python benchmarks/generation_speed.py
  python benchmarks/generation_speed.py --cells=gru --units=128

Vocabulary 65, embedding 128, two layers, drawn at temperature 1. This project's
part is what generate.py calls: a SavedModel that another process wrote, loaded,
without XLA and with it. PyTorch's is the better of a loop over `nn.GRU` or
`nn.LSTM` and one over the cells, in inference mode. Each contender is a process
of its own; they run in turn and sleep while another runs. The rivals get the
best of their settings, found for each row by a short trial: one thread or all,
and for PyTorch whether they spin or sleep while they wait. Without PyTorch the
others are measured. The bound is what reading
every weight once a token takes, measured as NumPy's product of a matrix of that
size and a vector, again and again: from the cache, where the weights fit there.

Takes some 15 minutes on two cores. Writes generation_speed.md and .json to
--output_dir, and prints the tables.
"""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent import futures

from contenders import (
    Entry,
    fastest,
    has_pytorch,
    in_turn,
    median,
    settings,
    spread,
)
from measuring import (
    Calm,
    machine,
    percentages,
    thousands,
    timed,
    write_report,
)

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting
from stacked_rnn.utils import terminal

VOCABULARY, EMBEDDING, LAYERS = 65, 128, 2
TOKENS = 64  # of one step of a contender
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


def this_project(path, batch_size, compiles, **options):
    """`SavedModel.generate`, as generate.py calls it."""
    from stacked_rnn import inference

    inference.language_model.WORTH_COMPILING = 0 if compiles else 10**9
    model = inference.load(path)

    def run(steps):
        sampling = configs.SamplingConfig(
            **{"max_new_tokens": TOKENS * steps, "temperature": 1.0} | options
        )
        samples = model.generate(["A"], sampling, num_samples=batch_size)
        assert all(len(s.tokens) == TOKENS * steps for s in samples)

    return run


def streaming(path):
    """The same, a piece at a time to somebody who reads."""
    from stacked_rnn import inference

    inference.language_model.WORTH_COMPILING = 0
    model = inference.load(path)

    def run(steps):
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


def pytorch(cell, units, batch_size, kind):
    """A step at a time of `nn.GRU` or `nn.LSTM`, or of their cells."""
    import torch

    name = {"gru": "GRU", "lstm": "LSTM"}[cell]
    embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING)
    readout = torch.nn.Linear(units, VOCABULARY)
    if kind == "cells":
        one = getattr(torch.nn, f"{name}Cell")
        stack = [one(EMBEDDING, units)]
        stack += [one(units, units) for _ in range(LAYERS - 1)]
    else:
        stack = getattr(torch.nn, name)(
            EMBEDDING, units, LAYERS, batch_first=True
        )

    def advance(x, states):
        if kind == "layer":
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


WITHOUT_XLA, WITH_XLA = "without XLA", "with XLA"
OPTIONS_TOO, STREAMED = "with XLA, options", "streamed"
KERAS, PYTORCH = "Keras from Python", "best PyTorch"
FAIRNESS = """
## What may flatter whom

- The rivals run at the fastest setting of a short trial for each row: PyTorch
  of eight (its layer or its cells; one thread or all, which spin, *active*, or
  sleep, *passive*, while they wait), Keras of two (one thread or all). Near
  ties, a trial may name either. For stacked_rnn nothing is tried: it runs as
  `generate.py` does.
- stacked_rnn has its whole loop compiled, and its compiling is not in these
  speeds: see from how many steps it pays. The loops of PyTorch and Keras are
  Python, as most people write them, without `torch.compile`, which was not
  tried.
- stacked_rnn also gives the log probability of each token, and makes text of
  them; the others only draw.
- At temperature 1 stacked_rnn takes a loop without options. "Options cost" is
  what another one adds: temperature 0.9, top-k 40, top-p 0.95.
- The weights are random and no text ends early: with texts of many lengths the
  rows of a batch wait for the longest.
"""


def compare(cell, units, batch_size, path, config, with_pytorch):
    """Tokens per second of each contender, its setting and spread."""

    def ours(maker, **arguments):
        return Entry("tensorflow", maker, {"path": path} | arguments)

    shape = {"cell": cell, "units": units, "batch_size": batch_size}
    sizes = {"batch_size": batch_size, "compiles": True}
    entries = {
        WITHOUT_XLA: ours(this_project, batch_size=batch_size, compiles=False),
        WITH_XLA: ours(this_project, **sizes),
        OPTIONS_TOO: ours(this_project, **sizes, **OPTIONS),
    }
    if batch_size == 1:
        entries[STREAMED] = ours(streaming)
    rivals = {
        KERAS: {
            name: Entry("tensorflow", keras_from_python, shape, setting)
            for name, setting in settings("tensorflow").items()
        }
    }
    if with_pytorch:
        rivals[PYTORCH] = {
            f"{kind}, {name}": Entry(
                "torch", pytorch, shape | {"kind": kind}, setting
            )
            for kind in ("layer", "cells")
            for name, setting in settings("torch").items()
        }
    chosen, trials = {}, {}
    for name, candidates in rivals.items():
        chosen[name], trials[name] = fastest(
            name.removeprefix("best "), candidates, config.seconds / 3
        )
        if chosen[name]:
            entries[name] = candidates[chosen[name]]
    results = in_turn(
        entries,
        config.repetitions,
        config.seconds,
        alone=(WITHOUT_XLA, WITH_XLA),
    )
    tokens = batch_size * TOKENS
    speeds = {n: tokens / median(result) for n, result in results.items()}
    compiling = pays_from = None
    if {WITHOUT_XLA, WITH_XLA} <= set(results):
        late = {
            name: results[name]["first_step"] - median(results[name])
            for name in (WITHOUT_XLA, WITH_XLA)
        }
        compiling = late[WITH_XLA] - late[WITHOUT_XLA]
        # Seconds that it saves a token of each row.
        gain = batch_size * (1 / speeds[WITHOUT_XLA] - 1 / speeds[WITH_XLA])
        if gain > 0:
            pays_from = compiling / gain
    roofline, bandwidth = bound(cell, units)
    return {
        "tokens_per_second": speeds,
        "chosen": chosen,
        "spread": {name: spread(result) for name, result in results.items()},
        "compile_seconds": compiling,
        "break_even_steps": pays_from,
        "bound": roofline,
        "bandwidth": bandwidth,
        "seconds_a_step": {
            name: result["seconds_a_step"] for name, result in results.items()
        },
        "trials": trials,
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
        "Python | ratio to PyTorch | setting of PyTorch | setting of Keras | "
        "spread | options cost | streamed | compiling | pays from | bound |",
        "|---" * 14 + "|",
    ]
    for name, result in results.items():
        speeds, chosen = result["tokens_per_second"], result["chosen"]
        fast, compiling = speeds.get(WITH_XLA), result["compile_seconds"]
        pays_from = result["break_even_steps"]
        spreads = [result["spread"].get(n) for n in (WITH_XLA, PYTORCH, KERAS)]

        def of_fast(name, text, speeds=speeds, fast=fast):
            share = speeds[name] / fast if fast and name in speeds else None
            return "" if share is None else text(share)

        cells = [
            name,
            *(
                thousands(speeds[key]) if key in speeds else "not there"
                for key in (WITHOUT_XLA, WITH_XLA, PYTORCH, KERAS)
            ),
            of_fast(PYTORCH, lambda share: f"{1 / share:.2f}"),
            chosen.get(PYTORCH) or "",
            chosen.get(KERAS) or "",
            percentages(spreads),
            of_fast(OPTIONS_TOO, lambda share: f"{100 - 100 * share:.0f} %"),
            of_fast(STREAMED, lambda share: f"{100 * share:.0f} %"),
            "" if compiling is None else f"{compiling:.1f} s",
            "" if pays_from is None else f"{pays_from:,.0f} steps",
            f"{thousands(result['bound'])} ({result['bandwidth']:.0f} GB/s)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(config):
    """Measures, prints and writes the report."""
    output = terminal.writable_directory("output_dir", config.output_dir)
    with_pytorch = has_pytorch()
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
                        cell, units, batch_size, path, config, with_pytorch
                    )
                    row = table({name: results[name]}).splitlines()[-1]
                    print(row, flush=True)
    names = list(next(iter(starts.values())))
    report = [
        f"# Generation speed\n\n{machine()}; {calm}.\n",
        f"Tokens per second, medians of {config.repetitions} turns of about "
        f"{config.seconds:g} s, taken in turn, each contender in a process of "
        "its own that sleeps while another runs. Spread: the slowest turn less "
        "the fastest, in % of the median, of stacked_rnn with XLA, PyTorch and "
        "Keras.\n",
        table(results),
        "\nA step is one token of every row; compiling pays from so many steps "
        "in one process.\n",
        FAIRNESS,
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
    flags.run(main, BenchmarkConfig)
