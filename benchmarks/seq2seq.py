"""How well seq2seq models learn what a program can make, and what they can't.

  python benchmarks/seq2seq.py
  python benchmarks/seq2seq.py --tasks=dates_to_iso --epochs=10

train.py's model with its defaults, for each of the tasks, on the pairs that
`--corpus=TASK` makes. What it makes of others is scored, greedily and by beam
search: "unseen" ones of the same kind, and "beyond", of a kind that was not in
the training: numbers of a digit more, years of another century, names of more
words.

Writes seq2seq.md and .json to --output_dir, and prints the first.
"""

import dataclasses
import datetime
import pathlib
import random
import tempfile
import time

from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import BeamConfig, TrainConfig, setting

TEXTS = 1000  # of each set
SEARCHES = {
    "greedy": BeamConfig(num_beams=1),
    "4 beams": BeamConfig(num_beams=4),
    "4 beams, penalty 1": BeamConfig(num_beams=4, length_penalty=1.0),
}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    tasks: str = setting(
        "numbers_to_words,words_to_numbers,dates_to_iso,identifiers_to_words",
        "Names of made pairs, separated by commas.",
    )
    epochs: int = setting(5, "Of each training.", minimum=1)
    output_dir: str = setting(
        str(pathlib.Path(__file__).parent / "results"), "For the report."
    )


def numbers_to_words(known):
    """Numbers that were not seen, and of seven digits."""
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
    """Dates that were not seen in any form, and of the century after."""
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
    """Names in packages of the library, and two such names as one."""
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
        one + other
        for one, other in zip(words[::2], words[1::2])
        if len(one + other) > 5
    ]
    for kind in (words, longer):
        yield [
            (
                rng.choice(synthetic_pairs.forms_of_identifier(one)),
                " ".join(one),
            )
            for one in kind
        ]


def measure(task, epochs):
    """Trains on a task.

    Returns:
        Seconds of training, and for each set and search what
        `SavedTranslator.evaluate` gives.
    """
    from stacked_rnn import datasets, inference, tasks, training
    from stacked_rnn.training.warm_start import WarmStart

    config = TrainConfig(task="seq2seq", corpus=task, epochs=epochs)
    model_config, config = configs.with_task_defaults(
        configs.ModelConfig(), config, {"corpus", "epochs"}
    )
    seq2seq = tasks.Seq2SeqTask(WarmStart(model_config, config))
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        trainer = training.Trainer(
            seq2seq.model_config, config, seq2seq.data, f"{scratch}/run"
        )
        trainer.fit(verbose=0)
        seconds = time.perf_counter() - started
        model = inference.load(
            seq2seq.product(trainer.best_model()).save(f"{scratch}/model")
        )
    read = datasets.read_pairs(task)
    known = {*read.sources, *read.targets}
    return seconds, {
        name: {
            search: model.evaluate(
                datasets.TextPairs(*zip(*pairs[:TEXTS])), config
            )
            for search, config in SEARCHES.items()
        }
        for name, pairs in zip(("unseen", "beyond"), HELD_OUT[task](known))
    }


HELD_OUT = {
    task.__name__: task
    for task in (
        numbers_to_words,
        words_to_numbers,
        dates_to_iso,
        identifiers_to_words,
    )
}


def main(config):
    """Measures, prints and writes the report."""
    calm = Calm()
    results = {
        task: measure(task, config.epochs) for task in config.tasks.split(",")
    }
    lines = [
        "# Seq2seq on pairs that a program makes\n",
        f"{machine()}; {calm}.\n",
        f"{config.epochs} epochs of train.py's defaults; exact match of "
        f"{TEXTS:,} texts a set; edits of a character and BLEU by 4 beams.\n",
        f"| task | texts | {' | '.join(SEARCHES)} | edits | BLEU |",
        "|---|---|" + "---|" * (len(SEARCHES) + 2),
    ]
    for task, (_, sets) in results.items():
        for name, found in sets.items():
            exact = (f"{one['exact_match']:.3f}" for one in found.values())
            beams = found["4 beams"]
            lines.append(
                f"| {task} | {name} | {' | '.join(exact)} | "
                f"{beams['edit_distance']:.4f} | {beams['bleu']:.1f} |"
            )
    lines += [
        f"\n{task}: {seconds:.0f} s of training."
        for task, (seconds, _) in results.items()
    ]
    write_report(
        pathlib.Path(config.output_dir),
        "seq2seq",
        lines,
        {
            task: {"seconds": seconds} | sets
            for task, (seconds, sets) in results.items()
        },
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
