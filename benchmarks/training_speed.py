"""Speed of a training step beside stock Keras, PyTorch and a bare matmul.

  make bench        or, a part of it:
  python benchmarks/training_speed.py --works=small,medium --cells=gru

A step is forward, backward, clipping by the global norm and Adam, on random
tokens. All contenders run in turn, several times over, in one process, so that
whatever else the machine does meets all of them; the medians are compared.
This project's part is the real thing, `Trainer.fit`. Stock Keras gets the best
of its settings: cells in an RNN layer or the layer of that name, with XLA and
without. PyTorch threads wait passively, or they would take the cores from
whoever is next.

Writes training_speed.md, .json and .png and training_growth.png to
--output_dir, and prints the tables.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import statistics
import sys
from concurrent import futures

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

from measuring import (
    Calm,
    interleaved,
    machine,
    matmul,
    thousands,
    write_report,
)

from stacked_rnn import command_line, configs
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting


@dataclasses.dataclass(frozen=True)
class Work:
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
        7, "Turns that each contender gets; the median counts.", minimum=1
    )
    seconds: float = setting(1.0, "Length of a turn, about.", minimum=0.0)
    memory: bool = setting(True, "Measure also the peak memory (Linux).")
    growth: bool = setting(True, "Measure also how the time grows with sizes.")
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plots."
    )


# Contenders: (work, cell) -> a function that runs some steps -----------------


def this_project(work, cell, mixed_precision=False):
    """`Trainer.fit` as train.py calls it."""
    import tensorflow as tf

    from stacked_rnn import datasets, training

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


def this_project_in_bfloat16(work, cell):
    """The same with `--mixed_precision`."""
    return this_project(work, cell, mixed_precision=True)


def stock_keras(kind, jit_compile):
    """A maker of the stock model, its step one `tf.function`."""

    def make(work, cell):
        import keras
        import tensorflow as tf

        name = {"gru": "GRU", "lstm": "LSTM"}[cell]

        def layer():
            if kind == "cells":
                return keras.layers.RNN(
                    getattr(keras.layers, f"{name}Cell")(work.units),
                    return_sequences=True,
                )
            return getattr(keras.layers, name)(
                work.units, return_sequences=True
            )

        model = keras.Sequential(
            [
                keras.Input((work.time,), work.batch_size, dtype="int32"),
                keras.layers.Embedding(
                    work.vocabulary_size, work.embedding_dim
                ),
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

    return make


def pytorch(work, cell):
    """`nn.GRU` or `nn.LSTM` between an embedding and a linear layer."""
    import torch

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
    optimizer = torch.optim.Adam(weights, 1e-3)
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


STOCK = {
    f"stock Keras, {kind}{' + XLA' if jit else ''}": stock_keras(kind, jit)
    for kind in ("cells", "layer")
    for jit in (False, True)
}
OURS, OURS_BFLOAT16 = "stacked_rnn", "stacked_rnn bfloat16"
CONTENDERS = {
    OURS: this_project,
    OURS_BFLOAT16: this_project_in_bfloat16,
    "PyTorch": pytorch,
} | STOCK
MATMUL_SIZE = 2048


# Measuring --------------------------------------------------------------------


def compare(work, cell, config):
    """Tokens a second of each contender, and the matmul peak in GFLOP/s."""
    stock = {name: make(work, cell) for name, make in STOCK.items()}
    trial = interleaved(stock, 2, config.seconds / 3)
    best = min(trial, key=lambda name: min(trial[name]))
    runs = {
        name: CONTENDERS[name](work, cell)
        for name in (OURS, OURS_BFLOAT16, "PyTorch")
    }
    runs |= {best: stock[best], "matmul": matmul(MATMUL_SIZE)}
    times = interleaved(runs, config.repetitions, config.seconds)
    medians = {name: statistics.median(t) for name, t in times.items()}
    peak = 2 * MATMUL_SIZE**3 / medians.pop("matmul")
    speeds = {name: work.tokens / t for name, t in medians.items()}
    ours = speeds[OURS]
    return {
        "tokens_per_second": speeds,
        "best_stock": best,
        "against_stock": ours / speeds[best],
        "against_pytorch": ours / speeds["PyTorch"],
        "bfloat16_against_float32": speeds[OURS_BFLOAT16] / ours,
        "matmul_gflops": peak / 1e9,
        "fraction_of_peak": ours * work.flops_per_token(cell) / peak,
        "seconds_a_step": times,
    }


def peak_memory(name, work, cell):
    """MiB that building a contender and three steps add, in a new process."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_added_memory, name, work, cell).result()


