"""How deep: encoders, decoders and classifiers by their number of layers.

  python experiments/depth.py
  python experiments/depth.py --parts=seq2seq --seeds=3
  python experiments/depth.py --parts=

Does common advice on recurrent stacks hold on small tasks and in few steps: two
to four layers for an encoder, four for a decoder, residual connections once a
stack is deep? The part `seq2seq` finds the words of a name such as readonly or
READ_ONLY, with each depth of the encoder and each of the decoder; the part
`classifier` tells invented languages apart by a word. Every shape trains with
and without residual connections, on the same split and for the same number of
steps; its best validation score counts.

Writes depth.md and .json to --output_dir, and prints the first. Each run is
saved when it ends and is not repeated: an interrupted study continues, and the
parts may be measured one after the other.
"""

import dataclasses
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import made_languages
import study
from study import common

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting

DEPTHS = range(1, 5)  # of an encoder, of a decoder
LAYERS = range(1, 9)  # of a classifier
RESIDUAL = {
    "": "without residual connections",
    "+residual": "with residual connections",
}
SHAPES = {
    "seq2seq": [
        f"{encoder}x{decoder}{suffix}"
        for encoder in DEPTHS
        for decoder in DEPTHS
        for suffix in RESIDUAL
    ],
    "classifier": [
        f"{layers}{suffix}" for layers in LAYERS for suffix in RESIDUAL
    ],
}
UNITS = {"seq2seq": 48, "classifier": 64}
LONGEST = 15  # characters of a pair's texts: XLA then compiles for one length


@dataclasses.dataclass(frozen=True)
class StudyConfig(study.ReportConfig):
    """What to measure."""

    parts: str = setting(
        ",".join(SHAPES),
        "seq2seq, classifier, both with a comma, or nothing: only write the "
        "report again.",
    )
    seeds: int = setting(
        1, "Runs of each shape; the report has their mean.", minimum=1
    )
    seq2seq_epochs: int = setting(
        2, "Passes over the pairs, 282 steps each.", minimum=1
    )
    classifier_epochs: int = setting(
        3, "Passes over the words, 282 steps each.", minimum=1
    )


# Measuring --------------------------------------------------------------------


def seq2seq_work(epochs):
    """The model and training configuration of the seq2seq runs, and data."""
    from stacked_rnn import datasets

    model_config, train_config = configs.with_task_defaults(
        ModelConfig(units=UNITS["seq2seq"]),
        TrainConfig(
            task="seq2seq",
            corpus="identifiers_to_words",
            sequence_length=LONGEST,
            epochs=epochs,
        ),
        {"units", "sequence_length", "epochs"},
    )
    return model_config, train_config, datasets.load_pair_data(train_config)


