"""A small corpus, trainer and export of each task, and a Ctrl-C.

TASKS is the one list: a task that is added there runs through the conformance
suite and the tests of devices and GPUs.
"""

import dataclasses
import os
import random
import signal
from collections.abc import Callable

import keras

import stacked_rnn
from stacked_rnn import configs, datasets, export, models, tasks, training
from tests.helpers import exports

LENGTHS = (1, 3, 5, 13)  # of the texts, so that batches have padding
CLASSES = ("x", "y", "z")


@dataclasses.dataclass(frozen=True)
class SmallTask:
    """What the tests need to know about a task.

    Attributes:
        file: name of its corpus.
        text: makes the corpus from words.
        load: reads the data, from a `TrainConfig`.
        build: makes a model, from a `ModelConfig` and `use_cudnn`.
        export: makes the exported module, from a model and a tokenizer.
        model: settings of its `ModelConfig`.
    """

    file: str
    text: Callable
    load: Callable
    build: Callable
    export: Callable
    model: dict


TASKS = {
    "language_model": SmallTask(
        "words.txt",
        lambda words: "\n".join(words * 4),
        datasets.load_language_data,
        models.build_language_model,
        export.TextGenerator,
        {},
    ),
    "classifier": SmallTask(
        "labelled.tsv",
        lambda words: "\n".join(
            ["text\tlabel"]
            + [f"{word}\t{CLASSES[ord(word[0]) % 3]}" for word in words]
        ),
        datasets.load_classification_data,
        lambda config, use_cudnn: models.build_classifier(
            config, len(CLASSES), use_cudnn=use_cudnn
        ),
        lambda model, tokenizer: export.TextClassifier(
            model, tokenizer, CLASSES, 16
        ),
        {"bidirectional": True},
    ),
    "seq2seq": SmallTask(
        "pairs.tsv",
        lambda words: "\n".join(
            f"{word}{number}\t{word[::-1]}" for number, word in enumerate(words)
        ),
        datasets.load_pair_data,
        models.build_seq2seq,
        lambda model, tokenizer: export.TextRewriter(model, tokenizer, 20),
        {"bidirectional": True},
    ),
}


def write_corpus(task, directory):
    """Writes a small corpus, always the same; returns its path."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefgh", k=length))
        for length in LENGTHS * 12
        for _ in range(2)
    ]
    path = directory / TASKS[task].file
    path.write_text(TASKS[task].text(words))
    return path


def make_trainer(
    task, directory, model_dir=None, strategy=None, model=None, **changes
):
    """A `Trainer` of two layers of 24 units.

    Args:
        task: one of TASKS.
        directory: where the corpus is written.
        model_dir, strategy: see `Trainer`.
        model: changes to the `ModelConfig`.
        **changes: to the `TrainConfig`.
    """
    config = configs.TrainConfig(
        **{
            "task": task,
            "corpus": str(write_corpus(task, directory)),
            "tokenizer": "char",
            "sequence_length": 16,
            "batch_size": 16,
            "epochs": 1,
            "learning_rate": 0.01,
            "learning_rate_schedule": "constant",
        }
        | changes
    )
    data = TASKS[task].load(config, 0)
    model_config = configs.ModelConfig(
        **{
            "units": 24,
            "embedding_dim": 12,
            "num_layers": 2,
            "end_of_text": bool(config.document_separator),
            "vocabulary_size": data.tokenizer.vocabulary_size(),
        }
        | TASKS[task].model
        | (model or {})
    )
    return training.Trainer(
        model_config, config, tasks.TASKS[task](data), model_dir, strategy
    )


def train(directory, **settings):
    """Trains a small language model, as a user of Python does.

    It is exported as in `exports.in_memory`.
    """
    with exports.in_memory():
        return stacked_rnn.train(
            write_corpus("language_model", directory),
            model_dir=directory / "run",
            export_dir=directory / "models",
            **{
                "epochs": 2, "units": 16, "embedding_dim": 8, "num_layers": 1,
                "sequence_length": 10, "batch_size": 8, "learning_rate": 0.01,
                "jit_compile": False,
            } | settings,
        )  # fmt: skip


def export_of(trainer):
    """What is exported of a trained model."""
    return TASKS[trainer.config.task].export(
        trainer.best_model(), trainer.data.tokenizer
    )


def untrained_export(task, config, tokenizer, use_cudnn):
    """What is exported of a model with random weights."""
    config = dataclasses.replace(
        config, vocabulary_size=tokenizer.vocabulary_size()
    )
    model = TASKS[task].build(config, use_cudnn)
    return TASKS[task].export(model.for_inference(), tokenizer)


class CtrlC(keras.callbacks.Callback):
    """Presses Ctrl-C in the middle of a step of a trainer."""

    def __init__(self, trainer, step):
        super().__init__()
        self.trainer, self.at = trainer, step

    def on_train_batch_begin(self, batch, logs=None):
        if self.trainer.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