def _added_memory(name, work, cell):
    if name == "PyTorch":
        import torch  # noqa: F401  the library itself does not count
    else:
        import tensorflow as tf

        float(tf.constant(0.0))
    before = _memory("VmRSS")
    CONTENDERS[name](work, cell)(3)
    return _memory("VmHWM") - before


def _memory(field):
    """MiB from Linux: getrusage would tell the peak of the parent process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def growth(cell, config):
    """Microseconds a token as one size grows and the others stay."""
    rows = []
    for field, values in GROWTH.items():
        for value in values:
            work = dataclasses.replace(GROWTH_FROM, **{field: value})
            names = (OURS, "PyTorch", "stock Keras, layer")
            times = interleaved(
                {name: CONTENDERS[name](work, cell) for name in names},
                max(3, config.repetitions // 2),
                config.seconds / 3,
            )
            for name, seconds in times.items():
                micros = 1e6 * statistics.median(seconds) / work.tokens
                rows.append((cell, field, value, name, micros))
            print(f"growth: {cell}, {field}={value}", file=sys.stderr)
    return rows


# The report -------------------------------------------------------------------


def table(results):
    """The comparison as a Markdown table."""
    lines = [
        "| work | stacked_rnn | best stock Keras | PyTorch | ratio to Keras | "
        "ratio to PyTorch | of the matmul peak | bfloat16 to float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        speeds, best = result["tokens_per_second"], result["best_stock"]
        setting_name = best.removeprefix("stock Keras, ")
        lines.append(
            f"| {name} | {thousands(speeds[OURS])} | "
            f"{thousands(speeds[best])} ({setting_name}) | "
            f"{thousands(speeds['PyTorch'])} | "
            f"{result['against_stock']:.2f} | "
            f"{result['against_pytorch']:.2f} | "
            f"{result['fraction_of_peak']:.2f} of "
            f"{result['matmul_gflops']:.0f} GFLOP/s | "
            f"{result['bfloat16_against_float32']:.2f} |"
        )
    return "\n".join(lines)


def memory_table(memory):
    """MiB of each contender as a Markdown table."""
    lines = [
        f"| work | {OURS} | {OURS_BFLOAT16} | PyTorch | best stock Keras |",
        "|---|---|---|---|---|",
    ]
    for name, row in memory.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{m:.0f}" for m in row) + " |"
        )
    return "\n".join(lines)


def bar_chart(results, path):
    """Speeds relative to PyTorch's, as a PNG."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.5))
    relative = {
        "PyTorch": [1.0 for _ in results],
        "best stock Keras": [
            r["against_pytorch"] / r["against_stock"] for r in results.values()
        ],
        OURS: [r["against_pytorch"] for r in results.values()],
        OURS_BFLOAT16: [
            r["against_pytorch"] * r["bfloat16_against_float32"]
            for r in results.values()
        ],
    }
    for place, (name, heights) in enumerate(relative.items()):
        axes.bar(
            [i + 0.2 * (place - 1.5) for i in range(len(results))],
            heights,
            width=0.19,
            label=name,
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
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing: pip install --editable '.[bench]'"
        ) from error
    if config.memory and not pathlib.Path("/proc/self/status").exists():
        raise UserError("--memory: only Linux tells it; add --nomemory")
    matplotlib.use("Agg")
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    results, memory, rows, calm = {}, {}, [], Calm()
    for name in works:
        for cell in cells:
            label = f"{cell.upper()} {name}"
            results[label] = compare(WORKS[name], cell, config)
            print(table({label: results[label]}).splitlines()[-1], flush=True)
            if config.memory:
                measured = (
                    OURS,
                    OURS_BFLOAT16,
                    "PyTorch",
                    results[label]["best_stock"],
                )
                memory[label] = [
                    peak_memory(contender, WORKS[name], cell)
                    for contender in measured
                ]
    if config.growth:
        for cell in cells:
            rows += growth(cell, config)
        growth_plot(rows, output / "training_growth.png")
    bar_chart(results, output / "training_speed.png")

    report = [
        f"# Training speed\n\n{machine()}; {calm}.\n",
        "Tokens a second of a full training step (forward, backward, clipping, "
        f"Adam), float32, medians of {config.repetitions} turns of about "
        f"{config.seconds:g} s, taken in turn.\n",
        table(results),
        "\n![speed](training_speed.png)",
    ]
    if config.memory:
        report += [
            "\n## Peak memory\n\nMiB that the model and three steps add to the "
            "process, each contender in a new one.\n",
            memory_table(memory),
        ]
    if config.growth:
        report.append("\n## Growth\n\n![growth](training_growth.png)")
    write_report(
        output,
        "training_speed",
        report,
        {"results": results, "memory_mib": memory, "growth": rows},
    )


if __name__ == "__main__":
    command_line.run(main, BenchmarkConfig)
