"""What the benchmarks share: steps and their time, the machine, reports."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import time
from importlib import metadata

from stacked_rnn import configs
from stacked_rnn.configs import UserError, setting
from stacked_rnn.utils import files, terminal

# Flags ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReportConfig(configs.Config):
    """Where the report goes."""

    output_dir: str = setting("benchmarks/results", "Directory of the report.")


def choices(flag, text, known):
    """The names in a comma-separated flag, in the order of the known ones.

    Raises:
        UserError: a name is unknown.
    """
    names = set(filter(None, text.split(",")))
    if unknown := sorted(names - set(known)):
        raise UserError(
            f"--{flag}: no {', '.join(unknown)} among {', '.join(known)}"
        )
    return [name for name in known if name in names]


def numbers(flag, text):
    """The numbers in a comma-separated flag.

    Raises:
        UserError: one is not a whole number above 0.
    """
    values = text.split(",")
    if not all(value.isdecimal() and int(value) for value in values):
        raise UserError(f"--{flag}={text}: expected numbers such as 64,128")
    return [int(value) for value in values]


# Programs that fail -----------------------------------------------------------


def failure(program, code, errors):
    """A `UserError` about a program that failed.

    Args:
        program: its name.
        code: that it ended with.
        errors: what it wrote to standard error, of which the last line counts.
    """
    reason = f"{program} ended with {code}: {last_line(errors)}"
    return UserError(reason.rstrip(": "))


def last_line(text):
    """The last line of a text that is not empty, or ""."""
    return text.strip().rpartition("\n")[2]


# Steps and their time ---------------------------------------------------------


def timed(run, steps):
    """Seconds that `run(steps)` takes."""
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def steps_for(run, seconds):
    """How many steps take about `seconds`; runs some to find out."""
    steps = 1
    while (taken := timed(run, steps)) < seconds / 4:
        steps *= max(2, min(10, round(seconds / taken)))
    return max(1, round(steps * seconds / taken))


def trainer_steps(trainer):
    """A function that continues a `Trainer` for a number of steps."""

    def run(steps):
        trainer.total_steps = trainer.step + steps
        trainer.fit(verbose=0)

    return run


def keras_steps(model, loss, inputs, targets, jit_compile):
    """A function that trains a stock Keras model and returns the last loss.

    A step is a `tf.function`.

    Args:
        model: a `keras.Model`.
        loss: (targets, outputs) -> losses, of which the mean is taken.
        inputs, targets: the batch of every step.
        jit_compile: whether XLA compiles the step.
    """
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(targets, model(inputs, training=True)))
        variables = model.trainable_variables
        gradients = tape.gradient(mean, [v.value for v in variables])
        optimizer.apply(
            [tf.convert_to_tensor(gradient) for gradient in gradients],
            variables,
        )
        return mean

    def run(steps):
        for _ in range(steps):
            mean = step(inputs, targets)
        return float(mean)

    return run


def matmul(size, dtype="float32"):
    """A function that multiplies large square matrices in TensorFlow."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((size, size)), dtype)
    product = tf.function(lambda a: tf.reduce_max(a @ a))

    def run(steps):
        for _ in range(steps):
            result = product(a)
        float(result)

    return run


# The machine ------------------------------------------------------------------


