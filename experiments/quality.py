"""Nats per character of the recipes, beside other programs.

  python experiments/quality.py --corpus=shakespeare --recipes=default
  python experiments/quality.py --seeds=1,2,3

Trains each recipe with train.py, in a process of its own, on the first nine
tenths of a text, and scores the last tenth with evaluate.py: one pass from its
beginning to its end, the state carried. The time is that of the whole command,
from its start to the exported model. Nothing was chosen by looking at the last
tenth.

Writes quality.md, .json and .png to --output_dir, and prints the first.
"""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import study
from study import common

from stacked_rnn.cli import flags
from stacked_rnn.configs import setting

ROOT = pathlib.Path(__file__).parents[1]
# Name -> flag file of the recipes that train a language model.
RECIPES = {
    path.stem: path
    for path in sorted((ROOT / "recipes").glob("*.flags"))
    if "\n--task=" not in path.read_text(encoding="utf-8")
}
# Other programs on tiny Shakespeare, the same last tenth, two CPU cores:
# minutes of training, and nats per character of a full pass. Measured once, on
# a machine whose matmuls in float32 take 400 to 450 GFLOP/s.
OTHERS = {
    "nanoGPT, its README's CPU settings": {
        0.46: 2.1905, 0.92: 2.0089, 1.38: 1.8921, 1.83: 1.8857,
    },
    "char-rnn's defaults in PyTorch, LSTM 2x128": {
        0.5: 2.0456, 1.0: 1.8255, 1.5: 1.7116, 2.0: 1.6356, 2.5: 1.5905,
        3.0: 1.5808, 3.5: 1.5548,
    },
    "PyTorch LSTM 2x512, regularized": {
        2.5: 1.5816, 5.0: 1.4836, 7.5: 1.4513, 10.0: 1.4354, 12.5: 1.4304,
        15.0: 1.4245,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    corpus: str = setting(
        "shakespeare", "The text: a file, or a name that train.py knows."
    )
    recipes: str = setting(
        "default,shakespeare_8min",
        "Names of files in recipes/ for language models, separated by commas; "
        "default is train.py with no flag but --corpus.",
    )
    seeds: str = setting("1", "Seeds of the runs, separated by commas.")
    dynamic_rate: float = setting(
        0.0, "Score with dynamic evaluation, too, at this rate (0: do not)."
    )


def split(corpus, directory):
    """Writes the first nine tenths of a text, and the rest, to two files."""
    from stacked_rnn import datasets
    from stacked_rnn.configs import TrainConfig

    pieces = datasets.open_corpus(TrainConfig(corpus=corpus)).pieces()
    text = b"".join(pieces).decode()
    cut = int(0.9 * len(text))
    paths = directory / "learned.txt", directory / "new.txt"
    for path, part in zip(paths, (text[:cut], text[cut:])):
        path.write_text(part, encoding="utf-8")
    return paths


def run(script, *arguments):
    """Runs a script of the project; returns its output and seconds.

    Raises:
        UserError: it failed.
    """
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, ROOT / script, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise common.failure(script, ran.returncode, ran.stderr)
    return ran.stdout, time.perf_counter() - started


def measure(recipe, seed, learned, new, directory, dynamic_rate):
    """Trains with a recipe and scores the rest of the text."""
    model, model_dir = directory / "model", directory / "run"
    for path in (model, model_dir):
        shutil.rmtree(path, ignore_errors=True)
    recipe_flags = []
    if recipe != "default":
        recipe_flags = [f"--flagfile={RECIPES[recipe]}"]
    output, seconds = run(
        "train.py", *recipe_flags, f"--corpus={learned}", f"--seed={seed}",
        f"--model_dir={model_dir}", f"--export_dir={model}",
    )  # fmt: skip

    def score(*more):
        found, _ = run(
            "evaluate.py", f"--saved_model={model}", f"--text={new}", *more
        )
        return json.loads(found)["bits_per_character"] * math.log(2)

    result = {
        "recipe": recipe, "seed": seed, "minutes": seconds / 60,
        "nats": score(), "curve": curve(output),
        "at temperature": score(f"--temperature={temperature(model)}"),
    }  # fmt: skip
    if dynamic_rate:
        result["dynamic"] = score(
            f"--dynamic_rate={dynamic_rate}", f"--training_text={learned}"
        )
    print(result, file=sys.stderr, flush=True)
    return result


def temperature(model):
    """The softmax temperature that suits the validation text of a model."""
    from stacked_rnn import saved_models

    description = saved_models.find_description(str(model))
    found = description.training.get("softmax_temperature", {})
    return found.get("temperature", 1.0)


def curve(output):
    """Reads (minutes, validation loss) per epoch of a run that is timed."""
    pattern = r"val_loss ([\d.]+).*?(\d+):(\d\d) of"
    return [
        (int(minutes) + int(seconds) / 60, float(loss))
        for loss, minutes, seconds in re.findall(pattern, output)
    ]


def plot(results, others, report):
    """Draws the loss by minutes: the runs' validation, and other programs."""
    with report.plot(8, 5) as figure:
        axes = figure.subplots()
        recipes = [*dict.fromkeys(result["recipe"] for result in results)]
        for index, recipe in enumerate(recipes):
            runs = [one for one in results if one["recipe"] == recipe]
            for result in runs:
                axes.plot(
                    *zip(*result["curve"]), color=f"C{index}", alpha=0.5,
                    linewidth=0.7,
                )  # fmt: skip
            axes.plot(
                [result["minutes"] for result in runs],
                [result["nats"] for result in runs],
                "o", color=f"C{index}", label=recipe,
            )  # fmt: skip
        axes.plot([], [], color="C0", alpha=0.5, linewidth=0.7,
                  label="their validation text, which is easier")  # fmt: skip
        for (name, points), style in zip(others.items(), (":", "--", "-.")):
            axes.plot(
                points.keys(), points.values(), style, color="gray", label=name
            )
        axes.set(
            xscale="log", xlabel="minutes on two CPU cores",
            ylabel="nats per character",
        )  # fmt: skip
        if others:  # whose beginnings would take most of the plot
            axes.set_ylim(1.2, 2.1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize="small")


def report_lines(config, results, rate):
    """The lines of the report."""
    columns = {
        "recipe": "", "minutes": ".1f", "nats": ".4f", "seeds": "",
        "at temperature": ".4f",
    }  # fmt: skip
    if config.dynamic_rate:
        columns["dynamic evaluation"] = ".4f"
    rows = []
    for recipe in dict.fromkeys(result["recipe"] for result in results):
        group = [result for result in results if result["recipe"] == recipe]
        row = [
            recipe,
            statistics.mean(result["minutes"] for result in group),
            statistics.mean(result["nats"] for result in group),
            ", ".join(f"{result['nats']:.4f}" for result in group),
            statistics.mean(result["at temperature"] for result in group),
        ]
        if config.dynamic_rate:
            row.append(statistics.mean(result["dynamic"] for result in group))
        rows.append(row)
    return [
        f"{pathlib.Path(config.corpus).name}: nats per character of the last "
        "tenth, and the time of the whole command. Matmuls in float32 and "
        "bfloat16 took "
        f"{rate[0] / 1e9:.0f} and {rate[1] / 1e9:.0f} GFLOP/s at the start.\n",
        *common.table(columns, rows),
        "\n![nats per character by minutes](quality.png)\n",
        "At temperature: the logits divided by what suited the validation text "
        "best. Points, and the gray lines of other programs, if any: the last "
        "tenth. Thin lines: the validation text of the runs, blocks from all "
        "over the training text, which is easier.",
    ]


def main(config):
    """Measures, prints and writes the report."""
    from stacked_rnn.training import sizing

    recipes = common.choices("recipes", config.recipes, ("default", *RECIPES))
    report = common.Report(config, "quality", "Nats per character")
    rate = sizing.matmul_rates()
    results = []
    others = OTHERS if config.corpus == "shakespeare" else {}
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        parts = split(config.corpus, directory)
        for recipe in recipes:
            for seed in common.numbers("seeds", config.seeds):
                results.append(
                    measure(
                        recipe, seed, *parts, directory, config.dynamic_rate
                    )
                )
                report.save({"results": results})  # in case of an interruption
    plot(results, others, report)
    report.write(report_lines(config, results, rate), {"results": results})


if __name__ == "__main__":
    flags.run(main, StudyConfig)
