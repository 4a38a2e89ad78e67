"""What growth costs: more processes, larger models, longer texts.

  python benchmarks/scaling.py

Several processes share this machine's cores and train on one global batch: what
they lose against one process is the cost of the strategy. Checkpoints of
several model sizes are written and read; each tokenizer cuts a text; and
training runs for some seconds on corpora of several sizes, which takes twice
the space of the largest one on disk.

Writes scaling.md and .json to --output_dir, and prints the first.
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

import common
from common import numbers, table

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

TRAIN = pathlib.Path(__file__).parents[1] / "train.py"
# Each chosen setting that changes the work of a step is given: with several
# processes train.py may choose another than with one.
WORK = (
    "--cell=gru", "--num_layers=2", "--embedding_dim=64", "--batch_size=64",
    "--sequence_length=100", "--optimizer=adam", "--nomixed_precision",
    "--learning_rate_schedule=constant", "--epochs=2",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    processes: str = setting("1,2,4", "How many, separated by commas.")
    units: str = setting("128,512,1024", "Widths, separated by commas.")
    megabytes: int = setting(
        20, "Length of the text that the tokenizers cut.", minimum=17
    )
    corpora: str = setting("2,200,2000", "Megabytes, separated by commas.")
    repetitions: int = setting(
        5, "Turns of each checkpoint; the median counts.", minimum=1
    )


def start_training(directory, *arguments, **variables):
    """Starts train.py in a directory; its errors are in its output.

    Args:
        directory: where it runs.
        *arguments: its flags.
        **variables: of its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-u", TRAIN, *arguments],
        cwd=directory, env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def tokens_per_second(count, units):
    """The speed of `count` processes together, in the last epoch.

    Raises:
        UserError: one of them failed.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    cluster = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for bound in sockets:
        bound.close()
    with tempfile.TemporaryDirectory() as scratch:
        started = [
            start_training(
                scratch, *WORK, f"--units={units}",
                "--strategy=" + ("multi_worker" if count > 1 else "auto"),
                TF_CONFIG=json.dumps({
                    "cluster": {"worker": cluster},
                    "task": {"type": "worker", "index": index},
                }),
            )
            for index in range(count)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in started]
    for process, output in zip(started, outputs):
        if process.returncode:
            raise common.failure("train.py", process.returncode, output)
    chief, *_ = outputs
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
            started = time.perf_counter()
            checkpoints.save(step)
            written = time.perf_counter()
            assert checkpoints.restore()
            writing.append(written - started)
            reading.append(time.perf_counter() - written)
        size = sum(
            path.stat().st_size for path in pathlib.Path(scratch).iterdir()
        )
    medians = map(statistics.median, (writing, reading))
    return model.count_params(), size, *medians


def write_text(path, megabytes):
    """Writes lines of Python's documentation in random order."""
    import numpy as np

    from stacked_rnn import datasets

    [text] = datasets.Corpus("pydoc").pieces()
    lines = np.array(text.decode("ascii", "replace").split("\n"))
    rng = np.random.default_rng(0)
    left = megabytes * 10**6
    with open(path, "w") as file:
        while left:
            left -= file.write("\n".join(rng.choice(lines, 30_000))[:left])


