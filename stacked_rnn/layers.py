"""Keras layers over `rnn_ops`: the stock layers, faster on a CPU.

`GRU`, `LSTM` and `SimpleRNN` take the place of the layers of the same name in
`keras.layers`, of which they are subclasses: same arguments, same cells, same
weights, same results to rounding.
"""

import keras
import tensorflow as tf

from stacked_rnn import rnn_ops


class _Scanned:
    """Puts a scan of `rnn_ops` in the place of a stock layer's loop.

    The stock path is taken where it is faster, on a GPU (cuDNN), and for what
    the scans do not know: `unroll`, cells of another type, activations other
    than the default ones.

    In training, XLA compiles the two loops of the scan if the shapes are known
    when the graph is built (else it would compile anew for every shape). What
    is exported or predicts needs no XLA.

    Attributes:
        jit_compile: False: leaves XLA out of training, too.
    """

    jit_compile = True

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The hook of `keras.layers.RNN`: see `keras.layers.RNN.call`.

        Args:
            sequences: [batch, time, inputs].
            initial_state: list of [batch, units].
            mask: None, or bool [batch, time].
            training: whether dropout is applied.

        Returns:
            The last output [batch, units], the outputs [batch, time, units]
            (without `return_sequences` [batch, 1, units]), and the list of
            final states.
        """
        if not self._can_scan(sequences):
            return super().inner_loop(sequences, initial_state, mask, training)
        is_float64 = self.cell.compute_dtype == "float64"
        state_dtype = tf.float64 if is_float64 else tf.float32
        x = tf.transpose(sequences, (1, 0, 2))
        if mask is not None:
            mask = _time_major(mask)
        if self.go_backwards:
            x = tf.reverse(x, [0])
            if mask is not None:
                mask = tf.reverse(mask, [0])
        input_masks, recurrent_masks = self._dropout_masks(
            sequences, initial_state, training
        )
        outputs, states = self._scan(
            tf.cast(self._project(x, input_masks), state_dtype),
            tuple(tf.cast(state, state_dtype) for state in initial_state),
            recurrent_kernel=self._weight(self.cell.recurrent_kernel),
            mask=mask,
            dropout_masks=recurrent_masks
            and [tf.cast(m, state_dtype) for m in recurrent_masks],
            jit_compile=(
                self.jit_compile
                and bool(training)
                and not tf.executing_eagerly()
                and x.shape[:2].is_fully_defined()
            ),
            custom_gradient=bool(training),
        )
        if mask is not None:
            # A masked step repeats the output before it, at first zeros.
            shown = mask
            if not self.zero_output_for_mask:
                shown = tf.cumsum(tf.cast(mask, tf.int32)) > 0
            outputs = tf.where(shown, outputs, tf.zeros_like(outputs))
        last = outputs[-1]
        if not self.return_sequences:
            return last, last[:, None], list(states)
        return last, tf.transpose(outputs, (1, 0, 2)), list(states)

    def _can_scan(self, sequences) -> bool:
        cell = self.cell
        return (
            type(cell) is self._cell_type
            and cell.activation is keras.activations.tanh
            and getattr(cell, "recurrent_activation", keras.activations.sigmoid)
            is keras.activations.sigmoid
            and max(cell.dropout, cell.recurrent_dropout) < 1.0
            and not self.unroll
            and len(sequences.shape) == 3
            and not tf.config.list_logical_devices("GPU")
        )

    def _weight(self, variable):
        return tf.cast(tf.convert_to_tensor(variable), self.cell.compute_dtype)

    def _input_bias(self):
        return self.cell.bias

    def _dropout_masks(self, sequences, initial_state, training):
        """For the inputs and the states: None, or one mask a gate."""
        if not training:
            return None, None
        cell = self.cell
        masks = (
            cell.get_dropout_mask(sequences[:, 0, :]),
            cell.get_recurrent_dropout_mask(initial_state[0]),
        )
        return tuple(
            [m] if m is not None and not isinstance(m, list) else m
            for m in masks
        )

    def _project(self, x, dropout_masks):
        """W x + b for all time steps in one product."""
        kernel = self._weight(self.cell.kernel)
        if dropout_masks is None:
            products = _product(x, kernel)
        else:
            blocks = tf.split(kernel, len(dropout_masks), axis=1)
            products = tf.concat(
                [_product(x * m, b) for m, b in zip(dropout_masks, blocks)],
                axis=-1,
            )
        if self.cell.use_bias:
            products = tf.nn.bias_add(
                products, self._weight(self._input_bias())
            )
        shape = (*tf.unstack(tf.shape(x)[:2]), kernel.shape[1])
        products = tf.reshape(products, shape)
        return tf.ensure_shape(products, (*x.shape[:2], kernel.shape[1]))


@keras.saving.register_keras_serializable("stacked_rnn")
class SimpleRNN(_Scanned, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` by `rnn_ops.simple_rnn`."""

    _cell_type = keras.layers.SimpleRNNCell

    def _scan(self, x, states, **options):
        return rnn_ops.simple_rnn(x, states, **options)


@keras.saving.register_keras_serializable("stacked_rnn")
class GRU(_Scanned, keras.layers.GRU):
    """`keras.layers.GRU` by `rnn_ops.gru`."""

    _cell_type = keras.layers.GRUCell

    def _input_bias(self):
        return self.cell.bias[0] if self.cell.reset_after else self.cell.bias

    def _scan(self, x, states, **options):
        recurrent_bias = None
        if self.cell.use_bias and self.cell.reset_after:
            recurrent_bias = tf.cast(
                tf.convert_to_tensor(self.cell.bias)[1], x.dtype
            )
        return rnn_ops.gru(
            x,
            states,
            recurrent_bias=recurrent_bias,
            reset_after=self.cell.reset_after,
            **options,
        )


@keras.saving.register_keras_serializable("stacked_rnn")
class LSTM(_Scanned, keras.layers.LSTM):
    """`keras.layers.LSTM` by `rnn_ops.lstm`."""

    _cell_type = keras.layers.LSTMCell

    def _scan(self, x, states, **options):
        return rnn_ops.lstm(x, states, **options)


def _product(x, kernel):
    """All time steps in one matrix product: [time * batch, outputs]."""
    return tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)


def _time_major(mask):
    """[batch, time] or [batch, time, 1] -> bool [time, batch, 1]."""
    mask = tf.cast(mask, tf.bool)
    if len(mask.shape) == 2:
        mask = mask[..., None]
    return tf.transpose(mask, (1, 0, 2))
