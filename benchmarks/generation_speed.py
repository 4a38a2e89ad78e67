"""Speed of generation beside other runtimes, and beside reading the weights.

  python benchmarks/generation_speed.py
  python benchmarks/generation_speed.py --cells=gru --units=128

Vocabulary 65, embedding 128, two layers, sampled at temperature 1. This project
runs as in generate.py: it loads a SavedModel that another process wrote, and
generates without XLA and with it. PyTorch runs in inference mode: the best of a
loop over `nn.GRU` or `nn.LSTM`, one over the cells, and one over the cells by
torch.compile. ONNX Runtime and LiteRT run the files that export.py writes, in
float32 and in int8, a step at a time; NumPy draws the tokens. The rivals run at
the fastest of their settings, found for each row by a short trial: one thread
or all, and for PyTorch whether they spin or sleep while they wait. README.md
says how the contenders take turns. A rival that is not installed is named and
left out.

The bound is the time that reading every weight once per token takes: NumPy's
product of a matrix of that size and a vector, again and again, so that weights
that fit the cache come from there.

Takes about 25 minutes on two cores. Writes generation_speed.md and .json
to --output_dir, and prints the tables.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent import futures

import common
import contenders
from common import ratio, speed, table
from contenders import Entry, settings

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

VOCABULARY, EMBEDDING, LAYERS = 65, 128, 2
TOKENS = 64  # of one step of a contender
OPTIONS = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
WITHOUT_XLA, WITH_XLA = "without XLA", "with XLA"
WITH_OPTIONS, STREAMED = "with XLA and options", "streamed"
KERAS, PYTORCH = "Keras from Python", "PyTorch"
ONNX, LITERT = "ONNX Runtime", "LiteRT"
RIVALS = (PYTORCH, ONNX, LITERT, KERAS)
INT8 = (f"{ONNX} int8", f"{LITERT} int8")
START_UP = ("import TensorFlow", "import this", "load", "first characters")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    cells: str = setting("gru,lstm", "gru, lstm, or both.")
    units: str = setting("128,512", "Widths, separated by commas.")
    batches: str = setting("1,64", "Batch sizes, separated by commas.")
    repetitions: int = setting(
        5, "Turns of each contender; the median counts.", minimum=1
    )
    seconds: float = setting(1.0, "Approximate length of a turn.", minimum=0.0)


# Contenders, each in its own process: a size -> a function that runs steps ----


def build_model(cell, units, embedding_dim=EMBEDDING):
    """A language model of random weights."""
    from stacked_rnn import models

    return models.build_language_model(
        configs.ModelConfig(
            cell=cell,
            units=units,
            num_layers=LAYERS,
            embedding_dim=embedding_dim,
            vocabulary_size=VOCABULARY,
        )
    )


def export(cell, units, directory, embedding_dim=EMBEDDING):
    """Writes a SavedModel of random weights; returns its path."""
    from stacked_rnn import tokenizers
    from stacked_rnn.export import TextGenerator

    tokenizer = tokenizers.CharTokenizer(
        ["\ufffd", *map(chr, range(33, 32 + VOCABULARY))]
    )
    model = build_model(cell, units, embedding_dim)
    return str(TextGenerator(model, tokenizer).save(directory))


def export_for_runtimes(path, formats):
    """Writes a SavedModel's step for other runtimes, beside it.

    Args:
        path: of the SavedModel.
        formats: "onnx", "litert", or both.

    Returns:
        Name of the contender -> its file.
    """
    from stacked_rnn import inference
    from stacked_rnn.export import runtimes

    model = inference.load(path)
    written = {}
    for format in formats:
        name = {"onnx": ONNX, "litert": LITERT}[format]
        for weights, suffix in (("float32", ""), ("int8", " int8")):
            file = pathlib.Path(
                f"{path}.{weights}{runtimes.FORMATS[format].suffix}"
            )
            runtimes.write(model, file, weights)
            written[name + suffix] = str(file)
    return written


def this_project(path, batch_size, compiles, **options):
    """`SavedModel.generate`, as generate.py calls it."""
    from stacked_rnn import inference

    inference.language_model.WORTH_COMPILING = 0 if compiles else 10**9
    model = inference.load(path)

    def run(steps):
        sampling = configs.SamplingConfig(
            **{"max_new_tokens": TOKENS * steps, "temperature": 1.0} | options
        )
        samples = model.continuations(["A"], sampling, num_samples=batch_size)
        assert all(len(s.tokens) == TOKENS * steps for s in samples)

    return run


def streaming(path):
    """The same for one reader, who gets the text in pieces."""
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


def drawing(step, widths, batch_size):
    """A function that calls a step for each token, and draws with NumPy.

    Args:
        step: its inputs by name -> its outputs by name.
        widths: names of the states -> their units.
        batch_size: rows.
    """
    import numpy as np

    rng = np.random.default_rng()

    def run(steps):
        inputs = {
            name: np.zeros([batch_size, units], np.float32)
            for name, units in widths.items()
        }
        inputs["token_ids"] = np.zeros([batch_size], np.int32)
        for _ in range(TOKENS * steps):
            new = step(inputs)
            inputs = {name: new[f"new_{name}"] for name in widths}
            # The largest sum of a logit and Gumbel noise is a draw.
            waits = rng.standard_exponential(new["logits"].shape, np.float32)
            waits += 1e-30  # one in millions is 0
            drawn = (new["logits"] - np.log(waits)).argmax(axis=-1)
            inputs["token_ids"] = drawn.astype(np.int32)

    return run


def onnx(path, batch_size, threads):
    """ONNX Runtime, a step at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    widths = {
        tensor.name: tensor.shape[1]
        for tensor in session.get_inputs()
        if tensor.name != "token_ids"
    }
    return drawing(
        lambda inputs: dict(zip(names, session.run(None, inputs))),
        widths,
        batch_size,
    )


