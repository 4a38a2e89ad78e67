"""How the cost of training grows with each size, beside the theory.

  python benchmarks/growth.py

One size of a model or of its batches grows, the others stay. Beside the time
and the memory of a training step, as train.py makes it, stands what theory
expects: of the time, the floating-point operations of the products at the speed
of a large matrix product; of the memory, four numbers per weight (the weight,
its gradient and Adam's two moments) and what the backward pass needs. PyTorch
runs afterwards, without torch.compile, at the fastest of its settings at each
size. The last two plots, by the length of the text and by the number of
clients, are of the reports of scaling.py and serving_load.py.

Takes about 15 minutes on two cores. Writes growth.md, .json and .png to
--output_dir, and prints the first.
"""

import dataclasses
import json
import pathlib
import sys
from typing import NamedTuple

import common
import contenders
from common import table
from contenders import Entry, median
from training_speed import MATMUL_SIZE, Work, pytorch_entries, this_project

from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

BASE = Work(128, 2, 32, 50)
START = (
    f"{BASE.num_layers} layers of {BASE.units} units, {BASE.batch_size} "
    f"windows of {BASE.time} tokens and a vocabulary of {BASE.vocabulary_size}"
)
SIZES = {
    "units": [64, 128, 256, 512, 1024],
    "num_layers": [1, 2, 4, 8],
    "batch_size": [8, 32, 128, 512],
    "time": [25, 50, 100, 200],
    "vocabulary_size": [65, 1000, 10_000, 50_000],
}
NAMES = {
    "units": "units",
    "num_layers": "layers",
    "batch_size": "windows per batch",
    "time": "tokens per window",
    "vocabulary_size": "vocabulary",
}
SAMPLED_FROM, SAMPLED_WORDS = 10_000, 1024
OURS, SAMPLED, PYTORCH = "stacked_rnn", "sampled softmax", "PyTorch"
THEORY = "theory"
COLORS = {"gru": "#1b6ca8", "lstm": "#c8553d"}
STYLES = {OURS: "o-", SAMPLED: "s--", PYTORCH: "^-", THEORY: ":"}
RESULTS = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    cells: str = setting("gru,lstm", "gru, lstm, or both.")
    repetitions: int = setting(
        5, "Turns of each contender; the median counts.", minimum=1
    )
    seconds: float = setting(0.3, "Approximate length of a turn.", minimum=0.0)


class Row(NamedTuple):
    """The cost of a training step of one size.

    Attributes:
        cell: "gru" or "lstm".
        size: a name in `SIZES`.
        value: of that size.
        name: of the contender, or `THEORY`.
        micros: microseconds per token.
        mib: MiB that the model and three steps add to a process, or None.
    """

    cell: str
    size: str
    value: int
    name: str
    micros: float
    mib: float | None


def theory(work, cell, gflops):
    """Microseconds per token and MiB that theory expects of a step.

    The backward pass needs the outputs of the embedding, 5 x units of each GRU
    layer and 6 x units of each LSTM layer, and the logits with their gradient.
    """
    flops = work.flops_per_token(cell)
    weights = flops // 6 + work.vocabulary_size * work.embedding_dim
    saved = work.embedding_dim + 2 * work.vocabulary_size
    saved += {"gru": 5, "lstm": 6}[cell] * work.units * work.num_layers
    mib = 4 * (4 * weights + work.tokens * saved) / 2**20
    return flops / gflops / 1e3, mib


def entries_of_ours(cell):
    """(work, name) -> `Entry` of this project, for every size."""
    entries = {}
    for size, values in SIZES.items():
        for value in values:
            work = BASE._replace(**{size: value})
            arguments = {"work": work, "cell": cell}
            entries[work, OURS] = Entry("tensorflow", this_project, arguments)
            if work.vocabulary_size >= SAMPLED_FROM:
                entries[work, SAMPLED] = Entry(
                    "tensorflow",
                    this_project,
                    arguments | {"sampled_words": SAMPLED_WORDS},
                )
    return entries


