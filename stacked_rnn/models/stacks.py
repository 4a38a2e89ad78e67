"""Building blocks shared by all models."""

from typing import Self

import keras

from stacked_rnn import layers
from stacked_rnn.configs import ModelConfig, UserError

_LAYERS = {
    "simple_rnn": layers.SimpleRNN,
    "gru": layers.GRU,
    "lstm": layers.LSTM,
}

# The tensors that make up the state of a layer.
PARTS = {"simple_rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}


class Model(keras.Model):
    """Base of the models: files of Keras, and copies for inference.

    Attributes:
        config: the architecture, an attribute that a subclass sets.
    """

    config: ModelConfig

    def for_inference(self) -> Self:
        """Returns a copy that runs anywhere: no regularizers, no cuDNN."""
        config = self.get_config() | {
            "config": self.config.without_regularizers().to_dict()
        }
        copy = self.from_config(config)
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self):
        return {"config": self.config.to_dict(), "name": self.name}

    @classmethod
    def from_config(cls, config):
        model_config = ModelConfig.from_dict(config["config"])
        return cls(**config | {"config": model_config})


def check_config(config) -> None:
    """Raises a `UserError` if no task has a model of these settings."""
    if config.vocabulary_size < 1:
        raise UserError(
            "vocabulary_size=0: a model needs the size of its vocabulary, "
            "tokenizer.vocabulary_size()"
        )
    if config.cap_input_gate and config.cell != "lstm":
        raise UserError(
            f"--cap_input_gate: --cell={config.cell} has no such gate: choose "
            "--cell=lstm"
        )


def recurrent_layer(config, name, use_cudnn, **options) -> keras.layers.RNN:
    """Makes a recurrent layer as a `ModelConfig` describes it.

    Args:
        config: the architecture.
        name: the layer's name.
        use_cudnn: whether cuDNN runs the layer, see `stacked_rnn.layers`.
        **options: further arguments of the layer.
    """
    if config.cap_input_gate:
        options["cap_input_gate"] = True
    layer = _LAYERS[config.cell](
        config.units,
        recurrent_dropout=config.recurrent_dropout,
        weight_dropout=config.weight_dropout,
        recurrent_initializer="orthogonal",
        name=name,
        **options,
    )  # an LSTM's forget bias starts at 1, the default of Keras
    layer.use_cudnn = use_cudnn
    return layer


def embedding(config) -> keras.layers.ReversibleEmbedding:
    """Makes the embedding, which may be the readout, too."""
    layer = keras.layers.ReversibleEmbedding(
        config.vocabulary_size,
        config.embedding_dim,
        embeddings_initializer=keras.initializers.RandomNormal(
            stddev=config.embedding_stddev
        ),
        name="embedding",
    )
    layer.supports_masking = True  # also as the readout, reversed
    return layer


def dropout(config, rate, name) -> layers.Dropout:
    """Makes a dropout layer of activations [batch, time, units]."""
    if config.locked_dropout:
        return layers.LockedDropout(rate, name=name)
    return layers.Dropout(rate, name=name)


def directions(layer) -> list[keras.layers.RNN]:
    """Lists the RNN layers inside a layer: two if it is bidirectional."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def run_window(layer, inputs, states, mask=None, state_mask=None):
    """Runs a recurrent layer over a window of time steps.

    Args:
        layer: made by `recurrent_layer`, with `return_state`.
        inputs: [batch, time, inputs].
        states: the layer's states, each [batch, units]; None: zeros.
        mask: None, or bool [batch, time], False at padding.
        state_mask: None, or bool [batch, time], see `layers.GRU`.

    Returns:
        The outputs [batch, time, units] and the list of new states.
    """
    outputs, *new_states = layer(
        inputs,
        initial_state=states and list(states),
        mask=mask,
        state_mask=state_mask,
    )
    return outputs, new_states


def run_cell(layer, inputs, states, state_mask=None):
    """Runs the cell of a recurrent layer for one time step.

    Args:
        layer: made by `recurrent_layer`.
        inputs: [batch, inputs].
        states: the layer's states, each [batch, units].
        state_mask: None, or bool [batch]: where False, the states are set to
            zero before the step.

    Returns:
        The output [batch, units] and the new states.
    """
    if state_mask is not None:
        scale = keras.ops.cast(state_mask[:, None], inputs.dtype)
        states = [state * scale for state in states]
    return layer.cell(inputs, list(states))
