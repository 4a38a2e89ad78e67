"""How deep: encoders, decoders and classifiers by their number of layers.

  python benchmarks/depth.py
  python benchmarks/depth.py --parts=seq2seq --seeds=3
  python benchmarks/depth.py --parts=

Asks whether advice on recurrent stacks holds on small tasks and in few steps:
two to four layers for an encoder, four for a decoder, and residual connections
once a stack is deep. The part `seq2seq` finds the words of a name such as
readonly or READ_ONLY, with each depth of the encoder and each of the decoder;
the part `classifier` tells made languages apart by a word. Every shape is
trained with and without residual connections, on the same split and for the
same number of steps; what it reached on the validation counts.

Writes depth.md, .json and .png to --output_dir, and prints the first. Each run
is kept as soon as it is done, and one that is there already is not done again:
what was cut goes on, and the parts may be measured one after the other.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time

import made_languages
from measuring import Calm, machine, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError, setting
from stacked_rnn.utils import files, terminal

DEPTHS = range(1, 5)  # of an encoder, of a decoder
LAYERS = range(1, 9)  # of a classifier
PAIRS = list(itertools.product(DEPTHS, DEPTHS))
RESIDUAL = {
    "": "without residual connections",
    "+residual": "with residual connections",
}
SHAPES = {
    "seq2seq": [
        f"{encoder}x{decoder}{suffix}"
        for suffix in RESIDUAL
        for encoder, decoder in PAIRS
    ],
    "classifier": [
        f"{layers}{suffix}" for layers in LAYERS for suffix in RESIDUAL
    ],
}
UNITS = {"seq2seq": 48, "classifier": 64}
LONGEST = 15  # characters of a pair's texts: XLA then compiles for one length
WORDS = 20_000  # of the made languages


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    parts: str = setting(
        ",".join(SHAPES),
        "seq2seq, classifier, both by a comma, or nothing: the report anew.",
    )
    seeds: int = setting(
        1, "Runs of each shape, whose mean is reported.", minimum=1
    )
    seq2seq_epochs: int = setting(
        2, "Passes over the pairs, 282 steps each.", minimum=1
    )
    classifier_epochs: int = setting(
        3, "Passes over the words, 282 steps each.", minimum=1
    )
    output_dir: str = setting(
        "benchmarks/results", "Directory of the report and the plot."
    )


# Measuring --------------------------------------------------------------------


def seq2seq_work(epochs):
    """Of the seq2seq runs: model and training configuration, and the data."""
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

    Not all is as the task's defaults have it: one direction and no dropout, as
    a deep stack of both directions would compile for longer than it learns; and
    for a few characters an embedding that tells them apart from the first step.
    """
    from stacked_rnn import datasets

    model_config, train_config = configs.with_task_defaults(
        ModelConfig(
            units=UNITS["classifier"], embedding_dim=32, embedding_stddev=1.0
        ),
        TrainConfig(task="classifier", tokenizer="char", epochs=epochs),
        {
            "units",
            "embedding_dim",
            "embedding_stddev",
            "bidirectional",
            "dropout",
            "embedding_dropout",
            "tokenizer",
            "epochs",
        },
    )
    with tempfile.TemporaryDirectory() as scratch:
        corpus = pathlib.Path(scratch, "words.tsv")
        with open(corpus, "w", encoding="utf-8") as file:
            print("text", "label", sep="\t", file=file)
            for text, label in made_languages.texts(WORDS):
                print(text, label, sep="\t", file=file)
        data = datasets.load_classification_data(
            dataclasses.replace(train_config, corpus=str(corpus))
        )
    return model_config, train_config, data


WORK = {"seq2seq": seq2seq_work, "classifier": classifier_work}


def run(shape, seed, model_config, train_config, data):
    """Trains a model; what its best epoch reached, and seconds."""
    import keras

    from stacked_rnn import training

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
        data,
    )
    trainer.fit(verbose=0)
    if trainer.interrupted:
        raise KeyboardInterrupt  # what half a run reached is not kept
    return trainer.summary()["validation"] | {
        "steps": trainer.step,
        "weights": trainer.model.count_params(),
        "seconds": time.perf_counter() - started,
    }


# The report -------------------------------------------------------------------


def means(runs):
    """Of shape -> seed -> figures: shape -> their means, and how many runs."""
    return {
        shape: {
            name: statistics.fmean(row[name] for row in rows.values())
            for name in next(iter(rows.values()))
        }
        | {"runs": len(rows)}
        for shape, rows in runs.items()
    }


def shown(figures, metric):
    """An entry of a table; figures: None where it was not measured."""
    if not figures:
        return ""
    return f"{figures[metric]:.3f} ({figures['loss']:.3f})"


def mean_of(runs, metric, shapes):
    """Mean over some shapes."""
    return statistics.fmean(runs[shape][metric] for shape in shapes)


