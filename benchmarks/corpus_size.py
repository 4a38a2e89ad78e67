"""How low perplexity goes as the corpus grows.

  python benchmarks/corpus_size.py \
      --corpora=../shared/data/timemachine.txt,../shared/data/tinyshakespeare.txt

An exercise of D2L chapter 10. Two models of one layer learn from ever longer
beginnings of all texts together, each text by the same share, at one constant
learning rate, for equally many steps: the small corpora often, the large ones a
few times. The last tenth of each text is held out: the first half of it chooses
when to stop, the second tells the perplexity.

Writes corpus_size.md, .json and .png to --output_dir, and prints the first.
"""

import dataclasses
import math
import pathlib
import sys

import numpy as np
from measuring import Calm, fit, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting
from stacked_rnn.utils import terminal

SMALLEST = 16_384  # characters; each size is twice the one before
UNITS = (64, 256)
BATCH, TIME = 32, 64
STEPS = 1_200
EVERY, PATIENCE = 40, 8  # steps between two scores, scores without a better one


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    corpora: str = setting(
        "timemachine,shakespeare", "The texts, separated by commas."
    )
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plot."
    )


def read(corpora):
    """The tokenizer of all texts, and the token ids of each by its name."""
    from stacked_rnn import datasets

    def load(corpus, tokenizer=None):
        return datasets.load_language_data(
            TrainConfig(corpus=corpus, validation_fraction=0.0),
            tokenizer=tokenizer,
        )

    tokenizer = load(corpora).tokenizer
    return tokenizer, {
        pathlib.Path(corpus).stem: load(corpus, tokenizer).training.token_ids
        for corpus in corpora.split(",")
    }


