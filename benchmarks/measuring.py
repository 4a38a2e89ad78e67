"""What the benchmarks share: turns, the machine, how calm it was, reports."""

import importlib.util
import json
import math
import os
import pathlib
import platform
import statistics
import time
from importlib import metadata


def timed(run, steps):
    """Seconds that a number of steps take."""
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def steps_for(run, seconds):
    """The number of steps that take about so long, found by running some."""
    steps = 1
    while (taken := timed(run, steps)) < seconds / 4:
        steps *= max(2, min(10, round(seconds / taken)))
    return max(1, round(steps * seconds / taken))


def interleaved(runs, repetitions, seconds):
    """Seconds a step of variants in this process, measured in turn.

    For what this project compares with itself; `contenders` is for rivals.

    Args:
        runs: name -> function that runs a number of steps.
        repetitions: turns of each.
        seconds: length of a turn, about.

    Returns:
        name -> list of seconds a step, one a turn.
    """
    steps = {}
    for name, run in runs.items():
        run(2)  # builds, compiles
        steps[name] = steps_for(run, seconds)
    times = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(timed(run, steps[name]) / steps[name])
    return times


def matmul(size, dtype="float32"):
    """TensorFlow's product of two large matrices, some steps of it."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((size, size)), dtype)
    product = tf.function(lambda a: tf.reduce_max(a @ a))

    def run(steps):
        for _ in range(steps):
            result = product(a)
        float(result)

    return run


def thousands(speed):
    """12,345 as 12.3k."""
    return f"{speed / 1e3:,.1f}k"


def percentages(shares):
    """[0.02, None, 0.1] as "2, -, 10 %"."""
    return ", ".join("-" if s is None else f"{s * 100:.0f}" for s in shares) + (
        " %"
    )


def fit(trainer, windows, every, patience=math.inf):
    """Trains, scores windows on the way, and keeps the weights of the best.

    Args:
        trainer: a `Trainer`; its model ends with the weights of the best score.
        windows: what is scored.
        every: so many steps.
        patience: scores without a better one after which it stops.

    Returns:
        steps and nats (a token) of each score, and the median seconds_a_step.
    """
    import keras

    steps, nats, seconds = [], [], []
    started, best = 0.0, None

    def begin(batch, logs=None):
        nonlocal started
        started = time.perf_counter()

    def end(batch, logs=None):
        nonlocal best
        seconds.append(time.perf_counter() - started)
        if trainer.step % every:
            return
        steps.append(trainer.step)
        nats.append(trainer.evaluate(windows).nats_per_token)
        if nats[-1] == min(nats):
            best = trainer.model.get_weights()
        if len(nats) - nats.index(min(nats)) > patience:
            trainer.model.stop_training = True

    trainer.fit(
        [
            keras.callbacks.LambdaCallback(
                on_train_batch_begin=begin, on_train_batch_end=end
            )
        ],
        verbose=0,
    )
    trainer.model.set_weights(best)
    return {
        "steps": steps,
        "nats": nats,
        "seconds_a_step": statistics.median(seconds),
    }


def machine():
    """One line on the processor and the versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":")[1].strip()
    versions = ", ".join(
        f"{package} {metadata.version(package)}"
        for package in ("tensorflow", "keras", "torch")
        if importlib.util.find_spec(package)
    )
    return (
        f"{os.cpu_count()} cores of {name}; {versions}, "
        f"Python {platform.python_version()}"
    )


class Calm:
    """How much of the cores' time another guest of the host took (Linux)."""

    def __init__(self):
        self._before = self._read()

    def _read(self):
        stat = pathlib.Path("/proc/stat")
        if not stat.exists():
            return 0, 0
        ticks = list(map(int, stat.read_text().split("\n", 1)[0].split()[1:9]))
        return ticks[7], sum(ticks) - ticks[3]  # stolen, all but idle

    def __str__(self):
        stolen, busy = (
            now - before for now, before in zip(self._read(), self._before)
        )
        return f"{100 * stolen / max(busy, 1):.0f} % of the time stolen"


def write_report(directory, name, lines, results):
    """Prints a report and writes it as name.md, its figures as name.json.

    Args:
        directory: a path that exists.
        name: of the two files.
        lines: of the report, Markdown.
        results: what JSON can say.
    """
    report = "\n".join(lines)
    (directory / f"{name}.md").write_text(report + "\n")
    (directory / f"{name}.json").write_text(
        json.dumps(results | {"machine": machine()}, indent=1)
    )
    print(report)
