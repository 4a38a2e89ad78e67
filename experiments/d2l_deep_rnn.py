"""The experiment of D2L section 10.3, beside the book's PyTorch code.

  python experiments/d2l_deep_rnn.py --corpus=timemachine

Trains with recipes/d2l.flags for each cell and seed, and prints a
Markdown table. The measure is exp of the mean nats over all validation windows
(characters 10,000 to 15,032), each from a state of zeros, after the last epoch.
"""

import dataclasses
import pathlib
import sys
import time

from study import common

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting

RECIPE = pathlib.Path(__file__).parents[1] / "recipes" / "d2l.flags"

# Mean of three seeds of the book's own PyTorch code (d2l-en commit 23d7a5a, d2l
# 1.0.3, torch 2.13.0), measured in the same way: training, validation.
BOOK = {"simple_rnn": (5.27, 6.99), "gru": (4.11, 6.37), "lstm": (6.62, 7.41)}


@dataclasses.dataclass(frozen=True)
class StudyConfig(configs.Config):
    """How much of the experiment to run."""

    num_seeds: int = setting(
        3, "Runs of each cell, seeds 0, 1, 2 ...", minimum=1
    )


def main(model_config, train_config, study):
    """Prints a row for each run, and the means beside the book's."""
    columns = ["cell", "seed", "training", "validation", "seconds", "text"]
    print("\n".join(common.table(columns, [])))
    means = []
    for cell, book in BOOK.items():
        runs = []
        for seed in range(study.num_seeds):
            *perplexities, seconds, text = run_one(
                dataclasses.replace(model_config, cell=cell),
                dataclasses.replace(train_config, seed=seed),
            )
            runs.append(perplexities)
            row = [
                cell, seed, *(f"{value:.2f}" for value in perplexities),
                f"{seconds:.0f}", f"`{text}`",
            ]  # fmt: skip
            print(common.table(row, [])[0], flush=True)
        mean = [sum(values) / len(values) for values in zip(*runs)]
        means.append([cell, *(f"{value:.2f}" for value in (*mean, *book))])
    columns = "mean", "training", "validation", "book: training", "validation"
    print("", *common.table(columns, means), sep="\n")


def run_one(model_config, train_config):
    """Trains once; both perplexities, seconds, and a greedy text."""
    from stacked_rnn import datasets, export, tasks, training

    data = datasets.load_language_data(train_config)
    model_config = dataclasses.replace(
        model_config, vocabulary_size=data.tokenizer.vocabulary_size()
    )
    trainer = training.Trainer(
        model_config, train_config, tasks.LanguageModelTask(data)
    )
    started = time.perf_counter()
    trainer.fit(verbose=0)
    seconds = time.perf_counter() - started
    generator = export.TextGenerator(
        trainer.model.for_inference(),
        data.tokenizer,
        configs.SamplingConfig(max_new_tokens=20, temperature=0.0),
    )
    text = generator.serving_default(["it has"])["texts"].numpy()[0].decode()
    return (
        trainer.evaluate(data.training).perplexity,
        trainer.evaluate(data.validation).perplexity,
        seconds,
        "it has" + text,
    )


if __name__ == "__main__":
    sys.argv.insert(1, f"--flagfile={RECIPE}")  # what follows overrides it
    flags.run(main, ModelConfig, TrainConfig, StudyConfig)