def train(units, tokenizer, token_ids, choosing):
    """A `Trainer` that has been through, and its curve."""
    from stacked_rnn import datasets, training

    windows = datasets.RandomWindows(token_ids, TIME, BATCH)
    trainer = training.Trainer(
        ModelConfig(
            units=units,
            num_layers=1,
            vocabulary_size=tokenizer.vocabulary_size(),
        ),
        TrainConfig(
            batch_size=BATCH,
            epochs=-(-STEPS // windows.steps_per_epoch),
            learning_rate=0.003,
            learning_rate_schedule="constant",
        ),
        datasets.LanguageData(tokenizer, windows, None),
    )
    trainer.total_steps = STEPS
    return trainer, fit(trainer, choosing, EVERY, PATIENCE)


def measure(corpora):
    """units -> characters -> what came of it, and the names of the texts."""
    from stacked_rnn import datasets

    def streams(token_ids):
        return datasets.Streams(token_ids, TIME, batch_size=8)

    tokenizer, books = read(corpora)
    cuts = {
        name: np.split(book, [int(0.9 * len(book)), int(0.95 * len(book))])
        for name, book in books.items()
    }
    choosing = streams(np.concatenate([cut[1] for cut in cuts.values()]))
    tests = {name: streams(cut[2]) for name, cut in cuts.items()}
    total = sum(len(cut[0]) for cut in cuts.values())
    doublings = int(math.log2(total / SMALLEST))
    sizes = [*(SMALLEST * 2**n for n in range(doublings)), total]
    results = {units: {} for units in UNITS}
    for size in sizes:
        token_ids = np.concatenate(
            [cut[0][: size * len(cut[0]) // total] for cut in cuts.values()]
        )
        for units in UNITS:
            trainer, curve = train(units, tokenizer, token_ids, choosing)
            scores = {n: trainer.evaluate(test) for n, test in tests.items()}
            nats = sum(score.nats for score in scores.values())
            tokens = sum(score.tokens for score in scores.values())
            best = curve["steps"][int(np.argmin(curve["nats"]))]
            results[units][size] = {
                "perplexity": math.exp(nats / tokens),
                "by_text": {n: s.perplexity for n, s in scores.items()},
                "best_step": best,
                "passes": best * BATCH * TIME / len(token_ids),
                "weights": trainer.model.count_params(),
                "curve": curve,
            }
            print(
                size, units, results[units][size]["perplexity"],
                flush=True, file=sys.stderr,
            )  # fmt: skip
    return results


def power_law(row):
    """(factor, exponent) of perplexity = factor x characters ^ exponent."""
    exponent, logarithm = np.polyfit(
        np.log(list(row)),
        np.log([result["perplexity"] for result in row.values()]),
        deg=1,
    )
    return math.exp(logarithm), exponent


def conclusion(units, row):
    """What the power law says of one model, and where it does not hold."""
    factor, exponent = power_law(row)
    errors = [
        factor * size**exponent / result["perplexity"] - 1
        for size, result in row.items()
    ]
    (before, size), (worse, best) = [*row][-2:], [*row.values()][-2:]
    last = math.log(best["perplexity"] / worse["perplexity"])
    return (
        f"- {units} units: perplexity = {factor:.1f} x "
        f"characters^{exponent:.3f}, within "
        f"{100 * max(map(abs, errors)):.1f} % of every point: a text twice as "
        f"long has {100 * (1 - 2**exponent):.1f} % less. From {before:,} to "
        f"{size:,} characters the exponent is "
        f"{last / math.log(size / before):.3f}."
    )


def draw(results, path):
    """Perplexity by size and the power laws, and by text, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 5))
    for color, (units, row) in enumerate(results.items()):
        sizes = np.array(list(row))
        factor, exponent = power_law(row)
        panels[0].plot(
            sizes, [result["perplexity"] for result in row.values()], "o-",
            color=f"C{color}", label=f"{units} units",
        )  # fmt: skip
        panels[0].plot(
            sizes, factor * sizes**exponent, ":", color=f"C{color}",
            label=f"{factor:.1f} x characters^{exponent:.3f}",
        )  # fmt: skip
        texts = [result["by_text"] for result in row.values()]
        for name, style in zip(texts[0], ("o-", "s--", "^:")):
            panels[1].plot(
                sizes, [text[name] for text in texts], style,
                color=f"C{color}", label=f"{name}, {units} units",
            )  # fmt: skip
    for axes in panels:
        axes.set(
            xscale="log", yscale="log", xlabel="characters of training text",
            ylabel="perplexity of the text held out",
        )  # fmt: skip
        axes.set_xticks(sizes, [f"{size / 1e3:,.0f}k" for size in sizes])
        axes.tick_params("x", which="minor", bottom=False, labelbottom=False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(config):
    """Measures, prints and writes the report."""
    output = terminal.writable_directory("output_dir", config.output_dir)
    calm = Calm()
    results = measure(config.corpora)
    draw(results, output / "corpus_size.png")
    sizes = list(results[UNITS[0]])
    names = list(results[UNITS[0]][sizes[0]]["by_text"])
    weights = [results[units][sizes[0]]["weights"] for units in UNITS]
    columns = [
        f"{units} units: {what}"
        for units in UNITS
        for what in ("all", *names, "passes")
    ]
    report = [
        f"# Perplexity by the size of the corpus\n\n{machine()}; {calm}.\n",
        "GRUs of one layer, "
        + " and ".join(
            f"{units} units ({count:,} weights)"
            for units, count in zip(UNITS, weights)
        )
        + f"; at most {STEPS:,} steps of {BATCH} x {TIME} characters. "
        "Perplexity of the last twentieth of each text, and the passes over "
        "the training text until the best weights.\n",
        "| characters | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for size in sizes:
        entries = []
        for units in UNITS:
            result = results[units][size]
            entries += [f"{result['perplexity']:.2f}"]
            entries += [f"{result['by_text'][name]:.2f}" for name in names]
            entries += [f"{result['passes']:.1f}"]
        report.append(f"| {size:,} | " + " | ".join(entries) + " |")
    report += [
        "",
        *(conclusion(units, row) for units, row in results.items()),
        "\n![perplexity](corpus_size.png)",
    ]
    write_report(output, "corpus_size", report, {"results": results})


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