def gain(runs, metric, depths):
    """What residual connections add on the average, to be shown."""
    with_them = mean_of(runs, metric, [f"{d}+residual" for d in depths])
    return f"{with_them - mean_of(runs, metric, depths):+.3f}"


def effort(runs):
    """What the runs of a part took: part of a sentence."""
    seconds = [row["seconds"] for row in runs.values()]
    steps = max(row["steps"] for row in runs.values())
    counts = sorted({row["runs"] for row in runs.values()})
    return (
        f"{' or '.join(map(str, counts))} run(s) of each shape, "
        f"{steps:,.0f} steps of 64, {min(seconds):.0f} to {max(seconds):.0f} "
        f"seconds a run, {statistics.fmean(seconds):.0f} in the mean, with all "
        "compiling"
    )


def seq2seq_report(runs):
    """The grids: lines of Markdown."""
    lines = [
        "\n## Encoder by decoder\n",
        f"{UNITS['seq2seq']} units; {effort(runs)}. What part of the "
        "validation greedy decoding writes without an error (and nats a "
        "token); none of its names is in the training.",
    ]
    for suffix, what in RESIDUAL.items():
        lines += [
            f"\n{what.capitalize()}:\n",
            "| encoder | "
            + " | ".join(f"decoder {depth}" for depth in DEPTHS)
            + " |",
            "|---" * (len(DEPTHS) + 1) + "|",
        ]
        for encoder in DEPTHS:
            row = [runs.get(f"{encoder}x{d}{suffix}") for d in DEPTHS]
            lines.append(
                f"| {encoder} | "
                + " | ".join(shown(figures, "exact_match") for figures in row)
                + " |"
            )
    return lines


def seq2seq_conclusions(runs):
    """What full grids say: lines of Markdown."""
    lines = []
    for suffix, what in RESIDUAL.items():
        shapes = [f"{e}x{d}{suffix}" for e, d in PAIRS]
        best = max(shapes, key=lambda shape: runs[shape]["exact_match"])
        lines.append(
            f"- {what.capitalize()} {best.removesuffix(suffix)} layers are the "
            f"best: {runs[best]['exact_match']:.3f}; 1x1 has "
            f"{runs['1x1' + suffix]['exact_match']:.3f}."
        )
        for side, stack in enumerate(("encoder", "decoder")):
            by_depth = {
                depth: mean_of(
                    runs,
                    "exact_match",
                    [
                        f"{p[0]}x{p[1]}{suffix}"
                        for p in PAIRS
                        if p[side] == depth
                    ],
                )
                for depth in DEPTHS
            }
            lines.append(
                f"- {what.capitalize()}, {stack}s of 1 to 4 layers, each the "
                "mean over the other stack's depths: "
                + ", ".join(f"{score:.3f}" for score in by_depth.values())
                + f"; the best have {max(by_depth, key=by_depth.get)}."
            )
        advised = [f"{e}x4{suffix}" for e in (2, 3, 4)]
        others = [shape for shape in shapes if shape not in advised]
        lines.append(
            f"- {what.capitalize()} the advised shapes, 2 to 4 by 4, have "
            f"{mean_of(runs, 'exact_match', advised):.3f} on the average, the "
            f"others {mean_of(runs, 'exact_match', others):.3f}."
        )
    gains = (
        gain(
            runs,
            "exact_match",
            [f"{e}x{d}" for e, d in PAIRS if max(e, d) == depth],
        )
        for depth in DEPTHS[1:]
    )
    stacks = [f"{e}x{d}" for e, d in PAIRS if max(e, d) > 1]
    better = sum(
        runs[f"{stack}+residual"]["exact_match"] > runs[stack]["exact_match"]
        for stack in stacks
    )
    return [
        *lines,
        f"- Residual connections improve {better} of {len(stacks)} shapes. "
        "What they add where the deeper stack has 2, 3 and "
        f"4 layers: {', '.join(gains)}.",
    ]


def classifier_report(runs):
    """The table by depth: lines of Markdown."""
    return [
        "\n## Classifier\n",
        f"{UNITS['classifier']} units; {effort(runs)}. Accuracy on the "
        "validation (and nats a word), twenty classes.\n",
        "| layers | " + " | ".join(RESIDUAL.values()) + " |",
        "|---" * (len(RESIDUAL) + 1) + "|",
        *(
            f"| {layers} | "
            + " | ".join(
                shown(runs.get(f"{layers}{suffix}"), "accuracy")
                for suffix in RESIDUAL
            )
            + " |"
            for layers in LAYERS
        ),
    ]


def classifier_conclusions(runs):
    """What a full table says: lines of Markdown."""
    lines = []
    for suffix, what in RESIDUAL.items():
        best = max(
            LAYERS, key=lambda layers: runs[f"{layers}{suffix}"]["accuracy"]
        )
        one, top, last = (
            runs[f"{layers}{suffix}"]["accuracy"]
            for layers in (LAYERS[0], best, LAYERS[-1])
        )
        lines.append(
            f"- {what.capitalize()} depth {best} is the best, {top:.3f}; depth "
            f"{LAYERS[0]} has {one:.3f}, depth {LAYERS[-1]} {last:.3f}."
        )
    gains = (gain(runs, "accuracy", [str(layers)]) for layers in LAYERS)
    return [
        *lines,
        f"- What residual connections add, by depth: {', '.join(gains)}.",
    ]


