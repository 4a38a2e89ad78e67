"""GRU, LSTM and simple RNN by depth and width: how well, and how fast.

  python benchmarks/cells.py --corpus=../shared/data/timemachine.txt
  python benchmarks/cells.py --parts=speed
  python benchmarks/cells.py --parts=accuracy --cells=lstm --shapes=1x128,8x128

An exercise of D2L chapter 10. The part `accuracy` trains every cell in every
shape (depth x width) on equally many tokens of a text, at one constant learning
rate, so that what a run has reached at any time is what a shorter one would
have reached. The part `speed` wants a quiet machine: it times the step of
`Trainer.fit`, and `serving_default` of a `TextGenerator` drawing one text, the
cells in turn.

Writes cells.md, .json, .png and, with speeds, cells_speed.png to --output_dir,
and prints the first. What another run measured and left there stays in the
report, so the parts, cells and shapes may be measured one after the other.
"""

import collections
import dataclasses
import json
import math
import operator
import statistics
import sys

import numpy as np
from measuring import Calm, fit, interleaved, machine, write_report
from training_speed import Work, this_project

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting
from stacked_rnn.utils import terminal

CELLS = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "simple RNN"}
DEPTHS = {f"{depth}x128": depth for depth in (1, 2, 4, 8)}
WIDTHS = {f"1x{units}": units for units in (32, 64, 128, 256, 512, 1024)}
RESIDUAL = {f"{depth}x128+residual": depth for depth in (4, 8)}
SHAPES = tuple(DEPTHS | RESIDUAL | WIDTHS)
BATCH, TIME = 64, 32
EPOCHS = 2
RATE = 0.003
EVERY = 13  # steps between two scores
DRAWN = 64  # tokens of one call of `serving_default`


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    corpus: str = setting("timemachine", "The text, as train.py takes it.")
    parts: str = setting(
        "accuracy",
        "accuracy, speed, both by a comma, or nothing: the report anew.",
    )
    cells: str = setting(",".join(CELLS), "Cells, separated by commas.")
    shapes: str = setting(",".join(SHAPES), "Shapes, separated by commas.")
    repetitions: int = setting(
        3, "Turns of each speed; the median counts.", minimum=1
    )
    seconds: float = setting(0.3, "Length of a turn, about.", minimum=0.0)
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plots."
    )


def model_config(cell, shape, vocabulary_size):
    """The model of a shape such as 4x128 or 4x128+residual."""
    num_layers, units = map(int, shape.partition("+")[0].split("x"))
    return ModelConfig(
        cell=cell,
        num_layers=num_layers,
        units=units,
        residual=shape in RESIDUAL,
        vocabulary_size=vocabulary_size,
    )


# Measuring --------------------------------------------------------------------


def accuracy(cells, shapes, config):
    """Yields (shape, cell, the curve of a training run)."""
    from stacked_rnn import datasets, training

    train_config = TrainConfig(
        corpus=config.corpus,
        batch_size=BATCH,
        sequence_length=TIME,
        epochs=EPOCHS,
        learning_rate=RATE,
        learning_rate_schedule="constant",
    )
    data = datasets.load_language_data(train_config)
    for shape in shapes:
        for cell in cells:
            trainer = training.Trainer(
                model_config(cell, shape, data.tokenizer.vocabulary_size()),
                train_config,
                dataclasses.replace(data, validation=None),
            )
            curve = fit(trainer, data.validation, EVERY)
            yield shape, cell, curve | {"weights": trainer.model.count_params()}


def drawing(config):
    """A function that draws one text from a model of random weights."""
    from stacked_rnn import export, models, tokenizers

    characters = map(chr, range(33, 32 + config.vocabulary_size))
    generator = export.TextGenerator(
        models.build_language_model(config),
        tokenizers.CharTokenizer(["\ufffd", *characters]),
        configs.SamplingConfig(max_new_tokens=DRAWN, temperature=1.0),
    )

    def run(steps):
        for _ in range(steps):
            generator.serving_default(["A"])["texts"].numpy()

    return run


def speed(cells, shapes, config):
    """Yields (shape, cell, tokens a second in training and in drawing)."""
    for shape in shapes:
        runs = {}
        for cell in cells:
            model = model_config(cell, shape, vocabulary_size=65)
            work = Work(model.units, model.num_layers, BATCH, TIME)
            runs["training", cell] = this_project(work, cell)
            runs["drawing", cell] = drawing(model)
        times = interleaved(runs, config.repetitions, config.seconds)
        medians = {name: statistics.median(t) for name, t in times.items()}
        for cell in cells:
            yield (
                shape,
                cell,
                {
                    "training": BATCH * TIME / medians["training", cell],
                    "drawing": DRAWN / medians["drawing", cell],
                },
            )


