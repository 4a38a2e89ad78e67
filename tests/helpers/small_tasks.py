"""A small run of each task, and what it exports."""

import dataclasses
import random

from stacked_rnn import configs, datasets, export, models, tasks, training

TASKS = ("language_model", "classifier", "seq2seq")
LENGTHS = (1, 3, 5, 13)  # of texts: batches have padding, and empty rows


def write_corpus(task, directory):
    """A file to learn from, the same one every time; its path."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefgh", k=length))
        for length in LENGTHS * 12
        for _ in range(2)
    ]
    if task == "language_model":
        name, text = "words.txt", "\n".join(words * 4)
    elif task == "classifier":
        name, lines = "labelled.tsv", ["text\tlabel"]
        lines += [f"{word}\t{'xyz'[ord(word[0]) % 3]}" for word in words]
        text = "\n".join(lines)
    else:
        name = "pairs.tsv"
        text = "\n".join(f"{word}{n}\t{word[::-1]}" for n, word in
                         enumerate(words))  # fmt: skip
    path = directory / name
    path.write_text(text)
    return path


def make_trainer(
    task, directory, model_dir=None, strategy=None, model=None, **changes
):
    """A `Trainer` of two layers of 24; `changes` are of the `TrainConfig`."""
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
    load = {
        "language_model": datasets.load_language_data,
        "classifier": datasets.load_classification_data,
        "seq2seq": datasets.load_pair_data,
    }[task]
    data = load(config, 0)
    model_config = configs.ModelConfig(
        **{
            "units": 24,
            "embedding_dim": 12,
            "num_layers": 2,
            "bidirectional": task != "language_model",
            "end_of_text": bool(config.document_separator),
            "vocabulary_size": data.tokenizer.vocabulary_size(),
        }
        | (model or {})
    )
    return training.Trainer(
        model_config, config, tasks.TASKS[task](data), model_dir, strategy
    )


def untrained(task, config, tokenizer, use_cudnn):
    """What is exported of a model of random weights."""
    config = dataclasses.replace(
        config, vocabulary_size=tokenizer.vocabulary_size()
    )
    if task == "classifier":
        model = models.build_classifier(config, 3, use_cudnn=use_cudnn)
        return export.TextClassifier(
            model.for_inference(), tokenizer, ("x", "y", "z"), 16
        )
    if task == "seq2seq":
        model = models.build_seq2seq(config, use_cudnn)
        return export.TextRewriter(model.for_inference(), tokenizer, 20)
    model = models.build_language_model(config, use_cudnn)
    return export.TextGenerator(model.for_inference(), tokenizer)
