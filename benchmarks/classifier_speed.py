"""Speed of a classifier's training step beside stock Keras.

  python benchmarks/classifier_speed.py

The same model for both: an embedding, bidirectional layers, the maximum over
time, one output; texts of random lengths with masks; forward, backward,
clipping by the global norm and Adam. Each is a process of its own; they run in
turn, several times over, and sleep while another runs. The medians count. This
project's part is the real thing, `Trainer.fit`, as train.py runs it. Stock
Keras gets the best of XLA and none, one thread and all, found for each size by
a short trial.

Writes classifier_speed.md and .json to --output_dir, and prints the first.
"""

import dataclasses

import numpy as np
from contenders import Entry, fastest, in_turn, median, settings, spread
from measuring import Calm, machine, percentages, write_report

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting
from stacked_rnn.utils import terminal

VOCABULARY_SIZE, BATCH_SIZE = 5_000, 64


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(configs.Config):
    """What to measure."""

    repetitions: int = setting(5, "Turns of each; the median counts.")
    seconds: float = setting(2.0, "Length of a turn, about.", minimum=0.0)
    time: int = setting(64, "Tokens that texts are padded to.", minimum=2)
    output_dir: str = setting("benchmarks/results", "Directory of the report.")


def random_texts(time):
    """Token ids of a batch of texts, half of `time` long to all of it."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(time // 2, time + 1, BATCH_SIZE)
    lengths[0] = time
    return [rng.integers(1, VOCABULARY_SIZE, length) for length in lengths]


def this_project(time, cell, num_layers, units):
    """`Trainer.fit` as train.py calls it."""
    from stacked_rnn import datasets, training

    texts = 20 * random_texts(time)
    targets = np.arange(len(texts), dtype=np.int32)[:, None] % 2
    data = datasets.ClassificationData(
        None, ["no", "yes"], False,
        datasets.Examples(texts, targets, BATCH_SIZE), None, None,
        np.ones(2, np.float32),
    )  # fmt: skip
    trainer = training.Trainer(
        ModelConfig(
            cell=cell, units=units, num_layers=num_layers, embedding_dim=64,
            bidirectional=True, pooling="max", vocabulary_size=VOCABULARY_SIZE,
        ),
        TrainConfig(task="classifier", batch_size=BATCH_SIZE, epochs=10**6),
        data,
    )  # fmt: skip

    def run(steps):
        trainer.total_steps = trainer.step + steps
        trainer.fit(verbose=0)

    run(20)  # XLA compiles once for each length that batches are padded to
    return run


def stock_keras(time, cell, num_layers, units, jit_compile):
    """The stock model, its step one `tf.function`."""
    import keras
    import tensorflow as tf

    recurrent = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    model = keras.Sequential(
        [
            keras.Input((time,), BATCH_SIZE, dtype="int32"),
            keras.layers.Embedding(VOCABULARY_SIZE, 64, mask_zero=True),
            *(
                keras.layers.Bidirectional(
                    recurrent(units, return_sequences=True)
                )
                for _ in range(num_layers)
            ),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    token_ids = keras.utils.pad_sequences(
        random_texts(time), time, padding="post"
    )
    inputs = tf.constant(token_ids, tf.int32)
    targets = tf.constant(np.arange(BATCH_SIZE)[:, None] % 2, tf.float32)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(
                    targets, model(inputs, training=True)
                )
            )
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(
            [tf.convert_to_tensor(gradient) for gradient in gradients],
            variables,
        )
        return loss

    def run(steps):
        for _ in range(steps):
            loss = step(inputs, targets)
        float(loss)

    return run


OURS, KERAS = "stacked_rnn", "best stock Keras"


def compare(shape, config):
    """Texts per second of each contender, the setting of Keras, spreads."""
    candidates = {
        f"{'XLA' if jit else 'no XLA'}, {name}": Entry(
            "tensorflow", stock_keras, shape | {"jit_compile": jit}, setting
        )
        for name, setting in settings("tensorflow").items()
        for jit in (False, True)
    }
    best, trial = fastest("stock Keras", candidates, config.seconds / 3)
    entries = {OURS: Entry("tensorflow", this_project, shape)}
    if best:
        entries[KERAS] = candidates[best]
    results = in_turn(entries, config.repetitions, config.seconds)
    return {
        "texts_per_second": {
            name: BATCH_SIZE / median(result)
            for name, result in results.items()
        },
        "chosen": best,
        "spread": {name: spread(result) for name, result in results.items()},
        "trial": trial,
    }


def main(config):
    """Measures, prints and writes the report."""
    output = terminal.writable_directory("output_dir", config.output_dir)
    calm, rows = Calm(), {}
    for cell, num_layers, units in (
        ("gru", 1, 64), ("gru", 2, 128), ("lstm", 2, 64), ("lstm", 3, 128),
    ):  # fmt: skip
        shape = {
            "time": config.time, "cell": cell, "num_layers": num_layers,
            "units": units,
        }  # fmt: skip
        rows[f"{cell} {num_layers}x{units}"] = compare(shape, config)
    lines = [
        "# Bidirectional classifiers, texts per second\n",
        f"{machine()}; {calm}.\n",
        f"Batches of {BATCH_SIZE} texts, padded to {config.time} tokens; "
        f"medians of {config.repetitions} turns of about {config.seconds:g} s, "
        "taken in turn, each contender in a process of its own that sleeps "
        "while another runs. Spread: the slowest turn less the fastest, in % "
        "of the median.\n",
        f"| | {OURS} | {KERAS} | ratio | setting of Keras | spread |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        speeds = row["texts_per_second"]
        ratio = ""
        if {OURS, KERAS} <= set(speeds):
            ratio = f"{speeds[OURS] / speeds[KERAS]:.2f}"
        lines.append(
            f"| {name} | "
            + " | ".join(
                f"{speeds[n]:,.0f}" if n in speeds else "not there"
                for n in (OURS, KERAS)
            )
            + f" | {ratio} | {row['chosen'] or ''} | "
            f"{percentages([row['spread'].get(n) for n in (OURS, KERAS)])} |"
        )
    lines.append(
        "\nWhat may flatter whom: stock Keras runs at the fastest setting of a "
        "short trial, for stacked_rnn nothing is tried; it pays for all of "
        "`Trainer.fit`, batches padded anew, where stock Keras takes bare "
        "steps on one batch that it keeps. Compiling is not counted."
    )
    write_report(output, "classifier_speed", lines, rows)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