PARTS = {"accuracy": accuracy, "speed": speed}


# The report -------------------------------------------------------------------


def with_seconds(curves, speeds):
    """The same curves, with the seconds of training until each score.

    Args:
        curves: shape -> cell -> its curve.
        speeds: shape -> cell -> its speeds; where they are missing, the
            curve's own time of a step counts.
    """

    def seconds(shape, cell, curve):
        a_step = curve["seconds_a_step"]
        # Residual connections cost hardly any time.
        if speed := speeds.get(shape.partition("+")[0], {}).get(cell):
            a_step = BATCH * TIME / speed["training"]
        return {"seconds": [a_step * step for step in curve["steps"]]}

    return {
        shape: {c: row[c] | seconds(shape, c, row[c]) for c in row}
        for shape, row in curves.items()
    }


def at_equal_tokens(row):
    """Nats of each cell of a shape at the end."""
    return {cell: curve["nats"][-1] for cell, curve in row.items()}


def at_equal_time(row):
    """Nats of each cell of a shape when the fastest is at its end."""
    end = min(curve["seconds"][-1] for curve in row.values())
    return {
        cell: float(np.interp(end, curve["seconds"], curve["nats"]))
        for cell, curve in row.items()
    }


def table(first, rows):
    """A Markdown table: a column for each cell; rows, name -> cell -> entry."""
    return [
        f"| {first} | " + " | ".join(CELLS.values()) + " |",
        "|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join(row.get(c, "") for c in CELLS) + " |"
            for name, row in rows.items()
        ),
    ]


def shown(nats):
    """Perplexity and bits a character."""
    return f"{math.exp(nats):.2f} ({nats / math.log(2):.2f})"


def conclusions(curves):
    """What the figures say: lines of Markdown."""

    def last(cell, shape):
        return math.exp(curves[shape][cell]["nats"][-1])

    lines = []
    for cell, name in CELLS.items():
        known = [shape for shape in curves if cell in curves[shape]]
        if set(known) == set(SHAPES):
            narrow, *_, wide = WIDTHS
            best = min(WIDTHS, key=lambda shape: last(cell, shape))
            one, eight, residual, least, most, top = (
                f"{last(cell, shape):.2f}"
                for shape in (
                    "1x128", "8x128", "8x128+residual", narrow, wide, best,
                )
            )  # fmt: skip
            lines.append(
                f"- {name}: {one} with one layer of 128 units, {eight} with 8, "
                f"{residual} with 8 and residual connections; {least} with "
                f"{narrow}, {most} with {wide}, the best {top} with {best}."
            )
    for what, nats_of in (
        ("equal tokens", at_equal_tokens),
        ("equal time", at_equal_time),
    ):
        rows = [nats_of(row) for row in curves.values() if len(row) > 1]
        best = collections.Counter(CELLS[min(row, key=row.get)] for row in rows)
        lines.append(
            f"- The best of a shape after {what}: "
            + ", ".join(f"{name} {count}" for name, count in best.items())
            + " times."
        )
    return lines


def accuracy_report(curves, whose):
    """The lines on how good the cells get; whose the seconds are."""

    def rows(nats_of):
        return table(
            "depth x width",
            {
                shape: {c: shown(nats) for c, nats in nats_of(row).items()}
                for shape, row in curves.items()
            },
        )

    steps = max(c["steps"][-1] for row in curves.values() for c in row.values())
    return [
        f"## After {steps * BATCH * TIME:,} tokens\n",
        "Perplexity of the validation text (bits a character); one run each, "
        f"{EPOCHS} passes over the text at a learning rate of {RATE:g} for "
        "all: the beginning of a training.\n",
        *rows(at_equal_tokens),
        "\n## After equal time\n",
        "The same in each row when its fastest cell is through; the seconds "
        f"are those of {whose}.\n",
        *rows(at_equal_time),
        "",
        *conclusions(curves),
        "\n![perplexity](cells.png)",
    ]


def speed_report(speeds):
    """The lines on how fast they are."""
    lines = []
    for part, what in (
        ("training", f"a training step of {BATCH} x {TIME} tokens"),
        ("drawing", "one text"),
    ):
        lines += [
            f"\n## Tokens a second, {what}\n",
            *table(
                "depth x width",
                {
                    shape: {c: f"{row[c][part]:,.0f}" for c in row}
                    for shape, row in speeds.items()
                },
            ),
        ]
    return [*lines, "\n![speed](cells_speed.png)"]