def entries_of_pytorch(cell, works):
    """(work, name, setting) -> `Entry` of PyTorch."""
    return {
        (work, PYTORCH, name): entry
        for work in works
        for name, entry in pytorch_entries(work, cell).items()
        if not entry.arguments["compiles"]  # which takes minutes each
    }


def measure(cell, config, has_pytorch):
    """Measures all sizes of a cell.

    Returns:
        A list of `Row`, and the speed of a large matrix product in GFLOP/s.
    """
    ours = entries_of_ours(cell)
    matmul = Entry("tensorflow", common.matmul, {"size": MATMUL_SIZE})
    results = contenders.in_turn(
        {"matmul": matmul} | ours,
        config.repetitions,
        config.seconds,
        alone={"matmul", *ours},
    )
    gflops = 2 * MATMUL_SIZE**3 / median(results.pop("matmul")) / 1e9
    print(f"{cell}: stacked_rnn", file=sys.stderr)
    if has_pytorch:
        results |= contenders.in_turn(
            entries_of_pytorch(cell, {work: None for work, _ in ours}),
            config.repetitions,
            config.seconds,
            shared=True,
        )
        print(f"{cell}: PyTorch", file=sys.stderr)
    costs = {}
    for (work, name, *_), result in results.items():
        micros = 1e6 * median(result) / work.tokens
        mib = None if name == PYTORCH else result["memory_mib"]
        if (work, name) not in costs or micros < costs[work, name][0]:
            costs[work, name] = micros, mib
    costs |= {
        (work, THEORY): theory(work, cell, gflops)
        for work, name in ours
        if name == OURS
    }
    rows = [
        Row(cell, size, value, name, *costs[work, name])
        for size, values in SIZES.items()
        for name in STYLES
        for value in values
        if (work := BASE._replace(**{size: value}), name) in costs
    ]
    return rows, gflops


# The report -------------------------------------------------------------------


def lines_of_sizes(rows):
    """The Markdown tables of all sizes."""
    found = {(row.size, row.cell, row.name, row.value): row for row in rows}

    def cost(*key):
        if key not in found:
            return ""
        row = found[key]
        mib = "" if row.mib is None else f", {row.mib:,.0f} MiB"
        return f"{row.micros:,.1f} us{mib}"

    lines = []
    for size, values in SIZES.items():
        names = {(row.cell, row.name): None for row in rows if row.size == size}
        lines += [
            f"\n## By {NAMES[size]}\n",
            *table(
                ["contender", *(f"{value:,}" for value in values)],
                [
                    [
                        f"{cell.upper()}, {name}",
                        *(cost(size, cell, name, value) for value in values),
                    ]
                    for cell, name in names
                ],
            ),
        ]
    return lines


def plot(rows, report):
    """Draws time and memory against each size, and two other reports."""
    with report.plot(15, 11) as figure:
        panels = figure.subplots(3, len(SIZES))
        for column, (size, values) in enumerate(SIZES.items()):
            upper, lower = panels[0, column], panels[1, column]
            _draw_size(upper, rows, size, "micros")
            _draw_size(lower, rows, size, "mib")
            for axes in (upper, lower):
                axes.set(xscale="log", yscale="log", xlabel=NAMES[size])
                axes.set_xticks(values, [f"{value:,}" for value in values])
                axes.minorticks_off()
        panels[0, 0].set_ylabel("microseconds per token")
        panels[1, 0].set_ylabel("MiB that training adds to a process")
        _share_limits(panels[0])
        _share_limits(panels[1])
        handles, labels = panels[0, -1].get_legend_handles_labels()
        panels[2, 4].legend(handles, labels, loc="center", frameon=False)
        for axes in panels[2, 2:]:
            axes.axis("off")
        _draw_corpora(panels[2, 0], _saved("scaling").get("corpora"))
        _draw_clients(panels[2, 1], _saved("serving_load"))
        figure.suptitle(f"How the cost of a training step grows, from {START}")


