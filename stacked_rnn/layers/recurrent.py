"""Faster drop-in replacements for the recurrent layers of Keras.

`GRU`, `LSTM` and `SimpleRNN` are subclasses of the layers of the same name in
`keras.layers`: the arguments, cells and weights are the same, and so are the
results up to rounding.

Only its arguments decide how a layer computes, never the devices that exist
when its graph is traced. By default it runs a scan of `rnn_ops`, which works on
any device; with `use_cudnn=True` it runs cuDNN, which needs a GPU.
"""

import keras
import tensorflow as tf

from stacked_rnn import rnn_ops
from stacked_rnn.layers import masks


class _ScanMixin:
    """Replaces the time loop of a Keras RNN layer by a scan of `rnn_ops`.

    The layer falls back to the loop of Keras for what the scans do not support:
    `unroll`, other cells, and other activations than the defaults.

    In training, XLA compiles both loops of the scan if the shapes are known
    when the graph is built (otherwise it would compile once for every shape).
    Inference and exported graphs do not use XLA.

    Attributes:
        jit_compile: whether XLA may compile the loops in training.
        xla_for_gpu: whether XLA compiles the loops for a GPU: with few kernels
            (`rnn_ops.loops.scan`), and widths padded (`rnn_ops.widths`).
        use_cudnn: whether cuDNN replaces the scan (`rnn_ops.cudnn`). Masks must
            then be right-padded: True for the first steps of a row, then False.
        weight_dropout: fraction of the recurrent kernel that is dropped in
            training, the same weights at all time steps: DropConnect as in
            Merity et al. 2017, "Regularizing and optimizing LSTM language
            models".
        jit_compile_masks: whether XLA may compile the drawing of that, see
            `masks.dropout`.
        cudnn_cell: the name of the cell in `rnn_ops.cudnn`, or None if it is
            not supported.
    """

    jit_compile = True
    xla_for_gpu = False
    use_cudnn = False
    weight_dropout = 0.0
    jit_compile_masks = True
    cudnn_cell: str | None = None
    cell: keras.Layer
    unroll: bool
    _cell_type: type[keras.Layer]
    _state_mask = None  # set during `call` only

    def call(
        self,
        sequences,
        initial_state=None,
        mask=None,
        training=False,
        state_mask=None,
    ):
        """Runs the layer like that of Keras, with an optional `state_mask`.

        Args:
            sequences: [batch, time, inputs].
            initial_state: None, or a list of [batch, units].
            mask: None, or bool [batch, time], False at padding.
            training: whether dropout is applied.
            state_mask: None, or bool [batch, time], for several texts in one
                sequence: False at the first token of each, before which the
                state is set to zero.

        Returns:
            As the Keras layer of the same name.

        Raises:
            ValueError: a state_mask cannot be combined with `go_backwards`,
                `use_cudnn`, or what makes the layer fall back to Keras.
        """
        if state_mask is not None:
            if self.go_backwards or self.use_cudnn or not self._can_scan():
                raise ValueError(
                    f"{self.name}: state_mask needs a layer that runs forwards "
                    "and without cuDNN, unroll or custom activations"
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
        """Runs the time loop; `keras.layers.RNN.call` calls this.

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
            return self._cudnn_loop(sequences, initial_state, mask, training)
        if not self._can_scan():
            if self.weight_dropout or getattr(self, "cap_input_gate", False):
                raise ValueError(
                    f"{self.name}: weight_dropout and cap_input_gate need a "
                    "layer without unroll or custom activations"
                )
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
                self._pad_gates(self._recurrent_kernel(training)),
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
            few_kernels=self.xla_for_gpu,
            custom_gradient=bool(training),
        )
        if padding:
            outputs, *states = (
                value[..., : self.units] for value in (outputs, *states)
            )
        if mask is not None:
            # A masked step repeats the output before it, or zeros if none.
            has_output = mask
            if not self.zero_output_for_mask:
                has_output = tf.cumsum(tf.cast(mask, tf.int32)) > 0
            outputs = tf.where(has_output, outputs, tf.zeros_like(outputs))
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

    def get_config(self):
        return super().get_config() | {"weight_dropout": self.weight_dropout}

    def _cudnn_loop(self, sequences, initial_state, mask, training):
        """Does as `inner_loop`, but the outputs of masked steps are zeros."""
        if training and self.cell.dropout:
            dropout_mask = self.cell.get_dropout_mask(sequences[:, 0, :])
            sequences *= dropout_mask[:, None]
        lengths = None
        if mask is not None:
            with tf.device("CPU:0"):  # where `rnn_ops.cudnn` needs them
                lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        if self.go_backwards:
            sequences = _reverse(sequences, lengths)
        outputs, (states,) = rnn_ops.cudnn.stack(
            self.cudnn_cell,
            sequences,
            (initial_state,),
            (self.cudnn_weights(training),),
            lengths,
        )
        last = states[0]
        if lengths is not None:
            last = tf.where(lengths[:, None] > 0, last, tf.zeros_like(last))
        if not self.return_sequences:
            return last, last[:, None], list(states)
        if self.go_backwards:
            # In the order of computation, so padding comes first.
            outputs = tf.reverse(_reverse(outputs, lengths), [1])
        return last, outputs, list(states)

    def cudnn_weights(self, training=False):
        """Returns the kernel, recurrent kernel and bias for `rnn_ops.cudnn`.

        Args:
            training: whether `weight_dropout` is applied.

        Raises:
            ValueError: cuDNN does not support this layer.
        """
        cell = self.cell
        if not (
            self.cudnn_cell
            and self._can_scan()
            and cell.use_bias
            and getattr(cell, "reset_after", True)
            and not cell.recurrent_dropout
            and type(cell) is not CappedLSTMCell
            and cell.compute_dtype in ("float32", "float16")
        ):
            raise ValueError(
                f"{self.name}: use_cudnn needs a GRU or LSTM with the default "
                "activations, use_bias, reset_after and unroll, without "
                "recurrent_dropout, in float32 or float16"
            )
        return (
            self._weight(cell.kernel),
            self._recurrent_kernel(training),
            self._weight(cell.bias),
        )

    @property
    def _padding(self):
        """Number of units that are added for the scan, for tensor cores."""
        if self.xla_for_gpu or self.cell.compute_dtype == "bfloat16":
            return rnn_ops.widths.num_missing(self.units)
        return 0

    def _weight(self, variable):
        return tf.cast(tf.convert_to_tensor(variable), self.cell.compute_dtype)

    def _recurrent_kernel(self, training):
        """Returns the recurrent kernel, with dropout in training."""
        kernel = self._weight(self.cell.recurrent_kernel)
        if not (training and self.weight_dropout):
            return kernel
        return masks.dropout(
            kernel,
            self.weight_dropout,
            self.cell.seed_generator,
            jit_compile=self.jit_compile_masks,
        )

    def _pad_gates(self, weights):
        """Pads weights [..., gates * units] by `_padding` units per gate."""
        if not self._padding:
            return weights
        return rnn_ops.widths.pad_gates(weights, self.units)

    def _input_bias(self):
        return self.cell.bias

    def _dropout_masks(self, sequences, initial_state, training):
        """Draws the dropout masks of this call.

        Returns:
            The masks of the inputs and those of the states: each is None, or a
            list with a mask [batch, inputs or units] per gate.
        """
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
        """Computes W x + b, the projected inputs, for all time steps at once.

        Args:
            x: [time, batch, inputs].
            dropout_masks: None, or a list with a mask [batch, inputs] per gate.

        Returns:
            [time, batch, gates * units].
        """
        kernel = self._pad_gates(self._weight(self.cell.kernel))
        count = (
            rnn_ops.widths.num_missing(x.shape[-1]) if self.xla_for_gpu else 0
        )
        kernel = rnn_ops.widths.pad(kernel, count, axis=0)

        def matmul(x, kernel):  # of all time steps
            x = rnn_ops.widths.pad(x, count)
            return tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)

        if dropout_masks is None:
            projected = matmul(x, kernel)
        else:
            blocks = tf.split(kernel, len(dropout_masks), axis=1)
            projected = tf.concat(
                [matmul(x * m, b) for m, b in zip(dropout_masks, blocks)],
                axis=-1,
            )
        if self.cell.use_bias:
            bias = self._pad_gates(self._weight(self._input_bias()))
            projected = tf.nn.bias_add(projected, bias)
        shape = (*tf.unstack(tf.shape(x)[:2]), kernel.shape[1])
        projected = tf.reshape(projected, shape)
        return tf.ensure_shape(projected, (*x.shape[:2], kernel.shape[1]))


@keras.saving.register_keras_serializable("stacked_rnn")
class SimpleRNN(_ScanMixin, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN`, computed by `rnn_ops.simple_rnn`.

    The arguments are those of Keras, and `weight_dropout`. A call also takes a
    `state_mask`, see `GRU`.
    """

    _cell_type = keras.layers.SimpleRNNCell

    def __init__(self, units, weight_dropout=0.0, **options):
        super().__init__(units, **options)
        self.weight_dropout = weight_dropout

    def _scan(self, x, states, **options):
        return rnn_ops.simple_rnn(x, states, **options)


@keras.saving.register_keras_serializable("stacked_rnn")
class GRU(_ScanMixin, keras.layers.GRU):
    """`keras.layers.GRU`, computed by `rnn_ops.gru` or cuDNN.

    A call also takes a `state_mask`: None, or bool [batch, time], False where
    another text begins in a sequence: the state is set to zero before it.

    Args:
        units: width of the layer.
        use_cudnn: whether cuDNN runs the layer, on a GPU only. Masks must then
            be right-padded.
        weight_dropout: fraction of the recurrent kernel that is dropped in
            training.
        **options: the further arguments of `keras.layers.GRU`.
    """

    _cell_type = keras.layers.GRUCell
    cudnn_cell = "gru"

    def __init__(self, units, use_cudnn=False, weight_dropout=0.0, **options):
        super().__init__(units, use_cudnn=use_cudnn, **options)
        self.weight_dropout = weight_dropout

    def _input_bias(self):
        return self.cell.bias[0] if self.cell.reset_after else self.cell.bias

    def _scan(self, x, states, **options):
        recurrent_bias = None
        if self.cell.use_bias and self.cell.reset_after:
            recurrent_bias = self._pad_gates(
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
class CappedLSTMCell(keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` whose input gate is at most 1 - forget gate.

    It takes one time step of inference; `LSTM` runs windows with dropout.
    """

    def call(self, inputs, states, training=False):
        h, c = states
        gates = keras.ops.matmul(inputs, self.kernel) + keras.ops.matmul(
            h, self.recurrent_kernel
        )
        if self.use_bias:
            gates += self.bias
        x_i, x_f, x_g, x_o = keras.ops.split(gates, 4, axis=1)
        f = keras.ops.sigmoid(x_f)
        i = keras.ops.minimum(keras.ops.sigmoid(x_i), 1 - f)
        c = f * c + i * keras.ops.tanh(x_g)
        h = keras.ops.sigmoid(x_o) * keras.ops.tanh(c)
        return h, [h, c]


@keras.saving.register_keras_serializable("stacked_rnn")
class LSTM(_ScanMixin, keras.layers.LSTM):
    """`keras.layers.LSTM`, computed by `rnn_ops.lstm` or cuDNN.

    A call also takes a `state_mask`, see `GRU`.

    Args:
        units: width of the layer.
        use_cudnn: whether cuDNN runs the layer, on a GPU only. Masks must then
            be right-padded.
        weight_dropout: fraction of the recurrent kernel that is dropped in
            training.
        cap_input_gate: whether the input gate is at most 1 - forget gate, see
            `rnn_ops.lstm`.
        **options: the further arguments of `keras.layers.LSTM`.
    """

    _cell_type = keras.layers.LSTMCell
    cudnn_cell = "lstm"

    def __init__(
        self,
        units,
        use_cudnn=False,
        weight_dropout=0.0,
        cap_input_gate=False,
        **options,
    ):
        super().__init__(units, use_cudnn=use_cudnn, **options)
        self.weight_dropout = weight_dropout
        self.cap_input_gate = cap_input_gate
        if cap_input_gate:
            self.cell = CappedLSTMCell.from_config(self.cell.get_config())
            self._cell_type = CappedLSTMCell

    def get_config(self):
        return super().get_config() | {"cap_input_gate": self.cap_input_gate}

    def _scan(self, x, states, **options):
        return rnn_ops.lstm(
            x, states, cap_input_gate=self.cap_input_gate, **options
        )


class CudnnStack(keras.layers.Layer):
    """Runs a stack of recurrent layers in one call of cuDNN.

    It has no weights of its own: the model that made the layers saves theirs.

    Args:
        stack: `GRU` or `LSTM` layers, built, all forward and of the same width.
            Each may still be called on its own.
    """

    def __init__(self, stack, **options):
        super().__init__(**options)
        self._stack = tuple(stack)

    def call(self, sequences, initial_state, training=False):
        """Runs all layers over all time steps.

        Args:
            sequences: [batch, time, inputs].
            initial_state: `states[layer][part]`, each [batch, units].
            training: whether the layers' `weight_dropout` is applied.

        Returns:
            The outputs of the top layer [batch, time, units], and the new
            states, nested like `initial_state`.

        Raises:
            ValueError: cuDNN does not support one of the layers.
        """
        return rnn_ops.cudnn.stack(
            self._stack[0].cudnn_cell,
            sequences,
            initial_state,
            [layer.cudnn_weights(training) for layer in self._stack],
        )


def _reverse(sequences, lengths):
    """Reverses [batch, time, ...] in time, each row within its length."""
    if lengths is None:
        return tf.reverse(sequences, [1])
    return tf.reverse_sequence(sequences, lengths, seq_axis=1)


def _time_major(mask):
    """Transposes [batch, time] or [batch, time, 1] to bool [time, batch, 1]."""
    mask = tf.cast(mask, tf.bool)
    if len(mask.shape) == 2:
        mask = mask[..., None]
    return tf.transpose(mask, (1, 0, 2))
