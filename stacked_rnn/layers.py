"""Keras layers over `rnn_ops`: the stock layers, faster.

`GRU`, `LSTM` and `SimpleRNN` take the place of the layers of the same name in
`keras.layers`, of which they are subclasses: same arguments, same cells, same
weights, same results to rounding.

How a layer computes is what its arguments say, not what devices there are while
its graph is traced: by default a scan, which runs anywhere. With
`use_cudnn=True` it is cuDNN, which runs on a GPU alone.
"""

import keras
import tensorflow as tf

from stacked_rnn import rnn_ops


class _Scanned:
    """Puts a scan of `rnn_ops` in the place of a stock layer's loop.

    The stock loop is taken for what the scans do not know: `unroll`, cells of
    another type, activations other than the default ones.

    In training, XLA compiles the two loops of the scan if the shapes are known
    when the graph is built (else it would compile anew for every shape). What
    is exported or predicts needs no XLA.

    Attributes:
        jit_compile: False: leaves XLA out of training, too.
        use_cudnn: whether cuDNN takes the place of the scan (`rnn_ops.cudnn`).
            A mask must then be right-padded: True up to the length of a row.
        cudnn_cell: what `rnn_ops.cudnn` calls the cell; None: does not know it.
    """

    jit_compile = True
    use_cudnn = False
    cudnn_cell = None
    _state_mask = None  # within `call` only

    def call(
        self,
        sequences,
        initial_state=None,
        mask=None,
        training=False,
        state_mask=None,
    ):
        """As the stock layer, and several texts in one sequence.

        Args:
            state_mask: None, or bool [batch, time]: False where another text
                begins, before which the state is set to zero.
        """
        if state_mask is not None:
            if self.go_backwards or self.use_cudnn or not self._can_scan():
                raise ValueError(
                    f"{self.name}: state_mask is for what the scans compute, "
                    "forwards"
                )
            state_mask = _time_major(state_mask)
        self._state_mask = state_mask
        try:
            return super().call(
                sequences,
                initial_state=initial_state,
                mask=mask,
                training=training,
            )
        finally:
            self._state_mask = None

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
        state_mask = self._state_mask
        if self.use_cudnn:
            return self._by_cudnn(sequences, initial_state, mask, training)
        if not self._can_scan():
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
        padding = self._padding
        outputs, states = self._scan(
            tf.cast(self._project(x, input_masks), state_dtype),
            tuple(
                rnn_ops.widths.pad(tf.cast(state, state_dtype), padding)
                for state in initial_state
            ),
            recurrent_kernel=rnn_ops.widths.pad(
                self._padded(self._weight(self.cell.recurrent_kernel)),
                padding,
                axis=0,
            ),
            mask=mask,
            state_mask=None
            if state_mask is None
            else tf.cast(state_mask, state_dtype),
            dropout_masks=recurrent_masks
            and [
                rnn_ops.widths.pad(tf.cast(m, state_dtype), padding)
                for m in recurrent_masks
            ],
            jit_compile=(
                self.jit_compile
                and bool(training)
                and not tf.executing_eagerly()
                and x.shape[:2].is_fully_defined()
            ),
            custom_gradient=bool(training),
        )
        if padding:
            outputs, *states = (
                value[..., : self.units] for value in (outputs, *states)
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

    def _can_scan(self) -> bool:
        cell = self.cell
        return (
            type(cell) is self._cell_type
            and cell.activation is keras.activations.tanh
            and getattr(cell, "recurrent_activation", keras.activations.sigmoid)
            is keras.activations.sigmoid
            and max(cell.dropout, cell.recurrent_dropout) < 1.0
            and not self.unroll
        )

    def _by_cudnn(self, sequences, initial_state, mask, training):
        """As `inner_loop`, but that the outputs of masked steps are zeros."""
        if training and self.cell.dropout:
            dropout_mask = self.cell.get_dropout_mask(sequences[:, 0, :])
            sequences *= dropout_mask[:, None]
        lengths = None
        if mask is not None:
            with tf.device("CPU:0"):  # where `rnn_ops.cudnn` wants them
                lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        if self.go_backwards:
            sequences = _reverse(sequences, lengths)
        outputs, (states,) = rnn_ops.cudnn.stack(
            self.cudnn_cell,
            sequences,
            (initial_state,),
            (self.cudnn_weights(),),
            lengths,
        )
        last = states[0]
        if lengths is not None:
            last = tf.where(lengths[:, None] > 0, last, tf.zeros_like(last))
        if not self.return_sequences:
            return last, last[:, None], list(states)
        if self.go_backwards:
            # In the order of the steps: those of the padding are the first.
            outputs = tf.reverse(_reverse(outputs, lengths), [1])
        return last, outputs, list(states)

    def cudnn_weights(self):
        """Kernel, recurrent kernel and bias, as `rnn_ops.cudnn` takes them.

        Raises:
            ValueError: cuDNN does not compute what this layer does.
        """
        cell = self.cell
        if not (
            self.cudnn_cell
            and self._can_scan()
            and cell.use_bias
            and getattr(cell, "reset_after", True)
            and not cell.recurrent_dropout
            and cell.compute_dtype in ("float32", "float16")
        ):
            raise ValueError(
                f"{self.name}: use_cudnn is for a GRU or LSTM as Keras makes "
                "it, without recurrent_dropout, in float32 or float16"
            )
        return tuple(
            map(self._weight, (cell.kernel, cell.recurrent_kernel, cell.bias))
        )

    @property
    def _padding(self):
        """Units that the scan has more than the layer, in bfloat16."""
        if self.cell.compute_dtype != "bfloat16":
            return 0
        return rnn_ops.widths.missing(self.units)

    def _weight(self, variable):
        return tf.cast(tf.convert_to_tensor(variable), self.cell.compute_dtype)

    def _padded(self, weights):
        """[..., gates * units], as the scan has them."""
        if not self._padding:
            return weights
        return rnn_ops.widths.pad_gates(weights, self.units)

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
        kernel = self._padded(self._weight(self.cell.kernel))
        if dropout_masks is None:
            products = _product(x, kernel)
        else:
            blocks = tf.split(kernel, len(dropout_masks), axis=1)
            products = tf.concat(
                [_product(x * m, b) for m, b in zip(dropout_masks, blocks)],
                axis=-1,
            )
        if self.cell.use_bias:
            bias = self._padded(self._weight(self._input_bias()))
            products = tf.nn.bias_add(products, bias)
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
    cudnn_cell = "gru"

    def __init__(self, units, use_cudnn=False, **options):
        super().__init__(units, use_cudnn=use_cudnn, **options)

    def _input_bias(self):
        return self.cell.bias[0] if self.cell.reset_after else self.cell.bias

    def _scan(self, x, states, **options):
        recurrent_bias = None
        if self.cell.use_bias and self.cell.reset_after:
            recurrent_bias = self._padded(
                tf.cast(tf.convert_to_tensor(self.cell.bias)[1], x.dtype)
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
    cudnn_cell = "lstm"

    def __init__(self, units, use_cudnn=False, **options):
        super().__init__(units, use_cudnn=use_cudnn, **options)

    def _scan(self, x, states, **options):
        return rnn_ops.lstm(x, states, **options)


class CudnnStack(keras.layers.Layer):
    """Layers one above the other as one call of cuDNN.

    Has no weights of its own: whoever made the layers saves them.

    Args:
        stack: of `GRU` or `LSTM`, of one width, built, forwards; each may
            still be called by itself.
    """

    def __init__(self, stack, **options):
        super().__init__(**options)
        self._stack = tuple(stack)

    def call(self, sequences, initial_state):
        """Runs all layers over all time steps.

        Args:
            sequences: [batch, time, inputs].
            initial_state: states[layer][part], each [batch, units].

        Returns:
            The outputs of the top layer, [batch, time, units], and the new
            states.
        """
        return rnn_ops.cudnn.stack(
            self._stack[0].cudnn_cell,
            sequences,
            initial_state,
            [layer.cudnn_weights() for layer in self._stack],
        )


def _reverse(sequences, lengths):
    """[batch, time, ...], the time steps of each row in reverse order."""
    if lengths is None:
        return tf.reverse(sequences, [1])
    return tf.reverse_sequence(sequences, lengths, seq_axis=1)


def _product(x, kernel):
    """All time steps in one matrix product: [time * batch, outputs]."""
    return tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)


def _time_major(mask):
    """[batch, time] or [batch, time, 1] -> bool [time, batch, 1]."""
    mask = tf.cast(mask, tf.bool)
    if len(mask.shape) == 2:
        mask = mask[..., None]
    return tf.transpose(mask, (1, 0, 2))
