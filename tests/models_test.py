"""Language models against the NumPy reference; their states and masks."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, datasets, models, reference
from tests.helpers.small_models import (
    CELLS,
    randomized_model,
    reference_logits,
    small_config,
)

VARIANTS = {
    "plain": {},
    "residual": {"residual": True, "num_layers": 3},
    "residual_same_width": {"residual": True, "embedding_dim": 6},
    "tied": {"tie_embeddings": True},
    "tied_same_width": {"tie_embeddings": True, "embedding_dim": 6},
    "sum": {"readout_layers": "sum", "num_layers": 3},
    "concat": {"readout_layers": "concat", "embedding_to_all_layers": True},
    "tied_concat": {"readout_layers": "concat", "tie_embeddings": True},
}


def random_states(config, rng, batch_size):
    parts = reference.NUM_STATES[config.cell]
    return tuple(
        tuple(
            tf.constant(rng.normal(size=(batch_size, config.units)), "float32")
            for _ in range(parts)
        )
        for _ in range(config.num_layers)
    )


def step(model, token_ids, states, **more):
    new = model.step(
        {"token_ids": tf.constant(token_ids), "states": states} | more
    )
    return new["logits"], new["states"]


def assert_states_equal(states, expected, atol=1e-5):
    for new, old in zip(states, expected, strict=True):
        for part, expected_part in zip(new, old, strict=True):
            np.testing.assert_allclose(part, expected_part, atol=atol)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_equal_the_reference(cell, variant, rng):
    config = small_config(cell=cell, **VARIANTS[variant])
    model = randomized_model(config)
    token_ids = rng.integers(0, 11, (3, 7))
    states = random_states(config, rng, 3)
    logits, new_states = step(model, token_ids, states)
    expected, expected_states = reference_logits(model, token_ids, states)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert_states_equal(new_states, expected_states)
    from_zero, _ = reference_logits(
        model,
        token_ids,
        reference.initial_states(cell, 6, config.num_layers, 3),
    )
    np.testing.assert_allclose(
        model(tf.constant(token_ids)), from_zero, atol=1e-5
    )


@pytest.mark.parametrize("all_layers", [False, True])
def test_a_capped_input_gate_equals_the_reference(all_layers, rng):
    """In windows, in single steps, in inference and in training."""
    more = {"readout_layers": "concat"} if all_layers else {}
    config = small_config(cell="lstm", cap_input_gate=True, **more)
    model = randomized_model(config)
    token_ids = rng.integers(0, 11, (3, 7))
    states = random_states(config, rng, 3)
    expected, expected_states = reference_logits(model, token_ids, states)
    logits, new_states = step(model, token_ids, states)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert_states_equal(new_states, expected_states)
    inputs = {"token_ids": tf.constant(token_ids), "states": states}
    trained = model.step(inputs, training=True)["logits"]
    np.testing.assert_allclose(trained, expected, atol=1e-5)
    for position in range(7):
        new = model.decode_step(
            {"token_ids": tf.constant(token_ids[:, position]),
             "states": states}
        )  # fmt: skip
        states = new["states"]
        np.testing.assert_allclose(
            new["logits"], expected[:, position], atol=1e-5
        )
    plain = randomized_model(small_config(cell="lstm", **more))
    assert np.abs(plain(token_ids) - model(token_ids)).max() > 1e-3


def test_a_capped_input_gate_needs_an_lstm():
    config = small_config(cap_input_gate=True)
    for build in (models.build_language_model, models.build_seq2seq):
        with pytest.raises(configs.UserError, match="--cap_input.*--cell=gru"):
            build(config)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal_finite_differences(cell, rng):
    """For every weight and the initial states, in random directions."""
    config = small_config(cell=cell, residual=True, tie_embeddings=True)
    model = randomized_model(config)
    token_ids = rng.integers(0, 11, (2, 6))
    targets = rng.integers(0, 11, (2, 6))
    states = random_states(config, rng, 2)
    flat = tf.nest.flatten(states)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        logits, _ = step(
            model, token_ids, tf.nest.pack_sequence_as(states, flat)
        )
        loss = tf.reduce_sum(
            tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        )
    variables = [weight.value for weight in model.weights]
    gradients = tape.gradient(loss, [variables, flat])
    weights = {w.path: w.numpy().astype("float64") for w in model.weights}

    def reference_loss(weights, flat):
        logits, _ = reference_logits(
            model, token_ids, tf.nest.pack_sequence_as(states, flat), weights
        )
        return reference.nats(logits, targets).sum()

    start = [state.numpy().astype("float64") for state in flat]
    for weight, gradient in zip(model.weights, gradients[0]):
        direction = rng.normal(size=weight.shape)

        def moved(size, path=weight.path, direction=direction):
            changed = weights | {path: weights[path] + size * direction}
            return reference_loss(changed, start)

        expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
        got = (tf.convert_to_tensor(gradient).numpy() * direction).sum()
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-4), weight.path
    for index, gradient in enumerate(gradients[1]):
        direction = rng.normal(size=gradient.shape)

        def moved(size, index=index, direction=direction):
            changed = list(start)
            changed[index] = start[index] + size * direction
            return reference_loss(weights, changed)

        expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
        got = (gradient.numpy() * direction).sum()
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-4), index


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_carried_state_equal_the_whole(cell, rng):
    config = small_config(cell=cell)
    model = randomized_model(config)
    token_ids = rng.integers(0, 11, (3, 6))
    states = random_states(config, rng, 3)
    whole, whole_states = step(model, token_ids, states)
    first, between = step(model, token_ids[:, :3], states)
    second, after = step(model, token_ids[:, 3:], between)
    np.testing.assert_allclose(
        np.concatenate([first, second], axis=1), whole, atol=1e-6
    )
    assert_states_equal(after, whole_states, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_decode_step_is_a_window_of_one_token(cell, rng):
    config = small_config(cell=cell, residual=True)
    model = randomized_model(config)
    states = random_states(config, rng, 3)
    token_ids = rng.integers(0, 11, 3)
    expected, expected_states = step(model, token_ids[:, None], states)
    new = model.decode_step(
        {"token_ids": tf.constant(token_ids), "states": states}
    )
    np.testing.assert_allclose(new["logits"], expected[:, 0], atol=1e-6)
    assert_states_equal(new["states"], expected_states, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_the_end_of_a_text_resets_the_state(cell, rng):
    """Windows, prefill and single tokens; 10 is the end of a text."""
    config = small_config(cell=cell, end_of_text=True)
    model = randomized_model(config)
    token_ids = rng.integers(0, 10, (2, 6))
    token_ids[0, 2] = token_ids[1, 0] = token_ids[1, 4] = 10
    states = random_states(config, rng, 2)
    zeros = tf.nest.map_structure(tf.zeros_like, states)
    logits, after = step(model, token_ids, states)
    for row, parts in enumerate([[(0, 2), (2, 6)], [(0, 4), (4, 6)]]):
        one = slice(row, row + 1)
        alone = tf.nest.map_structure(lambda s, one=one: s[one], states)
        for first, last in parts:
            expected, alone = step(model, token_ids[one, first:last], alone)
            np.testing.assert_allclose(
                logits[one, first:last], expected, atol=1e-6
            )
            if last < 6:  # as from zeros, whatever the state
                alone = tf.nest.map_structure(lambda s: s[:1], zeros)
        assert_states_equal(
            tf.nest.map_structure(lambda s, one=one: s[one], after),
            alone,
            atol=1e-6,
        )
    prefilled = model.prefill(
        {
            "token_ids": tf.constant(token_ids),
            "mask": tf.ones((2, 6), tf.bool),
            "states": states,
        }
    )
    assert_states_equal(prefilled["states"], after, atol=1e-6)
    for t in range(6):
        new = model.decode_step(
            {"token_ids": tf.constant(token_ids[:, t]), "states": states}
        )
        states = new["states"]
        np.testing.assert_allclose(new["logits"], logits[:, t], atol=1e-6)
    assert_states_equal(states, after, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_change_the_states_of_prefill(cell, rng):
    config = small_config(cell=cell, num_layers=3)
    model = randomized_model(config)
    states = random_states(config, rng, 4)
    lengths = [5, 3, 1, 0]
    token_ids = rng.integers(0, 11, (4, 5))
    new = model.prefill(
        {
            "token_ids": tf.constant(token_ids),
            "mask": tf.sequence_mask(lengths, 5),
            "states": states,
        }
    )
    for row, length in enumerate(lengths):
        alone = tf.nest.map_structure(
            lambda s, row=row: s[row : row + 1], states
        )
        if length:
            _, alone = step(model, token_ids[row : row + 1, :length], alone)
        padded = tf.nest.map_structure(
            lambda s, row=row: s[row : row + 1], new["states"]
        )
        assert_states_equal(padded, alone, atol=1e-6)


def test_masks_cause_no_warning():
    for variant in VARIANTS.values():
        model = models.build_language_model(small_config(**variant))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.prefill  # noqa: B018  builds the graph


def test_later_tokens_do_not_change_earlier_logits(rng):
    model = randomized_model(small_config(residual=True))
    token_ids = rng.integers(0, 11, (1, 8))
    before = model(tf.constant(token_ids)).numpy()
    token_ids[0, 5] = (token_ids[0, 5] + 1) % 11
    after = model(tf.constant(token_ids)).numpy()
    changed = np.abs(after - before).max(axis=(0, 2)) > 0
    assert changed.tolist() == [False] * 5 + [True] * 3


def test_dropout_is_between_the_layers_and_not_after_the_last():
    model = models.build_language_model(
        small_config(num_layers=3, dropout=0.5, recurrent_dropout=0.25)
    )
    names = [layer.name for layer in model.layers]
    assert names == [
        "token_ids", "embedding", "embedding_dropout", "rnn_0", "dropout_0",
        "rnn_1", "dropout_1", "rnn_2", "output_dropout", "readout",
    ]  # fmt: skip
    assert model.get_layer("dropout_1").rate == 0.5
    assert model.get_layer("rnn_2").cell.recurrent_dropout == 0.25


def test_dropout_draws_in_training_only(rng):
    model = randomized_model(small_config(dropout=0.5, recurrent_dropout=0.5))
    token_ids = tf.constant(rng.integers(0, 11, (2, 6)))
    assert np.array_equal(model(token_ids), model(token_ids))
    drawn = [model(token_ids, training=True).numpy() for _ in range(2)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    copy = model.for_inference()
    np.testing.assert_allclose(copy(token_ids), model(token_ids), atol=1e-6)
    assert np.array_equal(copy(token_ids, training=True), copy(token_ids))


def test_initial_weights_have_the_documented_distributions():
    keras.utils.set_random_seed(0)
    model = models.build_language_model(
        small_config(cell="lstm", units=32, vocabulary_size=500)
    )
    bias = model.get_layer("rnn_0").cell.bias.numpy()
    i, f, c, o = np.split(bias, 4)
    assert f.tolist() == [1.0] * 32
    assert not np.any([i, c, o])
    recurrent = model.get_layer("rnn_1").cell.recurrent_kernel.numpy()
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(32), atol=1e-5)
    assert model.get_layer("embedding").embeddings.numpy().std() == (
        pytest.approx(1.0, abs=0.1)
    )


@pytest.mark.parametrize("num_layers", [1, 8])
@pytest.mark.parametrize("cell", CELLS)
def test_all_depths_build(cell, num_layers):
    model = models.build_language_model(
        small_config(cell=cell, num_layers=num_layers)
    )
    assert len(model.recurrent_layers) == num_layers
    assert model(tf.zeros((1, 2), tf.int32)).shape == (1, 2, 11)


def test_a_width_of_2048_builds():
    model = models.build_language_model(
        small_config(cell="simple_rnn", units=2048, num_layers=1)
    )
    assert model.get_layer("rnn_0").cell.recurrent_kernel.shape == (2048, 2048)


def test_a_bidirectional_language_model_is_refused():
    with pytest.raises(configs.UserError, match=r"future.*classifier.*seq2seq"):
        models.build_language_model(small_config(bidirectional=True))


def test_a_missing_vocabulary_size_is_refused():
    with pytest.raises(configs.UserError, match="vocabulary_size"):
        models.build_language_model(configs.ModelConfig())


def test_keras_compile_and_fit_work():
    keras.utils.set_random_seed(0)
    model = models.build_language_model(small_config(units=16))
    windows = datasets.RandomWindows(tf.range(200) % 11, 10, 4)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=-1
        ),
    )
    history = model.fit(
        windows.dataset(),
        steps_per_epoch=windows.steps_per_epoch,
        shuffle=False,  # the dataset has its own order
        epochs=12,
        verbose=0,
    )
    assert history.history["loss"][-1] < 0.3 < history.history["loss"][0]


def test_keras_file_round_trip(tmp_path, rng):
    model = randomized_model(
        small_config(cell="lstm", residual=True, tie_embeddings=True)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    token_ids = tf.constant(rng.integers(0, 11, (2, 5)))
    assert np.array_equal(loaded(token_ids), model(token_ids))
    assert loaded.config == model.config


def test_weights_are_those_of_the_stock_layers(rng):
    """A stack of stock Keras layers takes the weights as they are."""
    model = randomized_model(small_config(cell="gru"))
    token_ids = tf.constant(rng.integers(0, 11, (2, 5)))
    stock = keras.Sequential(
        [
            keras.layers.Embedding(11, 5),
            keras.layers.GRU(6, return_sequences=True),
            keras.layers.GRU(6, return_sequences=True),
            keras.layers.Dense(11),
        ]
    )
    stock.build((None, None))
    stock.set_weights(model.get_weights())
    np.testing.assert_allclose(stock(token_ids), model(token_ids), atol=1e-6)