def classifier_work(epochs):
    """The same of the classifiers.

    It departs from the task's defaults: one direction and no dropout, as a deep
    stack of both directions would take longer to compile than to train; and a
    wide embedding, which tells a few characters apart from the first step.
    """
    from stacked_rnn import datasets

    model_config, train_config = configs.with_task_defaults(
        ModelConfig(
            units=UNITS["classifier"], embedding_dim=32, embedding_stddev=1.0
        ),
        TrainConfig(task="classifier", tokenizer="char", epochs=epochs),
        {
            "units", "embedding_dim", "embedding_stddev", "bidirectional",
            "dropout", "embedding_dropout", "tokenizer", "epochs",
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        corpus = pathlib.Path(scratch, "words.tsv")
        with open(corpus, "w", encoding="utf-8") as file:
            print("text", "label", sep="\t", file=file)
            for text, label in made_languages.texts():
                print(text, label, sep="\t", file=file)
        data = datasets.load_classification_data(
            dataclasses.replace(train_config, corpus=str(corpus))
        )
    return model_config, train_config, data


def run(shape, seed, model_config, train_config, data):
    """Trains a model; its best validation scores, steps and seconds."""
    import keras

    from stacked_rnn import tasks, training

    depths, _, residual = shape.partition("+")
    layers, _, decoder_layers = depths.partition("x")
    keras.backend.clear_session()
    started = time.perf_counter()
    trainer = training.Trainer(
        dataclasses.replace(
            model_config,
            num_layers=int(layers),
            decoder_layers=int(decoder_layers or 0),
            residual=bool(residual),
            vocabulary_size=data.tokenizer.vocabulary_size(),
        ),
        dataclasses.replace(train_config, seed=seed),
        tasks.TASKS[train_config.task](data),
    )
    trainer.fit(verbose=0)
    if trainer.interrupted:
        raise KeyboardInterrupt  # does not save half a run
    return trainer.summary()["validation"] | {
        "steps": trainer.step,
        "weights": trainer.model.count_params(),
        "seconds": time.perf_counter() - started,
    }


# The report -------------------------------------------------------------------


def cell(runs, metric):
    """The mean of a metric over the seeds of a shape, and the loss."""
    if not runs:
        return None
    score, loss = (
        statistics.fmean(figures[name] for figures in runs.values())
        for name in (metric, "loss")
    )
    return f"{score:.3f} ({loss:.3f})"


def effort(runs):
    """How long the runs of a part took, as a sentence."""
    figures = [row for rows in runs.values() for row in rows.values()]
    seconds = [row["seconds"] for row in figures]
    return (
        f"{len(figures)} runs of {len(runs)} shapes, {figures[0]['steps']:,} "
        f"steps of 64, {min(seconds):.0f} to {max(seconds):.0f} seconds per "
        f"run, {statistics.fmean(seconds):.0f} on average, with compiling."
    )


def seq2seq_lines(runs):
    """The grids of encoders by decoders."""
    lines = [
        "\n## Encoder by decoder\n",
        f"{UNITS['seq2seq']} units; {effort(runs)} The share of validation "
        "pairs that greedy decoding writes without an error (and nats per "
        "token); the training has none of their names.",
    ]
    for suffix, title in RESIDUAL.items():
        lines += [
            f"\n{title.capitalize()}:\n",
            *common.table(
                ["encoder", *(f"decoder {depth}" for depth in DEPTHS)],
                [
                    [
                        encoder,
                        *(
                            cell(
                                runs.get(f"{encoder}x{decoder}{suffix}"),
                                "exact_match",
                            )
                            for decoder in DEPTHS
                        ),
                    ]
                    for encoder in DEPTHS
                ],
            ),
        ]
    return lines


def classifier_lines(runs):
    """The table of classifiers by depth."""
    return [
        "\n## Classifier\n",
        f"{UNITS['classifier']} units; {effort(runs)} Accuracy on the "
        "validation (and nats per word), twenty classes.\n",
        *common.table(
            ["layers", *RESIDUAL.values()],
            [
                [
                    layers,
                    *(
                        cell(runs.get(f"{layers}{suffix}"), "accuracy")
                        for suffix in RESIDUAL
                    ),
                ]
                for layers in LAYERS
            ],
        ),
    ]


PARTS = {
    "seq2seq": (seq2seq_work, seq2seq_lines),
    "classifier": (classifier_work, classifier_lines),
}


def main(config):
    """Measures, prints and writes the report."""
    parts = common.choices("parts", config.parts, SHAPES)
    report = common.Report(config, "depth", "How deep", plots=False)
    epochs = {
        "seq2seq": config.seq2seq_epochs,
        "classifier": config.classifier_epochs,
    }
    empty = {part: {} for part in SHAPES}
    results = {"epochs": epochs, "stolen": {}} | empty | report.saved()
    for part, count in results["epochs"].items():
        if count != epochs[part]:
            raise UserError(
                f"--{part}_epochs={epochs[part]}: the runs in "
                f"{config.output_dir} had {count}: take another --output_dir"
            )
    if parts:
        results.pop("machine", None)
    for part in parts:
        calm = common.Calm()
        work = PARTS[part][0](epochs[part])
        for seed, shape in itertools.product(range(config.seeds), SHAPES[part]):
            rows = results[part].setdefault(shape, {})
            if str(seed) in rows:
                continue
            rows[str(seed)] = run(shape, seed, *work)
            results["stolen"][part] = str(calm)
            report.save(results)
            print(part, shape, seed, flush=True, file=sys.stderr)
    report.calm = "; ".join(": ".join(c) for c in results["stolen"].items())
    lines = ["The beginning of a training: longer ones may rank otherwise."]
    for part, (_, part_lines) in PARTS.items():
        if results[part]:
            lines += part_lines(results[part])
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, StudyConfig)
