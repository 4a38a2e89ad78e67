"""How perplexity falls as the corpus grows.

  python experiments/corpus_size.py --corpora=timemachine.txt,shakespeare.txt

An exercise of D2L chapter 10. Two models of one layer learn from ever longer
beginnings of all texts together, the same share of each text, at one constant
learning rate and for equally many steps: a small corpus many times, a large one
a few times. The last tenth of each text is held out: its first half decides
when to stop, its second half gives the perplexity.

Writes corpus_size.md, .json and .png to --output_dir, and prints the first.
"""

import dataclasses
import math
import pathlib
import sys

import numpy as np
import study
from study import common

from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting

SMALLEST = 16_384  # characters; each size is twice the one before
UNITS = (64, 256)
BATCH, TIME = 32, 64
STEPS = 1_200
EVERY, PATIENCE = 40, 8  # steps between two scores, scores without a better one


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    corpora: str = setting(
        "timemachine,shakespeare", "The texts, separated by commas."
    )


def read(corpora):
    """The tokenizer of all texts, and name -> token ids of each."""
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
    """Trains a model; returns its `Trainer` and its curve."""
    from stacked_rnn import datasets, tasks, training

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
        tasks.LanguageModelTask(
            datasets.LanguageData(tokenizer, windows, None)
        ),
    )
    trainer.total_steps = STEPS
    return trainer, study.fit(trainer, choosing, EVERY, PATIENCE)


def measure(corpora):
    """Trains all models.

    Yields:
        units -> characters -> figures, after each training.
    """
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
            perplexity = results[units][size]["perplexity"]
            print(size, units, perplexity, flush=True, file=sys.stderr)
            yield results


def power_law(row):
    """(factor, exponent) of perplexity = factor x characters ^ exponent."""
    exponent, logarithm = np.polyfit(
        np.log(list(row)),
        np.log([result["perplexity"] for result in row.values()]),
        deg=1,
    )
    return math.exp(logarithm), exponent


def power_law_row(units, row):
    """The cells of the table of power laws for one model."""
    factor, exponent = power_law(row)
    errors = [
        abs(factor * size**exponent / result["perplexity"] - 1)
        for size, result in row.items()
    ]
    (before, size), (worse, best) = [*row][-2:], [*row.values()][-2:]
    last = math.log(best["perplexity"] / worse["perplexity"])
    law, slope = (factor, exponent), last / math.log(size / before)
    return [units, *law, max(errors), 1 - 2**exponent, slope]


def plot(results, report):
    """Draws perplexity by size with the power laws, and by text."""
    with report.plot(13, 5) as figure:
        panels = figure.subplots(1, 2)
        for color, (units, row) in enumerate(results.items()):
            sizes = np.array(list(row))
            factor, exponent = power_law(row)
            texts = [result["by_text"] for result in row.values()]
            perplexities = [result["perplexity"] for result in row.values()]
            law = f"{factor:.1f} x characters^{exponent:.3f}"
            lines = [
                (0, perplexities, "o-", f"{units} units"),
                (0, factor * sizes**exponent, ":", law),
            ]
            for name, style in zip(texts[0], ("o-", "s--", "^:")):
                perplexities = [text[name] for text in texts]
                lines.append((1, perplexities, style, f"{name}, {units} units"))
            for panel, values, style, label in lines:
                panels[panel].plot(
                    sizes, values, style, color=f"C{color}", label=label
                )
        for axes in panels:
            axes.set(
                xscale="log", yscale="log", ylabel="perplexity, held-out text",
                xlabel="characters of training text",
            )  # fmt: skip
            axes.set_xticks(sizes, [f"{size / 1e3:,.0f}k" for size in sizes])
            axes.tick_params(
                "x", which="minor", bottom=False, labelbottom=False
            )
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.grid(which="both", alpha=0.3)
            axes.legend()


def report_lines(results):
    """The lines of the report."""
    sizes = list(results[UNITS[0]])
    names = list(results[UNITS[0]][sizes[0]]["by_text"])
    models = " and ".join(
        f"{units} units ({results[units][sizes[0]]['weights']:,} weights)"
        for units in UNITS
    )
    columns, rows = {"characters": ","}, [[size] for size in sizes]
    for units, row in results.items():
        for what in ("all", *names):
            columns[f"{units} units: {what}"] = ".2f"
        columns[f"{units} units: passes"] = ".1f"
        for cells, result in zip(rows, row.values()):
            by_text = map(result["by_text"].get, names)
            cells += [result["perplexity"], *by_text, result["passes"]]
    return [
        f"GRUs of one layer, {models}; at most {STEPS:,} steps of {BATCH} x "
        f"{TIME} characters. Perplexity of the last twentieth of each text, "
        "and the passes over the training text until the best weights.\n",
        *common.table(columns, rows),
        "\nPower laws through these points, perplexity = factor x "
        "characters^exponent; the exponent between the last two sizes.\n",
        *common.table(
            {
                "units": "", "factor": ".1f", "exponent": ".3f",
                "largest error": ".1%", "less for twice the text": ".1%",
                "last exponent": ".3f",
            },
            [power_law_row(units, row) for units, row in results.items()],
        ),
        "\n![perplexity](corpus_size.png)",
    ]  # fmt: skip


def main(config):
    """Measures, prints and writes the report."""
    title = "Perplexity by the size of the corpus"
    report = common.Report(config, "corpus_size", title)
    for results in measure(config.corpora):
        report.save({"results": results})  # in case of an interruption
    plot(results, report)
    report.write(report_lines(results), {"results": results})


if __name__ == "__main__":
    flags.run(main, StudyConfig)
