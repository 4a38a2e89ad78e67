r"""How good a classifier gets on few labelled texts, beside a linear one.

  python experiments/classification.py --corpus='rt-polarity.*'
  python experiments/classification.py --corpus=mine.tsv --seeds=5
  python experiments/classification.py --corpus=made_languages \
    --flagfile=recipes/short_strings.flags

For each seed a tenth of each class is the test set; equal texts stay together.
The classifier of train.py, with the flags given here or what train.py chooses,
trains on the rest, and chooses its best epoch by a tenth of that. The linear
one is scikit-learn's logistic regression over TF-IDF of words and pairs of
words, or, where the other reads characters, of one to five characters; it
learns from all the rest.

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
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    seeds: int = setting(3, "Splits, with one run each.", minimum=1)


def read(config):
    """The `LabelledTexts` that a `TrainConfig` names.

    Raises:
        UserError: they cannot be read, or a text has not exactly one label.
    """
    from stacked_rnn import datasets

    if config.corpus == "made_languages":
        words, names = zip(*made_languages.texts())
        return datasets.LabelledTexts(words, [(name,) for name in names])
    examples = datasets.read_texts_of(config)
    for text, names in zip(examples.texts, examples.labels):
        if len(names) != 1:
            raise UserError(
                f"--corpus={config.corpus}: {text[:40]!r} has {len(names)} "
                "labels: this study needs one for each text"
            )
    return examples


def split(examples, seed):
    """Splits `LabelledTexts` into (rest, test), a tenth of each class.

    Equal texts stay together, as in the validation of train.py.
    """
    from stacked_rnn import datasets
    from stacked_rnn.datasets import classifier

    names = [names[0] for names in examples.labels]
    _, classes = np.unique(names, return_inverse=True)
    is_test = classifier.hold_out(examples.texts, classes[:, None], 0.1, seed)
    return tuple(
        datasets.LabelledTexts(
            [examples.texts[row] for row in np.flatnonzero(chosen)],
            [examples.labels[row] for row in np.flatnonzero(chosen)],
        )
        for chosen in (~is_test, is_test)
    )


def score_this_project(rest, test, model_config, train_config, given):
    """Trains on the rest, with the settings that train.py would choose.

    Args:
        rest, test: `LabelledTexts`.
        model_config, train_config: the settings.
        given: names of the settings that the user has set.

    Returns:
        The scores on the test, seconds of training, and the tokenizer's kind.
    """
    from stacked_rnn import inference, pipeline, training

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
            label_separator="",
        )
        model_dir = f"{scratch}/run"
        start, task, model_config = pipeline.read(
            model_config, train_config, model_dir, given
        )
        trainer = training.Trainer(
            model_config,
            start.train_config,
            task,
            model_dir,
            initial_weights=task.initial_weights(start, model_config),
        )
        trainer.fit(verbose=0)
        seconds = time.perf_counter() - started
        exported = task.exported(trainer.best_model())
        task.finish(exported, **task.calibrate(exported))
        version = exported.save(f"{scratch}/model")
        scores = inference.load(version).evaluate(test)
        return scores, seconds, start.train_config.tokenizer


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
    given = flags.given_flags()
    model_config, train_config = configs.with_task_defaults(
        model_config, train_config, given
    )
    examples = read(train_config)
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
        scores, seconds, tokenizer = score_this_project(
            rest,
            test,
            model_config,
            dataclasses.replace(train_config, seed=seed),
            given,
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
