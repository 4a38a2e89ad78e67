"""How well seq2seq models learn pairs that a program can make.

  python experiments/seq2seq.py
  python experiments/seq2seq.py --tasks=dates_to_iso --epochs=10

Trains the model of train.py with its defaults on the pairs of `--corpus=TASK`,
for each of the tasks, and scores it on other pairs, greedily and by beam
search: "unseen" ones of the same kind, and ones "beyond", of a kind that the
training lacks: numbers of a digit more, dates of the next century, names of
more words.

Writes seq2seq.md and .json to --output_dir, and prints the first.
"""

import dataclasses
import datetime
import random
import tempfile
import time

import study
from study import common

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import BeamConfig, TrainConfig, setting

TEXTS = 1000  # of each set
SEARCHES = {
    "greedy": BeamConfig(num_beams=1),
    "4 beams": BeamConfig(num_beams=4),
    "4 beams, penalty 1": BeamConfig(num_beams=4, length_penalty=1.0),
}

# Pairs that the training lacks: first "unseen" ones, then ones "beyond" -------


def numbers_to_words(known):
    """Unseen numbers, and numbers of seven digits."""
    from stacked_rnn.datasets import synthetic_pairs

    for low, high in ((1000, 10**6), (10**6 + 1, 10**7)):
        yield [
            (str(number), synthetic_pairs.words_of_number(number))
            for number in random.Random(1).sample(range(low, high), 2 * TEXTS)
            if str(number) not in known
        ]


def words_to_numbers(known):
    """The same the other way round."""
    for pairs in numbers_to_words(()):
        yield [(words, number) for number, words in pairs if words not in known]


def dates_to_iso(known):
    """Dates that were unseen in any form, and dates of the next century."""
    from stacked_rnn.datasets import synthetic_pairs

    rng = random.Random(1)
    for year, years in ((1900, 200), (2100, 100)):
        dates = [
            datetime.date(year, 1, 1) + datetime.timedelta(day)
            for day in rng.sample(range(365 * years), 2 * TEXTS)
        ]
        yield [
            (rng.choice(synthetic_pairs.forms_of_date(date)), date.isoformat())
            for date in dates
            if date.isoformat() not in known
        ]


def identifiers_to_words(known):
    """Names in packages of Python's library, and two such names as one."""
    from stacked_rnn.datasets import synthetic_pairs

    rng = random.Random(1)
    names = synthetic_pairs.identifiers("[a-r]*/*.py")
    words = [
        list(words)
        for words in synthetic_pairs.words_of_identifiers(names)
        if " ".join(words) not in known
    ]
    rng.shuffle(words)
    longer = [
        first + second
        for first, second in zip(words[::2], words[1::2])
        if len(first + second) > 5
    ]
    for kind in (words, longer):
        yield [
            (
                rng.choice(synthetic_pairs.forms_of_identifier(name)),
                " ".join(name),
            )
            for name in kind
        ]


HELD_OUT = {
    task.__name__: task
    for task in (
        numbers_to_words,
        words_to_numbers,
        dates_to_iso,
        identifiers_to_words,
    )
}


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    tasks: str = setting(
        ",".join(HELD_OUT), "Names of made pairs, separated by commas."
    )
    epochs: int = setting(5, "Epochs of each training.", minimum=1)


def measure(task, epochs):
    """Trains on a task, and scores the model.

    Returns:
        A dict: the "seconds" of training, and for "unseen" and "beyond" the
        scores by name of the search.
    """
    from stacked_rnn import datasets, inference, tasks, training
    from stacked_rnn.training.warm_start import WarmStart

    config = TrainConfig(task="seq2seq", corpus=task, epochs=epochs)
    model_config, config = configs.with_task_defaults(
        configs.ModelConfig(), config, {"corpus", "epochs"}
    )
    seq2seq = tasks.Seq2SeqTask.read(WarmStart(model_config, config))
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        trainer = training.Trainer(
            seq2seq.complete(model_config), config, seq2seq, f"{scratch}/run"
        )
        trainer.fit(verbose=0)
        seconds = time.perf_counter() - started
        model = inference.load(
            seq2seq.exported(trainer.best_model()).save(f"{scratch}/model")
        )
    pairs = datasets.read_pairs(task)
    known = {*pairs.sources, *pairs.targets}
    return {"seconds": seconds} | {
        name: {
            search: model.evaluate(
                datasets.TextPairs(*zip(*held_out[:TEXTS])), beam_config
            )
            for search, beam_config in SEARCHES.items()
        }
        for name, held_out in zip(("unseen", "beyond"), HELD_OUT[task](known))
    }


def main(config):
    """Measures, prints and writes the report."""
    tasks = common.choices("tasks", config.tasks, HELD_OUT)
    title = "Seq2seq on pairs that a program makes"
    report = common.Report(config, "seq2seq", title, plots=False)
    results = {task: measure(task, config.epochs) for task in tasks}
    rows = [
        [
            task,
            name,
            *(score["exact_match"] for score in result[name].values()),
            result[name]["4 beams"]["edit_distance"],
            result[name]["4 beams"]["bleu"],
            result["seconds"],
        ]
        for task, result in results.items()
        for name in ("unseen", "beyond")
    ]
    lines = [
        f"{config.epochs} epochs with the defaults of train.py; exact match of "
        f"{TEXTS:,} texts; edits per character and BLEU by 4 beams.\n",
        *common.table(
            {"task": "", "texts": ""}
            | dict.fromkeys(SEARCHES, ".3f")
            | {"edits": ".4f", "BLEU": ".1f", "seconds of training": ".0f"},
            rows,
        ),
    ]
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, StudyConfig)