REPORTS = {
    "seq2seq": (seq2seq_report, seq2seq_conclusions),
    "classifier": (classifier_report, classifier_conclusions),
}


def draw(results, path):
    """Heat maps of the grids, and lines for the classifiers, as a PNG."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(14, 8.5))
    for (row, (metric, label)), (column, (suffix, what)) in itertools.product(
        enumerate(
            {"exact_match": "exact match", "loss": "nats a token"}.items()
        ),
        enumerate(RESIDUAL.items()),
    ):
        grids = results["seq2seq"]
        values = [
            [
                grids.get(f"{e}x{d}{suffix}", {}).get(metric, math.nan)
                for d in DEPTHS
            ]
            for e in DEPTHS
        ]
        known = [figures[metric] for figures in grids.values()]
        axes = panels[row][column]
        axes.imshow(
            values,
            cmap="viridis" if metric == "exact_match" else "viridis_r",
            vmin=min(known, default=0),
            vmax=max(known, default=1),
            origin="lower",
        )
        for place in itertools.product(range(len(DEPTHS)), repeat=2):
            axes.annotate(
                f"{values[place[0]][place[1]]:.3f}",
                place[::-1],
                ha="center",
                va="center",
                bbox={"facecolor": "white", "alpha": 0.6, "linewidth": 0},
            )
        axes.set(
            title=f"{label},\n{what}",
            xlabel="decoder layers",
            ylabel="encoder layers",
        )
        axes.set_xticks(range(len(DEPTHS)), DEPTHS)
        axes.set_yticks(range(len(DEPTHS)), DEPTHS)
    for axes, (metric, label) in zip(
        panels[:, 2], {"accuracy": "accuracy", "loss": "nats a word"}.items()
    ):
        for suffix, what in RESIDUAL.items():
            lines = {
                layers: results["classifier"][f"{layers}{suffix}"][metric]
                for layers in LAYERS
                if f"{layers}{suffix}" in results["classifier"]
            }
            axes.plot(lines.keys(), lines.values(), "o-", label=what)
        axes.set(xlabel="layers of the classifier", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def opened(path, epochs):
    """What other runs left, or the beginning of it.

    Args:
        path: of the JSON file.
        epochs: part -> epochs of its runs, now.

    Raises:
        UserError: its runs had another number of epochs.
    """
    if not path.exists():
        return {"epochs": epochs, "stolen": {}} | {part: {} for part in SHAPES}
    saved = json.loads(path.read_text(encoding="utf-8"))
    for part, count in saved["epochs"].items():
        if count != epochs[part]:
            raise UserError(
                f"--{part}_epochs={epochs[part]}: the runs in {path} had "
                f"{count}: take another --output_dir"
            )
    return saved


def main(config):
    """Measures, prints and writes the report."""
    parts = list(filter(None, config.parts.split(",")))
    if unknown := sorted(set(parts) - set(SHAPES)):
        raise UserError(
            f"--parts: no {', '.join(unknown)} among {', '.join(SHAPES)}"
        )
    output = terminal.writable_directory("output_dir", config.output_dir)
    path = output / "depth.json"
    epochs = {
        "seq2seq": config.seq2seq_epochs,
        "classifier": config.classifier_epochs,
    }
    results = opened(path, epochs)
    for part in parts:
        calm = Calm()
        work = WORK[part](epochs[part])
        for seed, shape in itertools.product(
            map(str, range(config.seeds)), SHAPES[part]
        ):
            rows = results[part].setdefault(shape, {})
            if seed in rows:
                continue
            rows[seed] = run(shape, int(seed), *work)
            results["stolen"][part] = str(calm)
            with files.whole_file(path, encoding="utf-8") as file:
                json.dump(results, file, indent=1)
            print(part, shape, seed, rows[seed], flush=True, file=sys.stderr)
    figures = {part: means(results[part]) for part in SHAPES}
    lines = [
        "# How deep\n",
        "; ".join(
            [
                machine(),
                *(
                    f"{part}: {calm}"
                    for part, calm in results["stolen"].items()
                ),
            ]
        )
        + ".\n",
        "The beginning of a training: longer ones may rank otherwise.",
    ]
    for part, (report, conclusions) in REPORTS.items():
        if figures[part]:
            lines += report(figures[part])
        if set(figures[part]) == set(SHAPES[part]):
            lines += ["", *conclusions(figures[part])]
    draw(figures, output / "depth.png")
    lines.append("\n![depth](depth.png)")
    write_report(output, "depth", lines, results)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
