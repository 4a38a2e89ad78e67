"""Speed of a training step beside stock Keras, PyTorch and a bare matmul.

  make bench        or, a part of it:
  python benchmarks/training_speed.py --works=small,medium --cells=gru

A step is forward, backward, clipping by the global norm and Adam, on random
tokens. Each contender is a process of its own; they run in turn, several times
over, so that whatever else the machine does meets all of them, and sleep while
another runs. The medians are compared.
This project's part is the real thing, `Trainer.fit`, as train.py runs it. The
rivals get the best of their settings, found for each size by a short trial:
stock Keras cells in an RNN layer or the layer of that name, with XLA and
without, on one thread or all; PyTorch one thread or all, which spin or sleep
while they wait. Without PyTorch the others are measured.

Takes some 15 minutes on two cores. Writes training_speed.md, .json and .png and
training_growth.png to --output_dir, and prints the tables.
"""

import dataclasses
import pathlib
import sys
from typing import NamedTuple

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
    matmul,
    percentages,
    thousands,
    write_report,
)

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting
from stacked_rnn.utils import terminal


class Work(NamedTuple):
    """The shape of a model and of its batch."""

    units: int
    num_layers: int
    batch_size: int
    time: int
    embedding_dim: int = 64
    vocabulary_size: int = 65

    @property
    def tokens(self):
        return self.batch_size * self.time

    def flops_per_token(self, cell):
        """Forward and backward: each weight multiplies and adds 3 times."""
        gates = {"gru": 3, "lstm": 4}[cell]
        inputs = [self.embedding_dim] + [self.units] * (self.num_layers - 1)
        layers = sum(gates * self.units * (n + self.units) for n in inputs)
        return 6 * (layers + self.units * self.vocabulary_size)


WORKS = {
    "d2l": Work(32, 2, 1024, 32, embedding_dim=28, vocabulary_size=28),
    "small": Work(128, 2, 50, 50),
    "medium": Work(256, 2, 64, 100),
    "large": Work(512, 2, 64, 100, embedding_dim=128),
    "deep": Work(256, 4, 64, 100),
}
GROWTH = {
    "units": [64, 128, 256, 512],
    "num_layers": [1, 2, 4, 8],
    "batch_size": [8, 32, 128],
    "time": [25, 50, 100, 200],
}
GROWTH_FROM = Work(128, 2, 32, 50)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    works: str = setting(",".join(WORKS), "Sizes, separated by commas.")
    cells: str = setting("gru,lstm", "gru, lstm, or both.")
    repetitions: int = setting(
        5, "Turns that each contender gets; the median counts.", minimum=1
    )
    seconds: float = setting(0.6, "Length of a turn, about.", minimum=0.0)
    memory: bool = setting(True, "Measure also the peak memory (Linux).")
    growth: bool = setting(True, "Measure also how the time grows with sizes.")
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plots."
    )


# Contenders, each in a process: a work -> a function that runs some steps -----


def this_project(work, cell, mixed_precision=False):
    """`Trainer.fit` as train.py calls it."""
    import tensorflow as tf

    from stacked_rnn import datasets, training

    work = Work(*work)
    tokens = tf.random.uniform(
        [20 * work.tokens + 1], maxval=work.vocabulary_size, dtype=tf.int32
    )
    windows = datasets.RandomWindows(tokens, work.time, work.batch_size)
    trainer = training.Trainer(
        ModelConfig(
            cell=cell,
            units=work.units,
            num_layers=work.num_layers,
            embedding_dim=work.embedding_dim,
            vocabulary_size=work.vocabulary_size,
        ),
        TrainConfig(
            batch_size=work.batch_size,
            epochs=10**6,
            mixed_precision=mixed_precision,
        ),
        datasets.LanguageData(None, windows, None),
    )

    def run(steps):
        trainer.total_steps = trainer.step + steps
        trainer.fit(verbose=0)

    return run


