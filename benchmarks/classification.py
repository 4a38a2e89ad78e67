r"""How good a classifier gets on little labelled text, beside a linear one.

  python benchmarks/classification.py --corpus='../shared/data/rt-polarity.*'
  python benchmarks/classification.py --corpus=mine.tsv --seeds=5
  python benchmarks/classification.py --corpus=made_languages \
    --flagfile=recipes/short_strings.flags

For each seed a tenth of each class is for the test, and nothing else sees it;
train.py's classifier, with its defaults or the flags given here, chooses its
best epoch by a tenth of the rest. The other one is scikit-learn's: logistic
regression over TF-IDF, of words and pairs of words, or, with --tokenizer=char,
of one to five characters; it learns from all the rest.

Writes classification_CORPUS.md and .json to --output_dir, and prints the first.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time

import made_languages
import numpy as np
from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting
from stacked_rnn.utils import terminal

WORDS = 20_000  # of the made languages


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    seeds: int = setting(3, "Splits, and runs.", minimum=1)
    output_dir: str = setting(
        str(pathlib.Path(__file__).parent / "results"), "For the report."
    )


def name_of(corpus):
    """Of the report."""
    return pathlib.Path(corpus).name.split(".")[0].replace("-", "_")


def split(read, seed):
    """(training, test) of `LabelledTexts`, of each class the same part."""
    from stacked_rnn import datasets

    rng = np.random.default_rng(seed)
    names = np.array([names[0] for names in read.labels])
    is_test = np.zeros(len(names), bool)
    for name in np.unique(names):
        rows = rng.permutation(np.flatnonzero(names == name))
        is_test[rows[: len(rows) // 10]] = True
    return tuple(
        datasets.LabelledTexts(
            [read.texts[row] for row in np.flatnonzero(chosen)],
            [read.labels[row] for row in np.flatnonzero(chosen)],
        )
        for chosen in (~is_test, is_test)
    )


def result_of_this_project(rest, test, model_config, train_config, scratch):
    """What it comes to on the test, and seconds of training."""
    from stacked_rnn import inference, tasks, training
    from stacked_rnn.training.warm_start import WarmStart

    corpus = pathlib.Path(scratch, "rest.jsonl")
    with open(corpus, "w", encoding="utf-8") as file:
        for text, (label,) in zip(rest.texts, rest.labels):
            print(json.dumps({"text": text, "label": label}), file=file)
    started = time.perf_counter()
    train_config = dataclasses.replace(
        train_config, corpus=str(corpus), text_field="text", label_field="label"
    )
    task = tasks.ClassifierTask(WarmStart(model_config, train_config))
    trainer = training.Trainer(
        task.model_config, train_config, task.data, pathlib.Path(scratch, "run")
    )
    trainer.fit(verbose=0)
    seconds = time.perf_counter() - started
    product = task.product(trainer.best_model())
    task.finish(product)
    version = product.save(f"{scratch}/model")
    return inference.load(version).evaluate(test), seconds


def accuracy_of_a_linear_model(rest, test, tokenizer, **options):
    """Accuracy of logistic regression over TF-IDF."""
    from sklearn import pipeline
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    model = pipeline.make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 5))
        if tokenizer == "char"
        else TfidfVectorizer(ngram_range=(1, 2)),
        LogisticRegression(max_iter=1000, **options),
    )
    names = [[names[0] for names in read.labels] for read in (rest, test)]
    model.fit(rest.texts, names[0])
    return model.score(test.texts, names[1])


def main(model_config, train_config, config):
    """Measures, prints and writes the report."""
    from stacked_rnn import datasets

    model_config, train_config = configs.with_task_defaults(
        model_config, train_config, flags.given_flags()
    )
    calm = Calm()
    if train_config.corpus == "made_languages":
        words, names = zip(*made_languages.texts(WORDS))
        read = datasets.LabelledTexts(words, [(name,) for name in names])
    else:
        read = datasets.read_labelled_texts(
            train_config.corpus,
            train_config.text_field,
            train_config.label_field,
        )
    rows = {}
    for seed in range(config.seeds):
        rest, test = split(read, seed)
        with tempfile.TemporaryDirectory() as scratch:
            result, seconds = result_of_this_project(
                rest, test, model_config,
                dataclasses.replace(train_config, seed=seed), scratch,
            )  # fmt: skip
        rows[seed] = [
            result["accuracy"],
            accuracy_of_a_linear_model(rest, test, train_config.tokenizer),
            accuracy_of_a_linear_model(
                rest, test, train_config.tokenizer, C=10.0
            ),
            result["calibration_error"],
            seconds,
        ]
        print(seed, rows[seed], flush=True, file=sys.stderr)
    rows["mean"] = [*map(statistics.fmean, zip(*rows.values()))]
    lines = [
        f"# Classifying {len(read.texts):,} texts\n\n{machine()}; {calm}.\n",
        f"{len(read.counts)} classes; accuracy on a tenth that nothing else "
        "saw.\n",
        "| seed | this project | logistic regression | the same, C = 10 | "
        "calibration error | seconds of training |",
        "|---|---|---|---|---|---|",
    ]
    for name, (*values, seconds) in rows.items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{value:.4f}" for value in values)
            + f" | {seconds:.0f} |"
        )
    write_report(
        terminal.writable_directory("output_dir", config.output_dir),
        f"classification_{name_of(train_config.corpus)}", lines, rows,
    )  # fmt: skip


if __name__ == "__main__":
    sys.argv.insert(1, "--task=classifier")
    flags.run(main, ModelConfig, TrainConfig, BenchmarkConfig)
