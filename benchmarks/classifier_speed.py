"""Speed of a classifier's training step beside stock Keras.

  python benchmarks/classifier_speed.py

Both train the same model: an embedding, bidirectional layers, the maximum over
time, one output; on texts of random lengths with masks, all padded to the same
length. A step is forward, backward, clipping by the global norm and Adam. This
project runs as in train.py, by `Trainer.fit`; stock Keras at the fastest of its
settings, found for each size by a short trial: with XLA or without, on one
thread or all. README.md says how the contenders take turns.

Writes classifier_speed.md and .json to --output_dir, and prints the first.
"""

import dataclasses

import common
import contenders
import numpy as np

from stacked_rnn.cli import flags
from stacked_rnn.configs import ModelConfig, TrainConfig, setting

VOCABULARY_SIZE, BATCH_SIZE = 5_000, 64
TIME = 64  # tokens that texts are padded to
SHAPES = (("gru", 1, 64), ("gru", 2, 128), ("lstm", 2, 64), ("lstm", 3, 128))
OURS, KERAS = "stacked_rnn", "stock Keras"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(common.ReportConfig):
    """What to measure."""

    repetitions: int = setting(
        5, "Turns of each contender; the median counts.", minimum=1
    )
    seconds: float = setting(2.0, "Approximate length of a turn.", minimum=0.0)


def random_texts(count):
    """Token ids of texts that `Examples` pads to `TIME`, a multiple of 8."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(TIME - 7, TIME + 1, count)
    return [rng.integers(1, VOCABULARY_SIZE, length) for length in lengths]


def examples():
    """An epoch of 20 batches, as train.py makes them."""
    from stacked_rnn import datasets

    texts = random_texts(20 * BATCH_SIZE)
    targets = np.arange(len(texts), dtype=np.int32)[:, None] % 2
    return datasets.Examples(texts, targets, BATCH_SIZE, seed=0)


def this_project(cell, num_layers, units):
    """`Trainer.fit`, as train.py calls it."""
    from stacked_rnn import datasets, tasks, training

    data = datasets.ClassificationData(
        None, ["no", "yes"], False, examples(), None, None,
        np.ones(2, np.float32), max_tokens=0,
    )  # fmt: skip
    return common.trainer_steps(
        training.Trainer(
            ModelConfig(
                cell=cell,
                units=units,
                num_layers=num_layers,
                embedding_dim=64,
                bidirectional=True,
                pooling="max",
                vocabulary_size=VOCABULARY_SIZE,
            ),
            TrainConfig(task="classifier", batch_size=BATCH_SIZE, epochs=10**6),
            tasks.ClassifierTask(data),
        )
    )


def stock_keras(cell, num_layers, units, jit_compile):
    """The stock model."""
    import keras
    import tensorflow as tf

    recurrent = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    model = keras.Sequential(
        [
            keras.Input((TIME,), BATCH_SIZE, dtype="int32"),
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
    token_ids = keras.utils.pad_sequences(
        random_texts(BATCH_SIZE), TIME, padding="post"
    )
    return common.keras_steps(
        model,
        tf.nn.sigmoid_cross_entropy_with_logits,
        tf.constant(token_ids, tf.int32),
        tf.constant(np.arange(BATCH_SIZE)[:, None] % 2, tf.float32),
        jit_compile,
    )


def compare(shape, config):
    """Measures one size; a dict for the table and the JSON file."""
    candidates = {
        f"{'XLA' if jit else 'no XLA'}, {name}": contenders.Entry(
            "tensorflow", stock_keras, shape | {"jit_compile": jit}, setting
        )
        for name, setting in contenders.settings("tensorflow").items()
        for jit in (False, True)
    }
    results, found = contenders.compare_at_best(
        {OURS: contenders.Entry("tensorflow", this_project, shape)},
        {KERAS: candidates},
        config,
    )
    return found | {
        "texts_per_second": {
            name: BATCH_SIZE / contenders.median(result)
            for name, result in results.items()
        }
    }


def main(config):
    """Measures, prints and writes the report."""
    title = "Bidirectional classifiers, texts per second"
    report = common.Report(config, "classifier_speed", title, plots=False)
    results, rows, names = {}, [], (OURS, KERAS)
    for cell, num_layers, units in SHAPES:
        name = f"{cell} {num_layers}x{units}"
        result = compare(
            {"cell": cell, "num_layers": num_layers, "units": units}, config
        )
        results[name], speeds = result, result["texts_per_second"]
        rows.append(
            [
                name,
                *map(speeds.get, names),
                common.ratio(speeds, OURS, KERAS),
                result["chosen"][KERAS],
                common.percentages(map(result["spread"].get, names)),
            ]
        )
    lines = [
        f"Batches of {BATCH_SIZE} texts, all padded to {TIME} tokens; "
        f"medians of {config.repetitions} turns of about {config.seconds:g} s. "
        "Spread: the slowest turn minus the fastest, in % of the median.\n",
        *common.table(
            {"model": "", OURS: ",.0f", KERAS: ",.0f"}
            | dict.fromkeys(["ratio", "setting of Keras", "spread"], ""),
            rows,
        ),
    ]
    report.write(lines, results)


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
