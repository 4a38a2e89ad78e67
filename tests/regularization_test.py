"""Each regularizer against its definition; off, it leaves no trace."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, inference, layers, training
from stacked_rnn.layers import masks
from tests.helpers import exports, small_tasks
from tests.helpers.small_models import (
    REGULARIZED,
    mirrored,
    randomized_model,
    small_config,
)

make_trainer = functools.partial(
    small_tasks.make_trainer, "language_model", batch_size=8, jit_compile=False
)
TOKEN_IDS = np.random.default_rng(0).integers(0, 11, (4, 9)).astype("int32")


def in_graph(function, jit_compile=False):
    """Calls a function without arguments in a graph."""
    return tf.function(function, jit_compile=jit_compile, autograph=False)


def as_layer(layer, jit_compile, *inputs):
    """Applies a layer in training, with masks of XLA or of Keras."""
    layer.jit_compile = jit_compile
    inputs = [*map(tf.constant, inputs)]
    return in_graph(lambda: layer(*inputs, training=True))().numpy()


with_and_without_xla = pytest.mark.parametrize("jit_compile", [False, True])


# Masks


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_keep_the_expected_share_and_scale(rate):
    seeds = keras.random.SeedGenerator(1)
    x = tf.fill([400, 500], 3.0)
    drop = in_graph(lambda: masks.dropout(x, rate, seeds))
    first, second = drop().numpy(), drop().numpy()
    for dropped in (first, second):
        assert np.unique(dropped[dropped != 0]) == pytest.approx(3 / (1 - rate))
        share = (dropped != 0).mean()
        assert share == pytest.approx(1 - rate, abs=0.005)  # 4 deviations
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_hashes_of_neighbouring_indices_and_seeds_are_independent():
    """No bit follows another: of the index before, of another seed."""

    def bits(seed):
        hashes = masks._hashes(tf.range(2**14), tf.constant(seed, tf.uint32))
        return np.unpackbits(hashes.numpy().view(np.uint8)).reshape(-1, 32)

    first = bits([5, 7])
    assert np.abs(first.mean(axis=0) - 0.5).max() < 0.03
    for other in (first[1:], bits([6, 7])[1:], bits([5, 8])[1:]):
        together = np.corrcoef(first[:-1].T, other.T)[:32, 32:]
        assert np.abs(together).max() < 0.05
    for seed in ([6, 7], [5, 8]):
        assert abs(np.corrcoef(first.ravel(), bits(seed).ravel())[0, 1]) < 0.01


def test_a_mask_is_that_of_its_seed():
    x = tf.ones([20, 30])

    def drop(seed):
        seeds = keras.random.SeedGenerator(seed)
        return in_graph(lambda: masks.dropout(x, 0.5, seeds))().numpy()

    assert np.array_equal(drop(1), drop(1))
    assert not np.array_equal(drop(1), drop(2))


@with_and_without_xla
def test_locked_dropout_drops_the_same_units_at_all_time_steps(jit_compile):
    dropped = as_layer(
        layers.LockedDropout(0.5), jit_compile, np.ones((8, 5, 40), "float32")
    )
    assert np.array_equal(dropped, np.repeat(dropped[:, :1], 5, axis=1))
    assert len(np.unique(dropped[:, 0], axis=0)) == 8  # rows differ


@with_and_without_xla
def test_dropout_drops_other_units_at_each_time_step(jit_compile):
    dropped = as_layer(
        layers.Dropout(0.5), jit_compile, np.ones((8, 5, 40), "float32")
    )
    assert len(np.unique(dropped.reshape(40, 40), axis=0)) == 40


@with_and_without_xla
def test_token_dropout_drops_all_occurrences_of_a_token(jit_compile):
    embedded = np.ones((4, 9, 3), "float32")
    layer = layers.TokenDropout(0.5, 11)
    dropped = as_layer(layer, jit_compile, embedded, TOKEN_IDS)
    factors = {
        token: np.unique(dropped[TOKEN_IDS == token])
        for token in np.unique(TOKEN_IDS)
    }
    assert {len(values) for values in factors.values()} == {1}
    assert {float(values[0]) for values in factors.values()} == {0.0, 2.0}
    assert np.array_equal(layer(embedded, TOKEN_IDS), embedded)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "SimpleRNN"])
def test_weight_dropout_is_a_layer_with_dropped_recurrent_weights(kind):
    """One mask for all time steps and rows, and no gradient where it is 0."""
    layer = getattr(layers, kind)(6, weight_dropout=0.5, return_sequences=True)
    stock = getattr(keras.layers, kind)(6, return_sequences=True)
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 7, 3)), "float32")
    layer(x), stock(x)
    kernel = layer.cell.recurrent_kernel
    seeds = layer.cell.seed_generator.state

    def run():
        scope = keras.StatelessScope([(seeds, tf.constant([3, 4]))])
        with tf.GradientTape() as tape, scope:
            outputs = layer(x, training=True)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, kernel.value)

    def dropped_kernel():
        with keras.StatelessScope([(seeds, tf.constant([3, 4]))]):
            return layer._recurrent_kernel(training=True)

    outputs, gradient = in_graph(run)()
    dropped = in_graph(dropped_kernel)().numpy()
    assert 0.3 < (dropped == 0).mean() < 0.7
    weights = layer.get_weights()
    stock.set_weights([weights[0], dropped, *weights[2:]])
    np.testing.assert_allclose(outputs, stock(x), atol=1e-5)
    assert np.array_equal(gradient.numpy() == 0, dropped == 0)
    stock.set_weights(weights)
    np.testing.assert_allclose(layer(x), stock(x), atol=1e-5)


def test_weight_dropout_is_refused_where_keras_runs_the_loop():
    layer = layers.GRU(6, weight_dropout=0.5, unroll=True)
    with pytest.raises(
        ValueError, match="weight_dropout and cap_input_gate need"
    ):
        layer(tf.ones((2, 3, 4)), training=True)


def test_weight_dropout_survives_a_round_trip_of_the_layer():
    layer = layers.LSTM(6, weight_dropout=0.25)
    copy = layers.LSTM.from_config(layer.get_config())
    assert copy.weight_dropout == 0.25


# What they add to the loss


def test_activation_penalties_are_those_of_the_paper(rng):
    outputs, dropped = rng.normal(size=(2, 3, 5, 4)).astype("float32")
    layer = layers.ActivationPenalty(2.0, 0.5)
    layer(dropped, outputs, training=True)
    changes = np.diff(outputs, axis=1)
    expected = 2 * (dropped**2).mean(-1).sum(1) + 0.5 * (changes**2).mean(
        -1
    ).sum(1)
    (losses,) = layer.losses
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.array_equal(layer(dropped, outputs), dropped)
    assert layer.losses == []


@pytest.mark.parametrize(
    "model",
    [{"label_smoothing": 0.2}, {"activation_penalty": 2.0},
     {"temporal_penalty": 3.0}],
    ids=str,
)  # fmt: skip
def test_a_step_descends_the_penalized_loss(model, tmp_path, monkeypatch):
    """SGD without noise: the weights move along the gradient by hand.

    Three rows of the batch have no targets: the penalty of the others counts as
    much as in a whole one.
    """
    missing = 3
    trainer = make_trainer(
        tmp_path, model=model, optimizer="sgd",
        learning_rate=0.5, gradient_clip_norm=0.0,
    )  # fmt: skip
    data, cut = trainer.data.training, trainer.data.training.batch

    def batch(step, page, *rows):
        inputs, targets = cut(step, page, *rows)
        is_missing = tf.range(targets.shape[0])[:, None] < missing
        return inputs, tf.where(is_missing, -1, targets)

    monkeypatch.setattr(data, "batch", batch)
    page = tf.constant(data.page(0))
    token_ids, targets = data.batch(0, page)
    network = trainer.model

    def loss():
        x = network.embedding(token_ids)
        for layer in network.recurrent_layers:
            x, *_ = layer(x)
        log_probs = tf.nn.log_softmax(network.readout(x))
        size = log_probs.shape[-1]
        smoothing = model.get("label_smoothing", 0.0)
        wanted = (1 - smoothing) * tf.one_hot(targets, size) + smoothing / size
        nats = -tf.reduce_sum(wanted * log_probs, axis=-1)
        is_target = tf.cast(targets >= 0, tf.float32)
        x = x[missing:]
        penalty = model.get("activation_penalty", 0.0) * tf.reduce_sum(
            tf.reduce_mean(x**2, axis=-1)
        ) + model.get("temporal_penalty", 0.0) * tf.reduce_sum(
            tf.reduce_mean((x[:, 1:] - x[:, :-1]) ** 2, axis=-1)
        )
        total = tf.reduce_sum(nats * is_target) + penalty
        return total / tf.reduce_sum(is_target)

    with tf.GradientTape() as tape:
        value = loss()
    expected = [
        weight.numpy() - 0.5 * tf.convert_to_tensor(gradient).numpy()
        for weight, gradient in zip(
            network.trainable_variables,
            tape.gradient(
                value, [v.value for v in network.trainable_variables]
            ),
        )
    ]
    trainer.fit([StopAfter(trainer, 1)], verbose=0)
    for weight, wanted in zip(network.trainable_variables, expected):
        np.testing.assert_allclose(weight, wanted, atol=1e-5)


class StopAfter(keras.callbacks.Callback):
    """Stops a training after so many steps."""

    def __init__(self, trainer, steps):
        super().__init__()
        self.trainer, self.steps = trainer, steps

    def on_train_batch_begin(self, batch, logs=None):
        self.model.stop_training = self.trainer.step + 1 >= self.steps


# Averaged weights and reset states


def test_the_average_is_a_mean_at_first_and_then_exponential():
    weight = keras.Variable([0.0])
    average = training.WeightAverage([weight], decay=0.5)
    expected = []
    for step, value in enumerate([8.0, 4.0, 2.0, 1.0]):
        weight.assign([value])
        average.update()
        share = max(0.5, 1 / (step + 1))
        last = expected[-1] if expected else 0.0
        expected.append(last + share * (value - last))
        with average.applied():
            assert weight.numpy() == pytest.approx([expected[-1]])
        assert weight.numpy() == pytest.approx([value])


def test_the_average_follows_the_weights_until_it_starts():
    weight = keras.Variable([0.0])
    average = training.WeightAverage([weight], decay=0.9, is_started=False)
    for value in (8.0, 4.0):
        weight.assign([value])
        average.update()
    average.start()
    assert average.is_started
    weight.assign([2.0])
    average.update()
    with average.applied():
        assert weight.numpy() == pytest.approx([2.0])
    weight.assign([1.0])
    average.update()
    with average.applied():
        assert weight.numpy() == pytest.approx([1.5])


def test_averaged_weights_are_validated_saved_and_exported(tmp_path):
    trainer = make_trainer(
        tmp_path, tmp_path / "run", epochs=2,
        average_decay=0.99,
    )  # fmt: skip
    trainer.fit(verbose=0)
    raw = trainer.model.get_weights()
    averaged = trainer.weights()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(raw, averaged))
    assert trainer.best_row["epoch"] == 1
    for got, expected in zip(trainer.best_model().get_weights(), averaged):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    score = trainer.evaluate(trainer.data.validation)
    assert score.nats_per_token != pytest.approx(
        trainer.history[-1]["val_loss"], abs=1e-6
    )
    for variable, value in zip(trainer.model.weights, averaged):
        variable.assign(value)
    score = trainer.evaluate(trainer.data.validation)
    assert score.nats_per_token == pytest.approx(
        trainer.history[-1]["val_loss"], abs=1e-5
    )


def test_averaging_begins_when_validation_has_not_improved(tmp_path):
    trainer = make_trainer(
        tmp_path, tmp_path / "run", epochs=3,
        learning_rate=0.0, average_decay=0.9, average_patience=2,
    )  # fmt: skip
    assert not trainer._average.is_started
    trainer.fit(verbose=0)
    assert trainer._average.is_started


def test_reset_states_starts_some_streams_anew(tmp_path):
    trainer = make_trainer(
        tmp_path, carry_state=True, reset_states=0.25,
        batch_size=16,
    )  # fmt: skip
    steps = trainer._steps
    states = ((tf.ones([2000, 3]),), (tf.ones([2000, 3]),))
    (first,), (second,) = steps._some_reset(states, tf.constant([1, 2]))
    assert np.array_equal(first, second)
    assert {*first.numpy().ravel()} == {0.0, 1.0}
    assert np.array_equal(first[:, 0], first[:, 2])
    assert np.mean(first) == pytest.approx(0.75, abs=0.04)


# All together


@pytest.mark.parametrize(
    ("carry_state", "replicas", "parts", "jit_compile"),
    [(True, 2, 1, False), (False, 1, 2, True)],
)
def test_all_regularizers_together_learn(
    carry_state, replicas, parts, jit_compile, tmp_path
):
    trainer = make_trainer(
        tmp_path, epochs=6, carry_state=carry_state,
        strategy=mirrored() if replicas == 2 else None,
        accumulate_steps=parts, jit_compile=jit_compile, weight_decay=0.01,
        average_decay=0.9, reset_states=0.01 * carry_state,
        model=REGULARIZED | {
            "cell": "lstm", "readout_layers": "concat",
            "embedding_to_all_layers": True, "locked_dropout": carry_state,
        },
    )  # fmt: skip
    trainer.fit(verbose=0)
    losses = [row["val_loss"] for row in trainer.history]
    assert losses[-1] < losses[0] - 0.05, losses


def test_off_they_leave_no_trace(rng):
    """An inference copy has the weights and the logits of the model."""
    model = randomized_model(
        small_config(**REGULARIZED, locked_dropout=True, cell="lstm")
    )
    copy = model.for_inference()
    assert copy.config == configs.ModelConfig(
        **{
            name: value
            for name, value in model.config.to_dict().items()
            if name not in configs.REGULARIZERS
        }
    )
    np.testing.assert_allclose(copy(TOKEN_IDS), model(TOKEN_IDS), atol=1e-6)
    assert np.array_equal(copy(TOKEN_IDS, training=True), copy(TOKEN_IDS))


@exports.in_memory()
def test_a_model_that_was_regularized_is_exported(tmp_path):
    trainer = make_trainer(
        tmp_path, tmp_path / "run",
        model=REGULARIZED | {
            "readout_layers": "sum", "embedding_to_all_layers": True,
        },
    )  # fmt: skip
    trainer.fit(verbose=0)
    loaded = inference.load(
        small_tasks.export_of(trainer).save(tmp_path / "exported")
    )
    (sample,) = loaded.continuations(["a"], configs.SamplingConfig(seed=1))
    assert len(sample.text) > 20
    text = "abcdefgh" * 5
    nats = loaded.evaluate(text.encode())["nats_per_token"]
    token_ids = np.array([loaded.tokenizer.tokenize([text]).numpy()[0]])
    logits = trainer.best_model()(token_ids[:, :-1])
    expected = keras.losses.sparse_categorical_crossentropy(
        token_ids[:, 1:], logits, from_logits=True
    )
    assert nats == pytest.approx(float(tf.reduce_mean(expected)), abs=1e-4)


def test_other_tasks_refuse_what_has_no_effect_on_them():
    for name in ("token_dropout", "output_dropout", "label_smoothing"):
        with pytest.raises(configs.UserError, match=f"--{name}: has no effect"):
            configs.with_task_defaults(
                configs.ModelConfig(**{name: 0.5}),
                configs.TrainConfig(task="classifier"),
                {name, "task"},
            )
