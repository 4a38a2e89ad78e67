"""GRU, LSTM and simple RNN by depth and width: how well, and how fast.

  python experiments/cells.py --corpus=timemachine.txt
  python experiments/cells.py --parts=speed
  python experiments/cells.py --parts=accuracy --cells=lstm --shapes=1x128,8x128

An exercise of D2L chapter 10. The part `accuracy` trains every cell in every
shape (depth x width) on equally many tokens of a text, at one constant learning
rate: every point of a curve is then the end of a shorter run. The part `speed`
needs a quiet machine: it times the step of `Trainer.fit`, and `serving_default`
of a `TextGenerator` that draws one text, the cells in turn.

Writes cells.md, .json and .png to --output_dir, and prints the first. The
report keeps what earlier runs on the same text left there, so the parts, cells
and shapes may be measured one after the other.
"""

import dataclasses
import math
import pathlib
import statistics
import sys

import numpy as np
import study
from study import common
from training_speed import Work, this_project

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting

CELLS = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "simple RNN"}
DEPTHS = {f"{depth}x128": depth for depth in (1, 2, 4, 8)}
WIDTHS = {f"1x{units}": units for units in (32, 64, 128, 256, 512, 1024)}
RESIDUAL = {f"{depth}x128+residual": depth for depth in (4, 8)}
SHAPES = tuple(DEPTHS | RESIDUAL | WIDTHS)
CURVES = {"1x128": "-", "1x512": "--", "8x128+residual": ":"}
BATCH, TIME = 64, 32
EPOCHS = 2
RATE = 0.003
EVERY = 13  # steps between two scores
DRAWN = 64  # tokens of one call of `serving_default`


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    corpus: str = setting("timemachine", "The text, as for train.py.")
    parts: str = setting(
        "accuracy",
        "accuracy, speed, both with a comma, or nothing: only write the report "
        "again.",
    )
    cells: str = setting(",".join(CELLS), "Cells, separated by commas.")
    shapes: str = setting(",".join(SHAPES), "Shapes, separated by commas.")
    repetitions: int = setting(
        3, "Turns of each speed; the median counts.", minimum=1
    )
    seconds: float = setting(0.3, "Approximate length of a turn.", minimum=0.0)


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
    from stacked_rnn import datasets, tasks, training

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
                tasks.LanguageModelTask(
                    dataclasses.replace(data, validation=None)
                ),
            )
            curve = study.fit(trainer, data.validation, EVERY)
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


def medians_in_turn(runs, repetitions, seconds):
    """Median seconds per step of functions of this process, run in turn.

    For this project beside itself; rivals run in benchmarks/contenders.py.

    Args:
        runs: name -> function that runs a number of steps.
        repetitions: turns of each.
        seconds: approximate length of a turn.
    """
    steps, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        run(2)  # builds, compiles
        steps[name] = common.steps_for(run, seconds)
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(common.timed(run, steps[name]) / steps[name])
    return {name: statistics.median(turns) for name, turns in times.items()}


def speed(cells, shapes, config):
    """Yields (shape, cell, tokens per second in training and in drawing)."""
    for shape in shapes:
        if shape in RESIDUAL:  # such connections cost hardly any time
            continue
        runs = {}
        for cell in cells:
            model = model_config(cell, shape, vocabulary_size=65)
            work = Work(model.units, model.num_layers, BATCH, TIME)
            runs["training", cell] = this_project(work, cell)
            runs["drawing", cell] = drawing(model)
        seconds = medians_in_turn(runs, config.repetitions, config.seconds)
        for cell in cells:
            yield (
                shape,
                cell,
                {
                    "training": BATCH * TIME / seconds["training", cell],
                    "drawing": DRAWN / seconds["drawing", cell],
                },
            )


PARTS = {"accuracy": accuracy, "speed": speed}


# The report -------------------------------------------------------------------


def with_seconds(curves, speeds):
    """Adds the seconds of training until each score to the curves.

    Args:
        curves: shape -> cell -> its curve.
        speeds: shape -> cell -> its speeds; where they are missing, the
            curve's own time per step counts.
    """

    def seconds(shape, cell, curve):
        per_step = curve["seconds_a_step"]
        if speed := speeds.get(shape.partition("+")[0], {}).get(cell):
            per_step = BATCH * TIME / speed["training"]
        return {"seconds": [per_step * step for step in curve["steps"]]}

    return {
        shape: {c: row[c] | seconds(shape, c, row[c]) for c in row}
        for shape, row in curves.items()
    }


def at_equal_tokens(row):
    """The last nats of each cell of a shape."""
    return {cell: curve["nats"][-1] for cell, curve in row.items()}


def at_equal_time(row):
    """The nats of each cell of a shape when the fastest cell ends."""
    end = min(curve["seconds"][-1] for curve in row.values())
    return {
        cell: float(np.interp(end, curve["seconds"], curve["nats"]))
        for cell, curve in row.items()
    }


