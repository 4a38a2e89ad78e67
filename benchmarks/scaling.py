"""What growing costs: more processes, larger models, longer texts.

  python benchmarks/scaling.py

Several processes share this machine's cores and train on one global batch, so
that what they lose against one process is the cost of the strategy. Checkpoints
are written and read by model size, texts cut into tokens by tokenizer, and
corpora of several sizes trained on for some seconds, which takes twice the
largest one's space on disk.

Writes scaling.md, .json and .png to --output_dir, and prints the tables.
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
from unittest import mock

import numpy as np
from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

TRAIN = pathlib.Path(__file__).parents[1] / "train.py"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    processes: str = setting("1,2,4", "How many, separated by commas.")
    units: str = setting("128,512,1024", "Widths, separated by commas.")
    megabytes: int = setting(
        20, "Length of the text that is cut into tokens.", minimum=17
    )
    corpora: str = setting("2,200,2000", "Megabytes, separated by commas.")
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
    return float(re.findall(r"([0-9,]+) tokens/s", chief)[-1].replace(",", ""))


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


def write_text(path, megabytes):
    """Writes sentences of Python's documentation in any order."""
    from stacked_rnn import datasets

    [text] = datasets.Corpus("pydoc").pieces()
    lines = np.array(text.decode("ascii", "replace").split("\n"))
    rng = np.random.default_rng(0)
    left = megabytes * 10**6
    with open(path, "w") as file:
        while left:
            left -= file.write("\n".join(rng.choice(lines, 30_000))[:left])


def tokenization(kind, path, cores):
    """Megabytes a second that a tokenizer cuts on so many cores."""
    from stacked_rnn import datasets
    from stacked_rnn.utils import devices

    with tempfile.TemporaryDirectory() as cache:
        config = configs.TrainConfig(
            corpus=str(path), tokenizer=kind, cache_dir=cache
        )
        with mock.patch.object(devices, "cores", lambda: cores):
            start = time.perf_counter()
            datasets.load_language_data(config)
            return path.stat().st_size / 1e6 / (time.perf_counter() - start)


def trained_corpus(path, scratch):
    """What a first, a second and a resumed run on a corpus cost.

    Returns:
        Seconds until each begins to train, and resident megabytes of each.
    """
    seconds, resident = [], []
    for options in (["--noresume"], ["--noresume"], ["--resume"]):
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable, "-u", TRAIN, f"--corpus={path}", *options,
                "--validation_fraction=0.0001", "--max_minutes=0.1",
                "--units=64", "--model_dir=run", "--cache_dir=cache",
            ],
            cwd=scratch, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        status = pathlib.Path(f"/proc/{process.pid}/status")
        for line in process.stdout:
            if " parameters, " in line:
                seconds.append(time.perf_counter() - start)
            elif line.startswith("Exported"):
                # What `wait4` tells would be the least of this process's own.
                [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
                resident.append(int(peak) / 1024)
        assert not process.wait()
    return seconds, resident


def pipeline(path, scratch):
    """Tokens a second that batches are cut from a file on disk."""
    import tensorflow as tf

    from stacked_rnn import datasets

    config = configs.TrainConfig(
        corpus=str(path), cache_dir=f"{scratch}/cache", sequence_length=32,
        batch_size=1024, validation_fraction=0.0001,
    )  # fmt: skip
    windows = datasets.load_language_data(config).training
    cut = tf.function(windows.batch, autograph=False)
    steps = 2 * windows.steps_per_page
    for step in range(-1, steps):
        if step == 0:
            start = time.perf_counter()
        if step <= 0 or windows.begins_page(step):
            page = tf.constant(windows.page(max(step, 0)))
        cut(tf.constant(step, tf.int64), page)[0].numpy()
    return steps * 1024 * 32 / (time.perf_counter() - start)


def table(names, rows):
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(map(str, row)) + " |"
        for row in (names, ["---"] * len(names), *rows)
    ]


def draw(processes, sizes, speeds, corpora, path):
    """A plot of each table, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(16, 4))
    for units, row in processes.items():
        panels[0].plot(
            list(row), [speed / row[min(row)] for speed in row.values()],
            marker="o", label=f"{units} units",
        )  # fmt: skip
    panels[0].set(
        xlabel="processes on the same cores", ylabel="speed, one process = 1",
        ylim=0, xticks=[*row],
    )  # fmt: skip
    panels[0].legend()
    megabytes = [size / 1e6 for _, size, _, _ in sizes.values()]
    for place, name in ((2, "write"), (3, "read")):
        panels[1].plot(
            megabytes, [1e3 * size[place] for size in sizes.values()],
            marker="o", label=name,
        )  # fmt: skip
    panels[1].set(
        xlabel="checkpoint, MB", ylabel="milliseconds", xscale="log",
        yscale="log",
    )  # fmt: skip
    panels[1].legend()
    for index, cores in enumerate(("1 core", "2 cores")):
        panels[2].bar(
            [place + 0.4 * index for place in range(len(speeds))],
            [row[index] for row in speeds.values()], width=0.38, label=cores,
        )  # fmt: skip
    panels[2].set_xticks([place + 0.2 for place in range(len(speeds))], speeds)
    panels[2].set(ylabel="text to tokens, MB a second")
    panels[2].legend()
    peaks = [max(resident) for _, resident in corpora.values()]
    panels[3].plot(list(corpora), peaks, marker="o")
    panels[3].set(
        xlabel="corpus, MB", ylabel="resident, MB", xscale="log",
        ylim=(0, 1.3 * max(peaks)),
    )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=110)


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
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "text"
        write_text(path, config.megabytes)
        speeds = {
            kind: [tokenization(kind, path, cores) for cores in (1, 2)]
            for kind in ("byte", "char", "word", "subword")
        }
        corpora = {}
        for megabytes in map(int, config.corpora.split(",")):
            write_text(path, megabytes)
            corpora[megabytes] = trained_corpus(path, scratch)
        batches = pipeline(path, scratch)
    draw(processes, sizes, speeds, corpora, output / "scaling.png")
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
        f"{config.megabytes} MB, MB a second: the vocabulary found, the text "
        "cut and written.\n",
        *table(
            ["tokenizer", "1 core", "2 cores"],
            [
                [kind, *(f"{speed:.1f}" for speed in row)]
                for kind, row in speeds.items()
            ],
        ),
        "\n## Size of the corpus\n",
        "Seconds from the command to the first step, and resident megabytes, "
        "of the first run, a second one, and one that goes on.\n",
        *table(
            ["MB", "first", "second", "resumed", "MB resident"],
            [
                [
                    megabytes,
                    *(f"{value:.1f}" for value in seconds),
                    " / ".join(f"{value:.0f}" for value in resident),
                ]
                for megabytes, (seconds, resident) in corpora.items()
            ],
        ),
        f"\nFrom the largest one's file {batches / 1e6:.1f} million tokens a "
        "second are cut into batches of 1024 x 32.",
    ]
    write_report(
        output,
        "scaling",
        report,
        {
            "tokens_per_second": processes,
            "checkpoints": sizes,
            "tokenization": speeds,
            "corpora": corpora,
            "batches": batches,
        },
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
