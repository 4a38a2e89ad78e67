"""The layers that the stacks of all models are made of."""

import keras

from stacked_rnn import layers
from stacked_rnn.configs import UserError

_LAYERS = {
    "simple_rnn": layers.SimpleRNN,
    "gru": layers.GRU,
    "lstm": layers.LSTM,
}

PARTS = {"simple_rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}  # of a state


def check_vocabulary_size(config) -> None:
    """Raises a `UserError` where it is not known yet."""
    if config.vocabulary_size < 1:
        raise UserError(
            "vocabulary_size=0: a model needs the size of its vocabulary, "
            "tokenizer.vocabulary_size()"
        )


def recurrent_layer(config, name, use_cudnn, **options) -> keras.layers.RNN:
    """A recurrent layer of a `ModelConfig`.

    Args:
        config: the architecture.
        name: of the layer.
        use_cudnn: see `layers`.
        **options: of the layer.
    """
    layer = _LAYERS[config.cell](
        config.units,
        recurrent_dropout=config.recurrent_dropout,
        recurrent_initializer="orthogonal",
        name=name,
        **options,
    )  # an LSTM's forget bias starts at 1, as Keras has it
    layer.use_cudnn = use_cudnn
    return layer


def directions(layer) -> list[keras.layers.RNN]:
    """The recurrent layers in a layer: a bidirectional one has two."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def run_window(layer, inputs, states, mask=None, state_mask=None):
    """A recurrent layer over [batch, time, inputs]: outputs, new states."""
    outputs, *new_states = layer(
        inputs,
        initial_state=states and list(states),
        mask=mask,
        state_mask=state_mask,
    )
    return outputs, new_states


def run_cell(layer, inputs, states, state_mask=None):
    """A recurrent layer's cell, once: [batch, inputs] -> output, new states."""
    if state_mask is not None:
        keeps = keras.ops.cast(state_mask[:, None], inputs.dtype)
        states = [state * keeps for state in states]
    return layer.cell(inputs, list(states))
