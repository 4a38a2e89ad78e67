"""Draws docs/images/speed.svg from benchmarks/results/training_speed.json."""

import json
import pathlib

from matplotlib import figure, rcParams

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/training_speed.json"
CONTENDERS = {
    "stacked_rnn": "#1b6ca8",
    "best stock Keras": "#e09f3e",
    "PyTorch": "#9a9a9a",
}


def main():
    """Bars of each model's speed, PyTorch's being 1."""
    results = json.loads(RESULTS.read_text())["results"]
    rcParams["svg.hashsalt"] = "the same file every time"
    picture = figure.Figure(figsize=(8, 2.8), layout="constrained")
    axes = picture.subplots()
    width = 0.8 / len(CONTENDERS)
    for number, (name, color) in enumerate(CONTENDERS.items()):
        ratios = [
            work["tokens_per_second"][name]
            / work["tokens_per_second"]["PyTorch"]
            for work in results.values()
        ]
        places = [index + number * width for index in range(len(ratios))]
        axes.bar(places, ratios, width, label=name, color=color)
    axes.set_xticks(
        [index + width for index in range(len(results))],
        [name.replace(" ", "\n") for name in results],
    )
    axes.set_ylabel("speed (PyTorch = 1)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", ncols=len(CONTENDERS), frameon=False)
    axes.set_ylim(0, 2.3)
    picture.savefig(ROOT / "docs/images/speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