def stock_keras(work, cell, kind, jit_compile):
    """The stock model, its step one `tf.function`."""
    import keras
    import tensorflow as tf

    work, name = Work(*work), {"gru": "GRU", "lstm": "LSTM"}[cell]

    def layer():
        if kind == "cells":
            return keras.layers.RNN(
                getattr(keras.layers, f"{name}Cell")(work.units),
                return_sequences=True,
            )
        return getattr(keras.layers, name)(work.units, return_sequences=True)

    model = keras.Sequential(
        [
            keras.Input((work.time,), work.batch_size, dtype="int32"),
            keras.layers.Embedding(work.vocabulary_size, work.embedding_dim),
            *(layer() for _ in range(work.num_layers)),
            keras.layers.Dense(work.vocabulary_size),
        ]
    )
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    tokens = tf.random.uniform(
        (work.batch_size, work.time + 1),
        maxval=work.vocabulary_size,
        dtype=tf.int32,
    )

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    targets, model(inputs, training=True)
                )
            )
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return loss

    def run(steps):
        for _ in range(steps):
            loss = step(tokens[:, :-1], tokens[:, 1:])
        float(loss)

    return run


def pytorch(work, cell):
    """`nn.GRU` or `nn.LSTM` between an embedding and a linear layer."""
    import torch

    work = Work(*work)
    recurrent = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](
        work.embedding_dim, work.units, work.num_layers, batch_first=True
    )
    embedding = torch.nn.Embedding(work.vocabulary_size, work.embedding_dim)
    readout = torch.nn.Linear(work.units, work.vocabulary_size)
    weights = [
        weight
        for module in (embedding, recurrent, readout)
        for weight in module.parameters()
    ]
    optimizer = torch.optim.Adam(weights, 1e-3, fused=True)
    tokens = torch.randint(
        work.vocabulary_size, (work.batch_size, work.time + 1)
    )

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            logits = readout(recurrent(embedding(tokens[:, :-1]))[0])
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), tokens[:, 1:].flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        loss.item()

    return run


OURS, OURS_BFLOAT16 = "stacked_rnn", "stacked_rnn bfloat16"
KERAS, PYTORCH = "best stock Keras", "PyTorch"
KERAS_LAYER = "stock Keras, layer"
MATMUL_SIZE = 2048
FAIRNESS = """
## What may flatter whom

- The rivals run at the fastest setting of a short trial for each row: stock
  Keras of eight (cells or layer, XLA or none, one thread or all), PyTorch of
  four (one thread or all, which spin, *active*, or sleep, *passive*, while they
  wait). Near ties, a trial may name either. For stacked_rnn nothing is tried:
  it runs as `train.py` does.
- stacked_rnn pays for all of `Trainer.fit`: windows cut anew, the schedule, the
  logs. The others take bare steps on one batch that they keep.
- PyTorch has its fused Adam, but not `torch.compile`, which was not tried.
- The ratios are those of this processor. PyTorch's own products use narrower
  instructions on AMD's than on Intel's, TensorFlow's do not: that flatters
  TensorFlow on AMD's.
- Compiling is not counted, and only TensorFlow compiles.
"""


def keras_entries(work, cell):
    """Name -> `Entry`: the settings of stock Keras that a trial tries."""
    return {
        f"{kind}{' + XLA' if jit else ''}, {name}": Entry(
            "tensorflow",
            stock_keras,
            {"work": work, "cell": cell, "kind": kind, "jit_compile": jit},
            setting,
        )
        for name, setting in settings("tensorflow").items()
        for kind in ("cells", "layer")
        for jit in (False, True)
    }


def pytorch_entries(work, cell):
    """Name -> `Entry`: the settings of PyTorch that a trial tries."""
    return {
        name: Entry("torch", pytorch, {"work": work, "cell": cell}, setting)
        for name, setting in settings("torch").items()
    }


# Measuring --------------------------------------------------------------------