def litert(path, batch_size, threads):
    """LiteRT, a step at a time."""
    from ai_edge_litert import interpreter

    step = interpreter.Interpreter(
        path, num_threads=threads
    ).get_signature_runner()
    widths = {
        name: details["shape"][1]
        for name, details in step.get_input_details().items()
        if name != "token_ids"
    }
    return drawing(lambda inputs: step(**inputs), widths, batch_size)


def runtime_maker(name):
    """The maker of a contender of `export_for_runtimes`."""
    return onnx if name.startswith(ONNX) else litert


def pytorch(
    cell, units, batch_size, kind, embedding_dim=EMBEDDING, device="cpu"
):
    """A loop over `nn.GRU` or `nn.LSTM`, or their cells, token by token.

    `torch.compile` leaves the layers as they are: it is for cells.
    """
    import torch

    name = {"gru": "GRU", "lstm": "LSTM"}[cell]
    if kind != "layer":
        one = getattr(torch.nn, f"{name}Cell")
        stack = torch.nn.ModuleList(
            one(width, units)
            for width in [embedding_dim] + [units] * (LAYERS - 1)
        )
    else:
        stack = getattr(torch.nn, name)(
            embedding_dim, units, LAYERS, batch_first=True
        )
    embedding, stack, readout = torch.nn.ModuleList(
        [
            torch.nn.Embedding(VOCABULARY, embedding_dim),
            stack,
            torch.nn.Linear(units, VOCABULARY),
        ]
    ).to(device)

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

    def step(token_ids, states):
        x, states = advance(embedding(token_ids), states)
        probabilities = torch.softmax(readout(x), -1)
        return torch.multinomial(probabilities, 1)[:, 0], states

    if kind == "compiled cells":
        step = torch.compile(step)

    def run(steps):
        states = None
        with torch.inference_mode():
            token_ids = torch.zeros(batch_size, dtype=torch.long, device=device)
            for _ in range(TOKENS * steps):
                token_ids, states = step(token_ids, states)
            token_ids.sum().item()  # waits for a GPU

    return run


def bound(cell, units):
    """The speed of one core that reads each weight once per token.

    Returns:
        Tokens per second, and the bandwidth in GB/s.
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
    seconds = min(common.timed(run, 200) for _ in range(5)) / 200
    return 1 / seconds, matrix.nbytes / seconds / 1e9


# Measuring --------------------------------------------------------------------


def compare(cell, units, batch_size, path, files, config, with_pytorch):
    """Measures one model with one batch size.

    Args:
        cell: "gru" or "lstm".
        units: width of the layers.
        batch_size: texts at a time.
        path: of the SavedModel.
        files: what `export_for_runtimes` returned.
        config: a `BenchmarkConfig`.
        with_pytorch: whether it is measured.

    Returns:
        A dict for the tables and the JSON file.
    """

    def ours(maker, **arguments):
        return Entry("tensorflow", maker, {"path": path} | arguments)

    shape = {"cell": cell, "units": units, "batch_size": batch_size}
    sizes = {"batch_size": batch_size, "compiles": True}
    entries = {
        WITHOUT_XLA: ours(this_project, batch_size=batch_size, compiles=False),
        WITH_XLA: ours(this_project, **sizes),
        WITH_OPTIONS: ours(this_project, **sizes, **OPTIONS),
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
            for kind in ("layer", "cells", "compiled cells")
            for name, setting in settings("torch").items()
        }
    for rival, file in files.items():
        maker = runtime_maker(rival)
        arguments = {"path": file, "batch_size": batch_size}
        rivals[rival] = {
            name: Entry("numpy", maker, arguments | {"threads": count})
            for name, count in contenders.thread_counts().items()
        }
    results, found = contenders.compare_at_best(
        entries, rivals, config, alone=(WITHOUT_XLA, WITH_XLA)
    )
    tokens = batch_size * TOKENS
    speeds = {
        n: tokens / contenders.median(result) for n, result in results.items()
    }
    compiling = pays_from = None
    if {WITHOUT_XLA, WITH_XLA} <= set(results):
        late = {
            name: results[name]["first_step"] - contenders.median(results[name])
            for name in (WITHOUT_XLA, WITH_XLA)
        }
        compiling = late[WITH_XLA] - late[WITHOUT_XLA]
        # Seconds that XLA saves in a step: one token of every row.
        gain = batch_size * (1 / speeds[WITHOUT_XLA] - 1 / speeds[WITH_XLA])
        if gain > 0:
            pays_from = compiling / gain
    roofline, bandwidth = bound(cell, units)
    return found | {
        "tokens_per_second": speeds,
        "compile_seconds": compiling,
        "break_even_steps": pays_from,
        "bound": roofline,
        "bandwidth": bandwidth,
    }


def start_up(path):
    """Seconds of the parts of a start of generate.py, in a new process."""
    program = """