def _saved(name):
    """The figures of another report; {} if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _draw_size(axes, rows, size, cost):
    """Draws a line per contender."""
    lines = {}
    for row in rows:
        if row.size == size and getattr(row, cost) is not None:
            line = lines.setdefault((row.cell, row.name), {})
            line[row.value] = getattr(row, cost)
    for (cell, name), line in lines.items():
        axes.plot(
            line.keys(), line.values(), STYLES[name], color=COLORS[cell],
            alpha=0.4 if name == PYTORCH else 1.0,
            label=f"{cell.upper()}, {name}",
        )  # fmt: skip


def _share_limits(row):
    """Gives all plots of a row the same scale."""
    limits = [axes.get_ylim() for axes in row]
    for axes in row:
        axes.set_ylim(min(map(min, limits)), max(map(max, limits)))


def _draw_corpora(axes, corpora):
    """Seconds to the first step by the length of the text.

    Args:
        axes: of the plot.
        corpora: the part of that name of the figures of scaling.py, or None.
    """
    if not corpora:
        axes.axis("off")
        return
    megabytes = [int(size) for size in corpora]
    seconds = list(zip(*(seconds for seconds, _ in corpora.values())))
    for label, line in zip(("first run", "second", "resumed"), seconds):
        axes.plot(megabytes, line, "o-", label=label)
    in_proportion = [max(seconds[0]) * mb / max(megabytes) for mb in megabytes]
    axes.plot(megabytes, in_proportion, STYLES[THEORY], color="gray")
    axes.set(
        xscale="log", yscale="log", xlabel="MB of text",
        ylabel="seconds to the first step",
    )  # fmt: skip
    axes.set_xticks(megabytes, megabytes)
    axes.minorticks_off()
    axes.legend(fontsize="small")


def _draw_clients(axes, report):
    """Tokens per second of serve.py by the number of clients.

    Args:
        axes: of the plot.
        report: the figures of serving_load.py, or {}.
    """
    if not report:
        axes.axis("off")
        return
    for name, result in report.items():
        if name == "machine":
            continue
        speeds = {
            int(row.split()[0]): values[2]
            for row, values in result["rows"].items()
            if row.endswith("clients") and "loop" not in row
        }
        cell, units = name.split(":")
        raw, *_ = result["rows"]["1 clients"]
        bounds = [min(count * raw["1"], raw["64"]) for count in speeds]
        axes.plot([*speeds], bounds, STYLES[THEORY], color=COLORS[cell])
        axes.plot(
            speeds.keys(), speeds.values(), "o-", color=COLORS[cell],
            label=f"{cell.upper()} 2x{units}",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="clients of serve.py",
        ylabel="tokens per second",
    )  # fmt: skip
    axes.set_xticks(list(speeds), list(speeds))
    axes.minorticks_off()
    axes.legend(fontsize="small")


def main(config):
    """Measures, prints and writes the report."""
    cells = common.choices("cells", config.cells, COLORS)
    has_pytorch = contenders.has(PYTORCH, "torch")
    report = common.Report(config, "growth", "How cost grows")
    rows, peaks = [], {}
    results = {"gflops": peaks, "rows": rows}
    for cell in cells:
        more, peaks[cell] = measure(cell, config, has_pytorch)
        rows += more
        report.save(results)  # in case of an interruption
    plot(rows, report)
    speeds = " and ".join(f"{peak:.0f}" for peak in peaks.values())
    report.write(
        [
            "Microseconds per token of a training step in float32, and MiB "
            "that the model and three steps add to a process. From "
            f"{START} one size grows; the sampled softmax has "
            f"--sampled_words={SAMPLED_WORDS}. Theory: the products at the "
            f"speed of a large matrix product ({speeds} GFLOP/s); four numbers "
            "per weight, and what the backward pass needs, without what "
            "TensorFlow and XLA take for themselves. The last two plots are of "
            "[scaling.md](scaling.md) and [serving_load.md](serving_load.md), "
            "and of the machines named there; their dotted lines are a time in "
            "proportion to the text, and the speed of so many texts without a "
            "server.\n\n"
            "![growth](growth.png)",
            *lines_of_sizes(rows),
        ],
        results,
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
