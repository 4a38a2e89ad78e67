"""The NumPy equations against stock Keras: outputs, states, masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import reference
from tests.helpers.small_models import CELLS

KERAS_CELLS = {
    "simple_rnn": keras.layers.SimpleRNNCell,
    "gru": keras.layers.GRUCell,
    "lstm": keras.layers.LSTMCell,
}


def random_layers(cell, rng, units=4, inputs=3, num_layers=2):
    """Stock Keras layers with random weights, and those weights."""
    layers, weights = [], []
    for _ in range(num_layers):
        layer = keras.layers.RNN(
            KERAS_CELLS[cell](units),
            return_sequences=True,
            return_state=True,
            dtype="float64",
        )
        layer.cell.dtype_policy = keras.DTypePolicy("float64")
        layer.build((None, None, inputs))
        layer.set_weights(
            [rng.normal(0.0, 0.7, weight.shape) for weight in layer.weights]
        )
        layers.append(layer)
        weights.append(tuple(layer.get_weights()))
        inputs = units
    return layers, weights


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_stack_equals_stock_keras(cell, masked, rng):
    layers, weights = random_layers(cell, rng, num_layers=3)
    inputs = rng.normal(size=(2, 5, 3))
    parts = reference.NUM_STATES[cell]
    states = [tuple(rng.normal(size=(parts, 2, 4))) for _ in layers]
    mask = (
        np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], bool) if masked else None
    )

    expected, expected_states = inputs, []
    for layer, layer_states in zip(layers, states):
        expected, *new = layer(
            tf.constant(expected),
            initial_state=[tf.constant(state) for state in layer_states],
            mask=mask,
        )
        expected_states.append(new)
    outputs, final = reference.deep_rnn(cell, inputs, states, weights, mask)

    # Where masked, Keras repeats the output before; only the states and the
    # real outputs are of use.
    real = slice(None) if mask is None else mask
    np.testing.assert_allclose(outputs[real], expected[real], atol=1e-6)
    for new, old in zip(final, expected_states):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_one_step_equals_a_calculation_by_hand():
    """A GRU of one unit whose gates are half open."""
    zeros = np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((2, 3))
    (h,) = reference.gru_cell(np.ones((1, 1)), (np.full((1, 1), 0.8),), *zeros)
    assert h == pytest.approx(0.4)  # half of 0.8, and half of tanh(0)


def test_a_layer_reads_its_past_and_the_layer_below(rng):
    """D2L equation 10.3.1: one input moves, and the test sees what changes."""
    _, weights = random_layers("simple_rnn", rng)
    states = reference.initial_states("simple_rnn", 4, 2, 1)
    inputs = rng.normal(size=(1, 4, 3))
    before, _ = reference.deep_rnn("simple_rnn", inputs, states, weights)
    inputs[:, 2] += 1.0
    after, _ = reference.deep_rnn("simple_rnn", inputs, states, weights)
    changed = np.abs(after - before).max(axis=(0, 2)) > 1e-9
    assert changed.tolist() == [False, False, True, True]


def test_nats_and_perplexity_of_known_probabilities():
    logits = np.log([[0.5, 0.25, 0.25]])
    assert reference.nats(logits, np.array([1])) == pytest.approx(np.log(4))
    assert reference.perplexity(np.log(28)) == pytest.approx(28)
