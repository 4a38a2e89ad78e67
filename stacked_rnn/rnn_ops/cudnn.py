"""NVIDIA's cuDNN in the place of the scans: layers of a stack in one call.

For float32 and float16 alone. In bfloat16 `CudnnRNNV3` of TensorFlow 2.21
computes in float32, so no faster, and its gradients are wrong: what the forward
pass saved for them is not handed on (tests/gpu_test.py watches it). The op
exists on a GPU only: a graph that holds it runs nowhere else.
"""

import tensorflow as tf

from stacked_rnn.rnn_ops import widths

CELLS = ("gru", "lstm")


def stack(cell, x, states, weights, lengths=None):
    """Layers of one width one above the other: all time steps of all of them.

    cuDNN works on several layers at the same time (Appleyard et al. 2016,
    section 3.3): one call is faster than a call for each layer.

    Args:
        cell: "gru" (the reset gate after the product) or "lstm".
        x: the inputs, [batch, time, inputs], float32 or float16.
        states: states[layer][part], each [batch, units], in the dtype of x.
        weights: for each layer kernel, recurrent kernel and bias, as Keras has
            them, in the dtype of x.
        lengths: None, or int32 [batch]: the time steps of each row. A row of
            none leaves the state as it is.

    Returns:
        The outputs of the top layer, [batch, time, units], zero beyond the
        length of a row, and the new states.
    """
    units = states[0][0].shape[-1]
    x, weights = _widened(x, weights, units)
    states = [
        [widths.pad(part, widths.missing(units)) for part in parts]
        for parts in states
    ]
    # Time first is the faster way. But an op that has seen a batch of full rows
    # fails at the first other one, unless the batch comes first: it keeps the
    # descriptor that it has made, which is of full rows.
    time_major = lengths is None
    with tf.device("CPU:0"):  # where the op wants the lengths
        if time_major:
            batch_size, time = tf.unstack(tf.shape(x)[:2])
            counted = tf.fill([batch_size], time)
        else:
            counted = tf.maximum(lengths, 1)  # older cuDNN refuses empty rows
    axis = 0 if time_major else 1  # of the layers in the states
    h, c = (
        tf.stack([parts[part] for parts in states], axis) for part in (0, -1)
    )
    outputs, new_h, new_c, _, _ = tf.raw_ops.CudnnRNNV3(
        input=tf.transpose(x, (1, 0, 2)) if time_major else x,
        input_h=h,
        input_c=c if cell == "lstm" else tf.zeros([], x.dtype),
        params=_parameters(cell, weights),
        sequence_lengths=counted,
        rnn_mode=cell,
        time_major=time_major,
        is_training=True,
    )
    new = [new_h, new_c] if cell == "lstm" else [new_h]
    if time_major:
        outputs = tf.transpose(outputs, (1, 0, 2))
    else:
        is_empty = (lengths == 0)[:, None, None]
        outputs = tf.where(is_empty, tf.zeros_like(outputs), outputs)
        new = [tf.where(is_empty, old, part) for old, part in zip((h, c), new)]
    outputs = tf.ensure_shape(outputs, (*x.shape[:2], h.shape[-1]))
    new = [
        tf.unstack(
            tf.ensure_shape(part, h.shape)[..., :units], len(states), axis
        )
        for part in new
    ]
    return outputs[..., :units], tuple(zip(*new))


def _widened(x, weights, units):
    """The inputs and the weights of layers as `widths` has them."""
    wide = []
    x = widths.pad(x, widths.missing(x.shape[-1]))
    inputs = x.shape[-1]
    for kernel, recurrent_kernel, bias in weights:
        rows = inputs - kernel.shape[0]
        wide.append(
            (
                widths.pad(widths.pad_gates(kernel, units), rows, axis=0),
                widths.pad(
                    widths.pad_gates(recurrent_kernel, units),
                    widths.missing(units),
                    axis=0,
                ),
                widths.pad_gates(bias, units),
            )
        )
        inputs = units + widths.missing(units)
    return x, wide


def _parameters(cell, weights):
    """All weights as cuDNN takes them: a vector, matrices before biases."""
    matrices, biases = [], []
    for kernel, recurrent_kernel, bias in weights:
        matrices += [
            tf.reshape(_in_order(cell, tf.transpose(matrix)), [-1])
            for matrix in (kernel, recurrent_kernel)
        ]
        if cell == "lstm":  # cuDNN has a bias for the state, too
            bias = tf.stack([bias, tf.zeros_like(bias)])
        biases += [_in_order(cell, row) for row in tf.unstack(bias)]
    return tf.concat(matrices + biases, axis=0)


def _in_order(cell, gates):
    """[gates * units, ...], from the order of Keras to that of cuDNN."""
    if cell == "lstm":
        return gates  # i, f, g, o in both
    z, r, c = tf.split(gates, 3)
    return tf.concat([r, z, c], axis=0)