def tokenization(kind, path, cores):
    """Megabytes per second that a tokenizer cuts on a number of cores."""
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

    Raises:
        UserError: one of them failed.
    """
    seconds, resident = [], []
    for option, minutes in (
        ("--noresume", 0.1), ("--noresume", 0.1), ("--resume", 0.2),
    ):  # fmt: skip
        start, output = time.perf_counter(), []
        with start_training(
            scratch, f"--corpus={path}", option, f"--max_minutes={minutes}",
            "--validation_fraction=0.0001", "--units=64", "--model_dir=run",
            "--cache_dir=cache",
        ) as process:  # fmt: skip
            status = pathlib.Path(f"/proc/{process.pid}/status")
            for line in process.stdout:
                output.append(line)
                if " parameters, " in line:
                    seconds.append(time.perf_counter() - start)
                elif line.startswith("Exported"):
                    # `wait4` would tell at least the peak of this process.
                    [peak] = re.findall(
                        r"VmHWM:\s+(\d+) kB", status.read_text()
                    )
                    resident.append(int(peak) / 1024)
        if process.returncode:
            raise common.failure(
                "train.py", process.returncode, "".join(output)
            )
    return seconds, resident


def pipeline(path, scratch):
    """Tokens per second that batches are cut from a file on disk."""
    import tensorflow as tf

    from stacked_rnn import datasets

    config = configs.TrainConfig(
        corpus=str(path), cache_dir=f"{scratch}/cache", sequence_length=32,
        batch_size=1024, validation_fraction=0.0001,
    )  # fmt: skip
    windows = datasets.load_language_data(config).training
    cut = tf.function(windows.batch, autograph=False)
    steps = 2 * windows.batches_per_page
    for step in range(-1, steps):
        if step == 0:
            start = time.perf_counter()
        if step <= 0 or windows.begins_page(step):
            page = tf.constant(windows.page(max(step, 0)))
        cut(tf.constant(step, tf.int64), page)[0].numpy()
    return steps * 1024 * 32 / (time.perf_counter() - start)


def main(config):
    """Measures, prints and writes the report."""
    counts = numbers("processes", config.processes)
    widths = numbers("units", config.units)
    lengths = numbers("corpora", config.corpora)
    report = common.Report(config, "scaling", "Scaling", plots=False)
    processes = {units: {} for units in (64, 256)}
    sizes, speeds, corpora = {}, {}, {}
    results = {
        "tokens_per_second": processes,
        "checkpoints": sizes,
        "tokenization": speeds,
        "corpora": corpora,
    }

    def keep(row, name, value):
        row[name] = value
        report.save(results)  # in case of an interruption

    for units, row in processes.items():
        for count in counts:
            keep(row, count, tokens_per_second(count, units))
    for units in widths:
        keep(sizes, units, checkpoint(units, config.repetitions))
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "text"
        write_text(path, config.megabytes)
        for kind in ("byte", "char", "word", "subword"):
            both = [tokenization(kind, path, cores) for cores in (1, 2)]
            keep(speeds, kind, both)
        for megabytes in lengths:
            write_text(path, megabytes)
            keep(corpora, megabytes, trained_corpus(path, scratch))
        keep(results, "batches", pipeline(path, scratch))
    lines = [
        "## Processes on the same cores\n",
        "Tokens per second in the second epoch; two GRU layers, batches of "
        "64 x 100 tokens in all.\n",
        *table(
            {"units": ""} | {f"{n} process(es)": ",.0f" for n in counts},
            [[units, *row.values()] for units, row in processes.items()],
        ),
        "\n## Checkpoints\n",
        "With Adam's moments; medians.\n",
        *table(
            {
                "units": "", "weights": ",", "MB": ".1f",
                "ms to write": ".0f", "ms to read": ".0f",
            },
            [
                [units, weights, size / 1e6, 1e3 * write, 1e3 * read]
                for units, (weights, size, write, read) in sizes.items()
            ],
        ),
        "\n## Text to tokens\n",
        f"{config.megabytes} MB, MB per second: to find the vocabulary, cut "
        "the text and write the tokens.\n",
        *table(
            {"tokenizer": "", "1 core": ".1f", "2 cores": ".1f"},
            [[kind, *row] for kind, row in speeds.items()],
        ),
        "\n## Size of the corpus\n",
        "Seconds from the command to the first step, and resident megabytes: "
        "of the first run, of a second one, and of one that resumes. Batches "
        "of 1024 x 32 are cut from the file of the last corpus at "
        f"{results['batches'] / 1e6:.1f} million tokens per second.\n",
        *table(
            {
                "MB": "", "first": ".1f", "second": ".1f", "resumed": ".1f",
                "MB resident": "",
            },
            [
                [size, *seconds, " / ".join(f"{mb:.0f}" for mb in resident)]
                for size, (seconds, resident) in corpora.items()
            ],
        ),
    ]  # fmt: skip
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
