"""Layers that regularize, in training only.

Attributes of those that draw masks:
    jit_compile: whether XLA may compile the drawing, see `masks.dropout`.
"""

import keras

from stacked_rnn.layers import masks


@keras.saving.register_keras_serializable("stacked_rnn")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout`, which XLA compiles well."""

    jit_compile = True

    def call(self, inputs, training=False):
        if not (training and self.rate):
            return inputs
        return masks.dropout(
            inputs,
            self.rate,
            self.seed_generator,
            self._noise_shape(inputs),
            self.jit_compile,
        )

    def _noise_shape(self, inputs):
        return self.noise_shape


@keras.saving.register_keras_serializable("stacked_rnn")
class LockedDropout(Dropout):
    """Dropout of the same units at all time steps of a row.

    The variational dropout of Gal and Ghahramani 2016, "A theoretically
    grounded application of dropout in recurrent neural networks". Otherwise
    neighbouring time steps would reveal what is dropped at a single one.

    Args:
        rate: fraction of the units that is dropped in training.
    """

    def _noise_shape(self, inputs):
        batch_size, *between, units = keras.ops.shape(inputs)
        return (batch_size, *[1 for _ in between], units)


@keras.saving.register_keras_serializable("stacked_rnn")
class TokenDropout(keras.layers.Layer):
    """Drops tokens of the vocabulary: all their occurrences in a batch.

    Gal and Ghahramani 2016, section 4.2: dropout of the rows of an embedding.

    Args:
        rate: fraction of the vocabulary that is dropped in training.
        vocabulary_size: number of tokens.
    """

    jit_compile = True

    def __init__(self, rate, vocabulary_size, **options):
        super().__init__(**options)
        self._rate, self._vocabulary_size = rate, vocabulary_size
        self._seed_generator = keras.random.SeedGenerator()

    def call(self, embedded, token_ids, training=False):
        """Sets the embeddings of dropped tokens to zero, and scales the others.

        Args:
            embedded: [batch, time, units].
            token_ids: int32 [batch, time].
            training: whether to drop anything.
        """
        if not training:
            return embedded
        factors = masks.dropout(
            keras.ops.ones((self._vocabulary_size, 1), embedded.dtype),
            self._rate,
            self._seed_generator,
            jit_compile=self.jit_compile,
        )
        return embedded * keras.ops.take(factors, token_ids, axis=0)

    def get_config(self):
        return super().get_config() | {
            "rate": self._rate,
            "vocabulary_size": self._vocabulary_size,
        }


@keras.saving.register_keras_serializable("stacked_rnn")
class ActivationPenalty(keras.layers.Layer):
    """Adds to the loss what large and what fast-changing outputs cost.

    AR and TAR of Merity et al. 2017, "Revisiting activation regularization for
    language RNNs":

        size * mean(dropped_t ** 2) + change * mean((h_t - h_{t-1}) ** 2)

    The means are over the units. `dropped` is what the readout sees: in the
    paper the top layer, here perhaps all layers. The layer adds a loss per row,
    [batch], each the sum over all time steps.

    Args:
        size: factor of the squared outputs after dropout, alpha in the paper.
        change: factor of the squared differences of consecutive outputs before
            dropout, beta in the paper.
    """

    def __init__(self, size, change, **options):
        super().__init__(**options)
        self._size, self._change = size, change

    def call(self, dropped, outputs, training=False):
        """Returns `dropped` unchanged.

        Args:
            dropped: [batch, time, features], what the readout sees.
            outputs: [batch, time, units], those of the top layer.
            training: whether to add the loss.
        """
        if training:
            changes = outputs[:, 1:] - outputs[:, :-1]
            self.add_loss(
                self._size * _sum_of_squares(dropped)
                + self._change * _sum_of_squares(changes)
            )
        return dropped

    def get_config(self):
        return super().get_config() | {
            "size": self._size,
            "change": self._change,
        }


def _sum_of_squares(x):
    """Sums the mean over the units of x ** 2 over all time steps."""
    squares = keras.ops.square(keras.ops.cast(x, "float32"))
    return keras.ops.sum(keras.ops.mean(squares, axis=-1), axis=-1)