def compare(work, cell, config, rivals):
    """Tokens per second of each contender, its setting, spread and memory.

    Args:
        work: a `Work`.
        cell: "gru" or "lstm".
        config: a `BenchmarkConfig`.
        rivals: name -> a function such as `keras_entries`.
    """
    ours = Entry("tensorflow", this_project, {"work": work, "cell": cell})
    bfloat16 = ours.arguments | {"mixed_precision": True}
    entries = {
        OURS: ours,
        OURS_BFLOAT16: Entry("tensorflow", this_project, bfloat16),
    }
    chosen, trials = {}, {}
    for name, entries_of in rivals.items():
        candidates = entries_of(work, cell)
        chosen[name], trials[name] = fastest(
            name.removeprefix("best "), candidates, config.seconds / 3
        )
        if chosen[name]:
            entries[name] = candidates[chosen[name]]
    entries["matmul"] = Entry("tensorflow", matmul, {"size": MATMUL_SIZE})
    results = in_turn(entries, config.repetitions, config.seconds)
    peak = None
    if "matmul" in results:
        peak = 2 * MATMUL_SIZE**3 / median(results.pop("matmul")) / 1e9
    return {
        "tokens_per_second": {
            name: work.tokens / median(result)
            for name, result in results.items()
        },
        "chosen": chosen,
        "spread": {name: spread(result) for name, result in results.items()},
        "memory_mib": {
            name: result["memory_mib"] for name, result in results.items()
        },
        "gflop_per_token": work.flops_per_token(cell) / 1e9,
        "matmul_gflops": peak,
        "seconds_a_step": {
            name: result["seconds_a_step"] for name, result in results.items()
        },
        "trials": trials,
    }