def lines_of(axes, rows, sizes, value, style="o-", suffix=""):
    """Draws a line for each cell: a value of each shape against its size."""
    for color, (cell, name) in enumerate(CELLS.items()):
        known = [s for s in sizes if cell in rows.get(s, {})]
        axes.plot(
            [sizes[shape] for shape in known],
            [value(rows[shape][cell]) for shape in known],
            style,
            color=f"C{color}",
            label=name + suffix,
        )


def finish(axes, sizes, xlabel, **settings):
    """Ticks at the sizes, on logarithmic axes."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, **settings)
    axes.set_xticks(list(sizes.values()), sizes.values())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter("{x:,g}")
    axes.tick_params("x", which="minor", bottom=False, labelbottom=False)
    axes.tick_params("y", which="minor", labelsize="x-small")
    axes.grid(alpha=0.3)


def draw_accuracy(curves, path):
    """Perplexity by depth, by width, and on the way, as a PNG."""
    from matplotlib import pyplot

    def last(curve):
        return math.exp(curve["nats"][-1])

    figure, panels = pyplot.subplots(1, 3, figsize=(17, 4.8))
    lines_of(panels[0], curves, DEPTHS, last)
    lines_of(panels[0], curves, RESIDUAL, last, "s--", ", residual")
    finish(
        panels[0], DEPTHS, "layers of 128 units",
        ylabel="perplexity of the validation text",
    )  # fmt: skip
    lines_of(panels[1], curves, WIDTHS, last)
    finish(panels[1], WIDTHS, "units of one layer")
    for color, (cell, name) in enumerate(CELLS.items()):
        for shape, style in (
            ("1x128", "-"),
            ("1x512", "--"),
            ("8x128+residual", ":"),
        ):
            if curve := curves.get(shape, {}).get(cell):
                panels[2].plot(
                    curve["seconds"], np.exp(curve["nats"]), style,
                    color=f"C{color}", label=f"{name} {shape}",
                )  # fmt: skip
    panels[2].set(xlabel="seconds of training", xscale="log", yscale="log")
    for axis in (panels[2].xaxis, panels[2].yaxis):
        axis.set_major_formatter("{x:g}")
    panels[2].yaxis.set_minor_formatter("{x:g}")
    panels[2].grid(alpha=0.3)
    for axes in panels[:2]:
        axes.legend(fontsize="small")
    panels[2].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_speed(speeds, path):
    """Speed of training and drawing by depth and by width, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(12, 8))
    for row, part in zip(panels, ("training", "drawing")):
        for axes, sizes, xlabel in (
            (row[0], DEPTHS, "layers of 128 units"),
            (row[1], WIDTHS, "units of one layer"),
        ):
            lines_of(axes, speeds, sizes, operator.itemgetter(part))
            finish(axes, sizes, xlabel, ylabel=f"{part}, tokens a second")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def chosen(flag, given, known):
    """The names that a flag gives, in the order of those that are known."""
    given = list(filter(None, given.split(",")))
    if unknown := sorted(set(given) - set(known)):
        raise UserError(
            f"--{flag}: no {', '.join(unknown)} among {', '.join(known)}"
        )
    return [name for name in known if name in given]


def main(config):
    """Measures, prints and writes the report."""
    parts = chosen("parts", config.parts, PARTS)
    cells = chosen("cells", config.cells, CELLS)
    shapes = chosen("shapes", config.shapes, SHAPES)
    output = terminal.writable_directory("output_dir", config.output_dir)
    results = {part: {shape: {} for shape in SHAPES} for part in PARTS}
    stolen = {}
    before = output / "cells.json"
    if before.exists():
        saved = json.loads(before.read_text())
        stolen |= saved["stolen"]
        for part in PARTS:
            results[part] |= saved[part]
    for part in parts:
        calm = Calm()
        if part == "speed":
            shapes = [shape for shape in shapes if shape not in RESIDUAL]
        for shape, cell, result in PARTS[part](cells, shapes, config):
            results[part][shape][cell] = result
            print(part, shape, cell, flush=True, file=sys.stderr)
        stolen[part] = str(calm)
    results = {
        part: {shape: row for shape, row in rows.items() if row}
        for part, rows in results.items()
    }
    report = [
        "# Cells by depth and width\n",
        "; ".join(
            [machine(), *(f"{part}: {calm}" for part, calm in stolen.items())]
        )
        + ".\n",
    ]
    curves, speeds = results["accuracy"], results["speed"]
    if curves:
        curves = with_seconds(curves, speeds)
        draw_accuracy(curves, output / "cells.png")
        report += accuracy_report(
            curves, "the part `speed`" if speeds else "these runs themselves"
        )
    if speeds:
        draw_speed(speeds, output / "cells_speed.png")
        report += speed_report(speeds)
    write_report(output, "cells", report, results | {"stolen": stolen})


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