def machine():
    """One line: the processor, and the versions of what runs on it."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":")[1].strip()
    versions = ", ".join(
        f"{package} {metadata.version(package)}"
        for package in (
            "tensorflow", "keras", "torch", "jax", "flax", "onnxruntime",
            "ai_edge_litert",
        )
        if importlib.util.find_spec(package)
    )  # fmt: skip
    return (
        f"{os.cpu_count()} cores of {name}; {versions}, "
        f"Python {platform.python_version()}"
    )


class Calm:
    """The share of CPU time that other guests of the host took (Linux)."""

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


# Reports ----------------------------------------------------------------------


def speed(speeds, name):
    """A speed as "12.3k"."""
    return f"{speeds[name] / 1e3:,.1f}k" if name in speeds else "not measured"


def ratio(speeds, ours, other):
    """Our speed divided by another; "" where one of them is missing."""
    if ours not in speeds or other not in speeds:
        return ""
    return f"{speeds[ours] / speeds[other]:.2f}"


def percentages(shares):
    """[0.02, None, 0.1] as "2, -, 10 %"."""
    cells = ("-" if share is None else f"{100 * share:.0f}" for share in shares)
    return f"{', '.join(cells)} %"


def table(columns, rows):
    """The lines of a Markdown table.

    Args:
        columns: names; or name -> format of the numbers below it (".2f").
        rows: lists of strings, numbers, and None for an empty cell.
    """
    specs = (
        columns.values() if isinstance(columns, dict) else [""] * len(columns)
    )

    def cell(value, spec):
        if value is None or isinstance(value, str):
            return value or ""
        return format(value, spec)

    return [
        f"| {' | '.join(map(cell, row, specs))} |"
        for row in (list(columns), ["---"] * len(columns), *rows)
    ]


class Report:
    """Writes a report as NAME.md, its figures as NAME.json, and plots.

    Attributes:
        calm: printed in its first line; how calm the machine was.
    """

    def __init__(self, config, name, title, plots=True):
        """Checks that it can be written, before anything is measured.

        Args:
            config: a `ReportConfig`.
            name: of the files.
            title: of the report.
            plots: whether there will be any.

        Raises:
            UserError: it cannot be written, or matplotlib is missing.
        """
        if plots and not importlib.util.find_spec("matplotlib"):
            raise UserError(
                "matplotlib is missing: pip install --editable '.[bench]'"
            )
        self._directory = terminal.writable_directory(
            "output_dir", config.output_dir
        )
        self._name, self._title, self.calm = name, title, Calm()

    @contextlib.contextmanager
    def plot(self, width, height, name=None):
        """Yields a figure of matplotlib, and writes it as a PNG.

        Args:
            width, height: in inches.
            name: of the file, if not that of the report.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(self._directory / f"{name or self._name}.png", dpi=110)

    def plot_speeds(self, results, names, base, title):
        """Draws speeds relative to that of a contender, where it has one.

        Args:
            results: row -> {"tokens_per_second": name -> speed, ...}.
            names: of the bars.
            base: name of the contender whose speed is 1.
            title: of the plot.

        Returns:
            The lines of Markdown that show the plot, if there is one.
        """
        speeds = {
            row: result["tokens_per_second"]
            for row, result in results.items()
            if base in result["tokens_per_second"]
        }
        if not speeds or not importlib.util.find_spec("matplotlib"):
            return []
        with self.plot(10, 4.5) as figure:
            axes = figure.subplots()
            width = 0.8 / len(names)
            for place, name in enumerate(names):
                offset = width * (place - (len(names) - 1) / 2)
                axes.bar(
                    [index + offset for index in range(len(speeds))],
                    [s.get(name, 0.0) / s[base] for s in speeds.values()],
                    0.95 * width,
                    label=name,
                )
            axes.set_xticks(range(len(speeds)), speeds, rotation=20)
            axes.legend()
            axes.set(ylabel=f"tokens per second, {base} = 1", title=title)
        return [f"\n![speed]({self._name}.png)"]

    def saved(self):
        """The figures that an earlier run left in the JSON file, or {}."""
        path = self._directory / f"{self._name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self, results):
        """Writes the JSON file; returns what it holds."""
        results = {"machine": machine()} | results
        with files.whole_file(self._directory / f"{self._name}.json") as file:
            file.write(json.dumps(results, indent=1).encode())
        return results

    def write(self, lines, results, quiet=False):
        """Writes both files, and prints the first.

        Args:
            lines: of Markdown.
            results: a dict for the JSON file.
            quiet: whether to print nothing.
        """
        place = self.save(results)["machine"]
        text = "\n".join(
            [f"# {self._title}\n\n{place}; {self.calm}.\n", *lines]
        )
        path = self._directory / f"{self._name}.md"
        path.write_text(text + "\n", encoding="utf-8")
        if not quiet:
            print(text)
