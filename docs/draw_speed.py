"""Draws docs/images/speed.svg from benchmarks/results/training_speed.json."""

import json
import pathlib
import sys

from matplotlib import figure, rcParams

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/training_speed.json"
CONTENDERS = {
    "stacked_rnn": "#1b6ca8",
    "stock Keras": "#e09f3e",
    "Keras on JAX": "#f2cc8f",
    "PyTorch": "#9a9a9a",
    "JAX/Flax": "#5a9367",
    "MXNet": "#c9ada7",
}


def base_of(speeds):
    """The contender whose speed is 1: PyTorch, or without it stacked_rnn.

    Args:
        speeds: work -> contender -> tokens per second.
    """
    for name in ("PyTorch", "stacked_rnn"):
        if all(name in row for row in speeds.values()):
            return name
    sys.exit(f"{RESULTS}: neither PyTorch nor stacked_rnn was measured in all")


def draw(speeds, path):
    """Draws bars of the contenders that were measured.

    Args:
        speeds: work -> contender -> tokens per second.
        path: of the SVG.
    """
    base = base_of(speeds)
    names = [
        name
        for name in CONTENDERS
        if any(name in row for row in speeds.values())
    ]
    rcParams["svg.hashsalt"] = "the same file every time"
    picture = figure.Figure(figsize=(8, 2.8), layout="constrained")
    axes = picture.subplots()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        axes.bar(
            [index + number * width for index in range(len(speeds))],
            [row.get(name, 0.0) / row[base] for row in speeds.values()],
            width,
            label=name,
            color=CONTENDERS[name],
        )
    axes.set_xticks(
        [index + 0.4 - width / 2 for index in range(len(speeds))],
        [work.replace(" ", "\n") for work in speeds],
    )
    axes.set_ylabel(f"speed ({base} = 1)")
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside upper right", ncols=len(names), frameon=False)
    picture.savefig(path, metadata={"Date": None})


def main():
    """Draws the speeds of the last report."""
    results = json.loads(RESULTS.read_text())["results"]
    speeds = {work: row["tokens_per_second"] for work, row in results.items()}
    draw(speeds, ROOT / "docs/images/speed.svg")


if __name__ == "__main__":
    main()
