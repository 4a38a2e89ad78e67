"""The layers that the stacks of all models are made of."""

import keras

from stacked_rnn import layers
from stacked_rnn.configs import UserError

_LAYERS = {
    "simple_rnn": layers.SimpleRNN,
    "gru": layers.GRU,
    "lstm": layers.LSTM,
}


def check_vocabulary_size(config) -> None:
    """Raises a `UserError` where it is not known yet."""
    if config.vocabulary_size < 1:
        raise UserError(
            "vocabulary_size=0: a model needs the size of its vocabulary, "
            "tokenizer.vocabulary_size()"
        )


def recurrent_layer(config, name, **options) -> keras.layers.RNN:
    """A recurrent layer of a `ModelConfig`; `options` are of the layer."""
    return _LAYERS[config.cell](
        config.units,
        recurrent_dropout=config.recurrent_dropout,
        recurrent_initializer="orthogonal",
        name=name,
        **options,
    )  # an LSTM's forget bias starts at 1, as Keras has it