def table(rows, show):
    """The lines of a table with a column for each cell.

    Args:
        rows: shape -> figures of the cells.
        show: figures of the cells -> cell -> what is shown.
    """
    shown = {shape: show(row) for shape, row in rows.items()}
    return common.table(
        {"depth x width": ""} | dict.fromkeys(CELLS.values(), ",.0f"),
        [[shape, *map(row.get, CELLS)] for shape, row in shown.items()],
    )


def accuracy_lines(curves, source):
    """The lines on perplexity; source says whose the seconds are."""

    def perplexities(nats_of):
        return lambda row: {
            cell: f"{math.exp(nats):.2f} ({nats / math.log(2):.2f})"
            for cell, nats in nats_of(row).items()
        }

    steps = max(c["steps"][-1] for row in curves.values() for c in row.values())
    return [
        f"## After {steps * BATCH * TIME:,} tokens\n",
        "Perplexity of the validation text (bits per character); one run each, "
        f"{EPOCHS} passes over the text at a learning rate of {RATE:g} for "
        "all: the beginning of a training.\n",
        *table(curves, perplexities(at_equal_tokens)),
        "\n## After equal time\n",
        "The same at the time when the fastest cell of the row ends; seconds "
        f"as measured by {source}.\n",
        *table(curves, perplexities(at_equal_time)),
        "\n![perplexity](cells.png)",
    ]


def speed_lines(speeds):
    """The lines on speed."""
    lines = []
    for part, what in (
        ("training", f"a training step of {BATCH} x {TIME} tokens"),
        ("drawing", "one text"),
    ):
        lines += [
            f"\n## Tokens per second, {what}\n",
            *table(
                speeds, lambda row, part=part: {c: row[c][part] for c in row}
            ),
        ]
    return lines


def plot(curves, report):
    """Draws perplexity by depth, by width, and by seconds of training."""
    with report.plot(17, 4.8) as figure:
        panels = figure.subplots(1, 3)
        for color, (cell, name) in enumerate(CELLS.items()):
            for axes, sizes, style, label in (
                (panels[0], DEPTHS, "o-", name),
                (panels[0], RESIDUAL, "s--", f"{name}, residual"),
                (panels[1], WIDTHS, "o-", name),
            ):
                last = {
                    size: math.exp(curves[shape][cell]["nats"][-1])
                    for shape, size in sizes.items()
                    if cell in curves.get(shape, {})
                }
                if last:
                    axes.plot(
                        last.keys(), last.values(), style, color=f"C{color}",
                        label=label,
                    )  # fmt: skip
            for shape, style in CURVES.items():
                if curve := curves.get(shape, {}).get(cell):
                    panels[2].plot(
                        curve["seconds"], np.exp(curve["nats"]), style,
                        color=f"C{color}", label=f"{name} {shape}",
                    )  # fmt: skip
        xlabels = "layers of 128 units", "units of one layer", "seconds"
        for axes, xlabel in zip(panels, xlabels):
            if not axes.lines:  # which logarithmic axes cannot show
                continue
            axes.set(xscale="log", yscale="log", xlabel=xlabel)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="x-small")
        for axes, sizes in zip(panels, (DEPTHS, WIDTHS)):
            axes.set_xticks(list(sizes.values()), sizes.values())
            axes.tick_params(
                "x", which="minor", bottom=False, labelbottom=False
            )
        panels[0].set_ylabel("perplexity of the validation text")


def check_same(results, config):
    """Records the settings of the runs; those before had the same.

    Raises:
        UserError: they had others.
    """
    settings = {
        "corpus": pathlib.Path(config.corpus).stem,
        "epochs": EPOCHS,
        "learning_rate": RATE,
    }
    before = results.setdefault("settings", settings)
    if before != settings:
        raise UserError(
            f"--corpus={config.corpus}: the runs in {config.output_dir} had "
            f"{before}, not {settings}: take another --output_dir"
        )


def main(config):
    """Measures, prints and writes the report."""
    parts = common.choices("parts", config.parts, PARTS)
    cells = common.choices("cells", config.cells, CELLS)
    shapes = common.choices("shapes", config.shapes, SHAPES)
    report = common.Report(config, "cells", "Cells by depth and width")
    results = {part: {} for part in PARTS} | {"stolen": {}} | report.saved()
    if "accuracy" in parts:
        check_same(results, config)
    if parts:
        results.pop("machine", None)
    for part in parts:
        calm = common.Calm()
        for shape, cell, result in PARTS[part](cells, shapes, config):
            results[part].setdefault(shape, {})[cell] = result
            results["stolen"][part] = str(calm)
            report.save(results)  # in case of an interruption
            print(part, shape, cell, flush=True, file=sys.stderr)
    for part in PARTS:
        rows = results[part]
        results[part] = {s: rows[s] for s in SHAPES if s in rows}
    report.calm = "; ".join(": ".join(c) for c in results["stolen"].items())
    lines, speeds = [], results["speed"]
    if results["accuracy"]:
        curves = with_seconds(results["accuracy"], speeds)
        plot(curves, report)
        source = "the part `speed`" if speeds else "these runs themselves"
        lines += accuracy_lines(curves, source)
    if speeds:
        lines += speed_lines(speeds)
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, StudyConfig)
