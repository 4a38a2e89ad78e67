"""The experiment of D2L section 10.3, beside the book's PyTorch code.

  python experiments/d2l_deep_rnn.py --corpus=timemachine
  python experiments/d2l_deep_rnn.py --corpus=timemachine \
      --systems=flax,mxnet --mxnet_python=.venv-mxnet/bin/python

Trains with recipes/d2l.flags for each cell and seed, and prints a
Markdown table. The measure is exp of the mean nats over all validation windows
(characters 10,000 to 15,032), each from a state of zeros, after the last epoch.
With --systems, Flax and MXNet train the book's model on the same windows, each
in a process of its own.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time

import d2l_rivals
import numpy as np
from study import common

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting

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
    systems: str = setting(
        "", "Other systems, separated by commas: flax, mxnet ('': none)."
    )
    mxnet_python: str = setting(
        "", "An interpreter that has MXNet: see benchmarks/README.md."
    )


def main(model_config, train_config, study):
    """Prints a row for each run, and the means beside the book's."""
    systems = {"stacked_rnn": run_one} | other_systems(study)
    columns = [
        "system", "cell", "seed", "training", "validation", "seconds", "text"
    ]  # fmt: skip
    print("\n".join(common.table(columns, [])))
    means = []
    for cell, book in BOOK.items():
        figures = []
        for system, run in systems.items():
            runs = []
            for seed in range(study.num_seeds):
                *perplexities, seconds, text = run(
                    dataclasses.replace(model_config, cell=cell),
                    dataclasses.replace(train_config, seed=seed),
                )
                runs.append(perplexities)
                row = [
                    system, cell, seed,
                    *(f"{value:.2f}" for value in perplexities),
                    f"{seconds:.0f}", text,
                ]  # fmt: skip
                print(common.table(row, [])[0], flush=True)
            figures += [sum(values) / len(values) for values in zip(*runs)]
        means.append([cell, *(f"{value:.2f}" for value in (*figures, *book))])
    columns = ["mean"]
    for system in (*systems, "book"):
        columns += [f"{system}: training", "validation"]
    print("", *common.table(columns, means), sep="\n")


def other_systems(study):
    """The systems of --systems: name -> a function such as `run_one`."""
    import contenders  # `study` added its directory to the path

    systems = {}
    for name in common.choices("systems", study.systems, ("flax", "mxnet")):
        python = sys.executable
        if name == "mxnet":
            if not study.mxnet_python:
                raise UserError("--systems=mxnet needs --mxnet_python")
            contenders.check_mxnet(python := study.mxnet_python)
        elif not contenders.has(name, "jax", "flax", "optax"):
            continue
        systems[name] = functools.partial(run_other, name, python)
    return systems


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
        f"`it has{text}`",
    )


def run_other(system, python, model_config, train_config):
    """Trains another system once; perplexities, seconds, and no text."""
    from stacked_rnn import datasets

    data = datasets.load_language_data(train_config)
    request = {
        "training": np.asarray(data.training.token_ids).tolist(),
        "validation": np.asarray(data.validation.token_ids).tolist(),
        "config": dataclasses.asdict(train_config),
        "seed": train_config.seed,
        "cell": model_config.cell,
        "units": model_config.units,
        "num_layers": model_config.num_layers,
        "vocabulary_size": data.tokenizer.vocabulary_size(),
    }
    ran = subprocess.run(
        [python, d2l_rivals.__file__, system],
        input=json.dumps(request),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return *json.loads(ran.stdout), None


if __name__ == "__main__":
    sys.argv.insert(1, f"--flagfile={RECIPE}")  # what follows overrides it
    flags.run(main, ModelConfig, TrainConfig, StudyConfig)