def growth(cell, config, rivals):
    """Microseconds a token as one size grows and the others stay.

    Of PyTorch those of the setting that is the fastest at each size.
    """
    rows, micros = [], {}
    for field, values in GROWTH.items():
        works = {v: GROWTH_FROM._replace(**{field: v}) for v in values}
        entries = {}
        for work in works.values():
            if (work, OURS) in micros:
                continue
            arguments = {"work": work, "cell": cell}
            layer = arguments | {"kind": "layer", "jit_compile": False}
            entries |= {
                (work, OURS): Entry("tensorflow", this_project, arguments),
                (work, KERAS_LAYER): Entry("tensorflow", stock_keras, layer),
            }
            if PYTORCH in rivals:
                for name, entry in pytorch_entries(work, cell).items():
                    entries[work, PYTORCH, name] = entry
        results = in_turn(
            entries,
            max(3, config.repetitions // 2),
            config.seconds / 3,
            shared=True,
        )
        for (work, name, *_), result in results.items():
            time = 1e6 * median(result) / work.tokens
            micros[work, name] = min(time, micros.get((work, name), time))
        rows += [
            (cell, field, value, name, micros[work, name])
            for name in (OURS, PYTORCH, KERAS_LAYER)
            for value, work in works.items()
            if (work, name) in micros
        ]
        print(f"growth: {cell}, {field}", file=sys.stderr)
    return rows


def ratio(result, ours, other):
    """How many times the speed of the other, "" where one is not there."""
    speeds = result["tokens_per_second"]
    if ours not in speeds or other not in speeds:
        return ""
    return f"{speeds[ours] / speeds[other]:.2f}"


# The report -------------------------------------------------------------------


def speed(result, name):
    """Tokens per second, in words."""
    speeds = result["tokens_per_second"]
    return thousands(speeds[name]) if name in speeds else "not there"


def table(results):
    """The comparison as a Markdown table."""
    lines = [
        "| work | stacked_rnn | best stock Keras | PyTorch | ratio to Keras | "
        "ratio to PyTorch | setting of Keras | setting of PyTorch | spread | "
        "of the matmul peak | bfloat16 to float32 |",
        "|---" * 11 + "|",
    ]
    for name, result in results.items():
        chosen, peak, of_peak = result["chosen"], result["matmul_gflops"], ""
        if peak and OURS in result["tokens_per_second"]:
            used = result["tokens_per_second"][OURS] * result["gflop_per_token"]
            of_peak = f"{used / peak:.2f} of {peak:.0f} GFLOP/s"
        spreads = [result["spread"].get(n) for n in (OURS, KERAS, PYTORCH)]
        lines.append(
            f"| {name} | {speed(result, OURS)} | {speed(result, KERAS)} | "
            f"{speed(result, PYTORCH)} | {ratio(result, OURS, KERAS)} | "
            f"{ratio(result, OURS, PYTORCH)} | {chosen.get(KERAS) or ''} | "
            f"{chosen.get(PYTORCH) or ''} | {percentages(spreads)} | "
            f"{of_peak} | {ratio(result, OURS_BFLOAT16, OURS)} |"
        )
    return "\n".join(lines)


def memory_table(results):
    """MiB of each contender as a Markdown table."""
    names = (OURS, OURS_BFLOAT16, PYTORCH, KERAS)
    lines = [f"| work | {' | '.join(names)} |", "|---" * 5 + "|"]
    for name, result in results.items():
        memory = result["memory_mib"]
        cells = (f"{memory[n]:.0f}" if n in memory else "" for n in names)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bar_chart(results, path):
    """Speeds relative to PyTorch's, as a PNG."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.5))
    for place, contender in enumerate((PYTORCH, KERAS, OURS, OURS_BFLOAT16)):
        axes.bar(
            [i + 0.2 * (place - 1.5) for i in range(len(results))],
            [
                result["tokens_per_second"].get(contender, 0.0)
                / result["tokens_per_second"][PYTORCH]
                for result in results.values()
            ],
            width=0.19,
            label=contender,
        )
    axes.set_xticks(range(len(results)), results, rotation=20)
    axes.set_ylabel("tokens per second, PyTorch = 1")
    axes.set_title("A training step on the CPU")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def growth_plot(rows, path):
    """Time a token against each size, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(GROWTH), figsize=(14, 4))
    for axes, (field, values) in zip(panels, GROWTH.items()):
        for cell, name in dict.fromkeys((row[0], row[3]) for row in rows):
            micros = [
                row[4]
                for row in rows
                if (row[0], row[1], row[3]) == (cell, field, name)
            ]
            axes.plot(values, micros, marker="o", label=f"{name}, {cell}")
        axes.set(xscale="log", yscale="log", xlabel=field)
        axes.set_xticks(values, values)
        axes.minorticks_off()
    panels[0].set_ylabel("microseconds a token")
    panels[0].legend(fontsize="x-small")
    figure.suptitle(
        "Time of a training step, from 2 layers of 128, 32 windows of 50"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(config):
    """Measures, prints and writes the report."""
    works, cells = config.works.split(","), config.cells.split(",")
    for flag, given, known in (
        ("works", works, WORKS),
        ("cells", cells, ("gru", "lstm")),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise UserError(
                f"--{flag}: no {', '.join(unknown)} among {', '.join(known)}"
            )
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "matplotlib is missing: pip install --editable '.[bench]'"
        ) from error
    if config.memory and not pathlib.Path("/proc/self/status").exists():
        raise UserError("--memory: only Linux tells it; add --nomemory")
    matplotlib.use("Agg")
    output = terminal.writable_directory("output_dir", config.output_dir)
    rivals = {KERAS: keras_entries}
    if has_pytorch():
        rivals[PYTORCH] = pytorch_entries

    results, rows, calm = {}, [], Calm()
    for name in works:
        for cell in cells:
            label = f"{cell.upper()} {name}"
            results[label] = compare(WORKS[name], cell, config, rivals)
            print(table({label: results[label]}).splitlines()[-1], flush=True)
    if config.growth:
        for cell in cells:
            rows += growth(cell, config, rivals)
        growth_plot(rows, output / "training_growth.png")
    drawn = {
        label: result
        for label, result in results.items()
        if PYTORCH in result["tokens_per_second"]
    }
    if drawn:
        bar_chart(drawn, output / "training_speed.png")

    report = [
        f"# Training speed\n\n{machine()}; {calm}.\n",
        "Tokens per second of a full training step (forward, backward, "
        f"clipping, Adam), float32, medians of {config.repetitions} turns of "
        f"about {config.seconds:g} s, taken in turn, each contender in a "
        "process of its own that sleeps while another runs. Spread: the "
        "slowest turn less the fastest, in % of the median, of stacked_rnn, "
        "stock Keras and PyTorch.\n",
        table(results),
        "\n![speed](training_speed.png)" if drawn else "",
        FAIRNESS,
    ]
    if config.memory:
        report += [
            "\n## Peak memory\n\nMiB that the model and three steps add to the "
            "process.\n",
            memory_table(results),
        ]
    if config.growth:
        report.append("\n## Growth\n\n![growth](training_growth.png)")
    write_report(
        output, "training_speed", report, {"results": results, "growth": rows}
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