import json, sys, time
marks = [time.perf_counter()]
from stacked_rnn.utils import quiet_import
quiet_import.import_tensorflow(with_extras=False)  # as the commands do
marks.append(time.perf_counter())
from stacked_rnn import configs, inference
marks.append(time.perf_counter())
model = inference.load(sys.argv[1])
marks.append(time.perf_counter())
text = inference.Conversation(model, configs.SamplingConfig())
text.read("A")
next(text.write())
marks.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", program, path],
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(3)
    ]
    return dict(zip(START_UP, map(min, zip(*runs))))


# The report -------------------------------------------------------------------


def speed_table(results):
    """The lines of the comparison."""
    rows = []
    for name, result in results.items():
        speeds = result["tokens_per_second"]
        fast = speeds.get(WITH_XLA, float("nan"))
        options, streamed = (
            100 * speeds[n] / fast if n in speeds else None
            for n in (WITH_OPTIONS, STREAMED)
        )
        measured = (WITHOUT_XLA, WITH_XLA, *RIVALS, *INT8)
        rows.append(
            [
                name,
                *(speed(speeds, n) for n in measured),
                *(ratio(speeds, WITH_XLA, rival) for rival in RIVALS),
                None if options is None else 100 - options,
                streamed,
                result["compile_seconds"],
                result["break_even_steps"],
                f"{speed(result, 'bound')} ({result['bandwidth']:.0f} GB/s)",
            ]
        )
    names = [
        "model, batch", WITHOUT_XLA, WITH_XLA, *RIVALS, *INT8,
        *(f"ratio to {rival}" for rival in RIVALS),
    ]  # fmt: skip
    formats = {
        "options cost, %": ".0f", "streamed, %": ".0f",
        "compiling, s": ".1f", "pays from, steps": ",.0f", "bound": "",
    }  # fmt: skip
    return table(dict.fromkeys(names, "") | formats, rows)


def main(config):
    """Measures, prints and writes the report."""
    cells = common.choices("cells", config.cells, ("gru", "lstm"))
    widths = common.numbers("units", config.units)
    batches = common.numbers("batches", config.batches)
    report = common.Report(
        config, "generation_speed", "Generation speed", plots=False
    )
    with_pytorch = contenders.has(PYTORCH, "torch")
    formats = []
    if contenders.has(ONNX, "onnxruntime", "tf2onnx"):
        formats.append("onnx")
    if contenders.has(LITERT, "ai_edge_litert"):
        formats.append("litert")
    results, starts = {}, {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        for cell in cells:
            for units in widths:
                directory = os.path.join(scratch, f"{cell}{units}")
                with futures.ProcessPoolExecutor(1, context) as pool:
                    path = pool.submit(export, cell, units, directory).result()
                    written = pool.submit(
                        export_for_runtimes, path, formats
                    ).result()
                starts[f"{cell.upper()} {units}"] = start_up(path)
                for batch_size in batches:
                    name = f"{cell.upper()} {units}, {batch_size}"
                    results[name] = compare(
                        cell,
                        units,
                        batch_size,
                        path,
                        written,
                        config,
                        with_pytorch,
                    )
                    row = speed_table({name: results[name]})[-1]
                    print(row, flush=True)
                    report.save(  # in case of an interruption
                        {"results": results, "start_up": starts}
                    )
    lines = [
        f"Tokens per second, medians of {config.repetitions} turns of about "
        f"{config.seconds:g} s. Ratios are those of {WITH_XLA}, in float32. A "
        "step is one token of every row; compiling pays from that many steps "
        "in one process.\n",
        *speed_table(results),
        "\n## Settings\n\nThe fastest of a trial; spread: the slowest turn "
        "minus the fastest, in % of the median, of stacked_rnn "
        f"{', '.join((WITH_XLA, *RIVALS, *INT8))}.\n",
        *contenders.settings_table(
            "model, batch", results, WITH_XLA, (*RIVALS, *INT8)
        ),
        "\n## From start to first characters\n\nSeconds, the best of three new "
        "processes.\n",
        *table(
            {"model": ""} | dict.fromkeys(START_UP, ".2f"),
            [[name, *parts.values()] for name, parts in starts.items()],
        ),
    ]
    report.write(lines, {"results": results, "start_up": starts})


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
