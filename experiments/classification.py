r"""How good a classifier gets on few labelled texts, beside a linear one.

  python experiments/classification.py --corpus='rt-polarity.*'
  python experiments/classification.py --corpus=mine.tsv --seeds=5
  python experiments/classification.py --corpus=made_languages \
    --flagfile=recipes/short_strings.flags

For each seed a tenth of each class is the test set. The classifier of train.py,
with its defaults or the flags given here, trains on the rest, and chooses its
best epoch by a tenth of that. The linear one is scikit-learn's logistic
regression over TF-IDF of words and pairs of words, or, with --tokenizer=char,
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
import study
from study import common

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    seeds: int = setting(3, "Splits, with one run each.", minimum=1)


def read(config):
    """The `LabelledTexts` that a `TrainConfig` names."""
    from stacked_rnn import datasets

    if config.corpus == "made_languages":
        words, names = zip(*made_languages.texts())
        return datasets.LabelledTexts(words, [(name,) for name in names])
    return datasets.read_labelled_texts(
        config.corpus, config.text_field, config.label_field
    )


def split(examples, seed):
    """Splits `LabelledTexts` into (rest, test), a tenth of each class."""
    from stacked_rnn import datasets

    rng = np.random.default_rng(seed)
    names = np.array([names[0] for names in examples.labels])
    is_test = np.zeros(len(names), bool)
    for name in np.unique(names):
        rows = rng.permutation(np.flatnonzero(names == name))
        is_test[rows[: len(rows) // 10]] = True
    return tuple(
        datasets.LabelledTexts(
            [examples.texts[row] for row in np.flatnonzero(chosen)],
            [examples.labels[row] for row in np.flatnonzero(chosen)],
        )
        for chosen in (~is_test, is_test)
    )


def score_this_project(rest, test, model_config, train_config):
    """Trains on the rest; the scores on the test, and seconds of training."""
    from stacked_rnn import inference, tasks, training
    from stacked_rnn.training.warm_start import WarmStart

    with tempfile.TemporaryDirectory() as scratch:
        corpus = pathlib.Path(scratch, "rest.jsonl")
        with open(corpus, "w", encoding="utf-8") as file:
            for text, (label,) in zip(rest.texts, rest.labels):
                print(json.dumps({"text": text, "label": label}), file=file)
        started = time.perf_counter()
        train_config = dataclasses.replace(
            train_config,
            corpus=str(corpus),
            text_field="text",
            label_field="label",
        )
        task = tasks.ClassifierTask.read(WarmStart(model_config, train_config))
        trainer = training.Trainer(
            task.complete(model_config), train_config, task, f"{scratch}/run"
        )
        trainer.fit(verbose=0)
        seconds = time.perf_counter() - started
        exported = task.exported(trainer.best_model())
        task.finish(exported)
        version = exported.save(f"{scratch}/model")
        return inference.load(version).evaluate(test), seconds


def score_linear_model(rest, test, tokenizer, **options):
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
    model.fit(rest.texts, [names[0] for names in rest.labels])
    return model.score(test.texts, [names[0] for names in test.labels])


def main(model_config, train_config, config):
    """Measures, prints and writes the report."""
    model_config, train_config = configs.with_task_defaults(
        model_config, train_config, flags.given_flags()
    )
    examples, tokenizer = read(train_config), train_config.tokenizer
    corpus = pathlib.Path(train_config.corpus).name.split(".")[0]
    report = common.Report(
        config,
        f"classification_{corpus.replace('-', '_')}",
        f"Classifying {len(examples.texts):,} texts",
        plots=False,
    )
    results = {}
    for seed in range(config.seeds):
        rest, test = split(examples, seed)
        scores, seconds = score_this_project(
            rest,
            test,
            model_config,
            dataclasses.replace(train_config, seed=seed),
        )
        results[seed] = [
            scores["accuracy"],
            score_linear_model(rest, test, tokenizer),
            score_linear_model(rest, test, tokenizer, C=10.0),
            scores["calibration_error"],
            seconds,
        ]
        print(seed, results[seed], flush=True, file=sys.stderr)
    results["mean"] = [*map(statistics.fmean, zip(*results.values()))]
    lines = [
        f"{len(examples.counts)} classes; accuracy on a test set of a tenth.\n",
        *common.table(
            {
                "seed": "", "this project": ".4f",
                "logistic regression": ".4f", "the same, C = 10": ".4f",
                "calibration error": ".4f", "seconds of training": ".0f",
            },
            [[name, *values] for name, values in results.items()],
        ),
    ]  # fmt: skip
    report.write(lines, results)


if __name__ == "__main__":
    sys.argv.insert(1, "--task=classifier")
    flags.run(main, ModelConfig, TrainConfig, StudyConfig)
