"""What growing costs: more processes, larger models, longer texts.

  python benchmarks/scaling.py

Several processes share this machine's cores and train on one global batch, so
that what they lose against one process is the cost of the strategy. Checkpoints
are written and read by model size, texts cut into tokens by tokenizer.

Writes scaling.md and .json to --output_dir, and prints the tables.
"""

import dataclasses
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from measuring import Calm, machine, write_report

from stacked_rnn import command_line, configs
from stacked_rnn.configs import setting

TRAIN = pathlib.Path(__file__).parents[1] / "train.py"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    processes: str = setting("1,2,4", "How many, separated by commas.")
    units: str = setting("128,512,1024", "Widths, separated by commas.")
    megabytes: int = setting(4, "Length of the text that is cut.", minimum=1)
    repetitions: int = setting(5, "Turns; the median counts.", minimum=1)
    output_dir: str = setting("benchmarks/results", "Directory of the report.")


def tokens_per_second(count, units):
    """Of the last of three epochs, trained by some processes together."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    cluster = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for bound in sockets:
        bound.close()
    with tempfile.TemporaryDirectory() as scratch:
        started = [
            subprocess.Popen(
                [
                    sys.executable, TRAIN, f"--units={units}", "--epochs=2",
                    "--batch_size=64", "--learning_rate_schedule=constant",
                    "--strategy=" + ("multi_worker" if count > 1 else "auto"),
                ],
                cwd=scratch, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"TF_CONFIG": json.dumps({
                    "cluster": {"worker": cluster},
                    "task": {"type": "worker", "index": index},
                })},
            )
            for index in range(count)
        ]  # fmt: skip
        chief, *_ = [process.communicate()[0] for process in started]
    return float(re.findall(r"tokens_per_second: ([0-9.]+)", chief)[-1])


def checkpoint(units, repetitions):
    """(weights, bytes, seconds to write, seconds to read) of a checkpoint."""
    import keras

    from stacked_rnn import models
    from stacked_rnn.training.checkpoints import Checkpoints

    model = models.build_language_model(
        configs.ModelConfig(units=units, vocabulary_size=100)
    )
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    writing, reading = [], []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(scratch, 1, model=model)
        for step in range(repetitions):
            marks = [time.perf_counter()]
            checkpoints.save(step)
            marks.append(time.perf_counter())
            assert checkpoints.restore()
            marks.append(time.perf_counter())
            writing.append(marks[1] - marks[0])
            reading.append(marks[2] - marks[1])
        size = sum(
            path.stat().st_size for path in pathlib.Path(scratch).iterdir()
        )
    return (
        model.count_params(), size,
        statistics.median(writing), statistics.median(reading),
    )  # fmt: skip


def tokenization(kind, megabytes, repetitions):
    """Megabytes a second that a tokenizer cuts."""
    import tensorflow as tf

    from stacked_rnn import datasets, tokenizers

    text = datasets.read_corpus("pydoc")
    tokenizer = tokenizers.build(kind, text)
    text *= -(-megabytes * 10**6 // len(text))
    tokenize = tf.function(tokenizer.tokenize, autograph=False)
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        tokenize(tf.constant([text])).flat_values.numpy()
        seconds.append(time.perf_counter() - start)
    return len(text) / 1e6 / statistics.median(seconds[1:])


def table(names, rows):
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(map(str, row)) + " |"
        for row in (names, ["---"] * len(names), *rows)
    ]


def main(config):
    """Measures, prints and writes the report."""
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    calm = Calm()
    processes = {
        units: {
            count: tokens_per_second(count, units)
            for count in map(int, config.processes.split(","))
        }
        for units in (64, 256)
    }
    sizes = {
        units: checkpoint(units, config.repetitions)
        for units in map(int, config.units.split(","))
    }
    speeds = {
        kind: tokenization(kind, config.megabytes, config.repetitions)
        for kind in ("byte", "char", "word", "subword")
    }
    report = [
        f"# Scaling\n\n{machine()}; {calm}.\n",
        "## Processes on the same cores\n",
        "Tokens a second in the second epoch; two layers, batch 64 x 100.\n",
        *table(
            ["units", *(f"{n} process(es)" for n in processes[64])],
            [
                [units, *(f"{speed / 1e3:.1f}k" for speed in row.values())]
                for units, row in processes.items()
            ],
        ),
        "\n## Checkpoints\n",
        "With Adam's moments; medians.\n",
        *table(
            ["units", "weights", "MB", "ms to write", "ms to read"],
            [
                [
                    units,
                    f"{weights:,}",
                    f"{size / 1e6:.1f}",
                    f"{1e3 * write:.0f}",
                    f"{1e3 * read:.0f}",
                ]
                for units, (weights, size, write, read) in sizes.items()
            ],
        ),
        "\n## Text to tokens\n",
        *table(
            ["tokenizer", "MB a second"],
            [[kind, f"{speed:.1f}"] for kind, speed in speeds.items()],
        ),
    ]
    write_report(
        output,
        "scaling",
        report,
        {
            "tokens_per_second": processes,
            "checkpoints": sizes,
            "tokenization": speeds,
        },
    )


if __name__ == "__main__":
    command_line.run(main, BenchmarkConfig)
