"""A stack of recurrent layers in one call of NVIDIA's cuDNN.

Supports float32 and float16 only. In bfloat16, `CudnnRNNV3` of TensorFlow 2.21
computes in float32, so it is no faster, and its gradients are wrong: what the
forward pass saves for the backward pass is not passed on (tests/gpu_test.py
checks whether it still is so). The op exists on GPUs only, so a graph that
holds it runs nowhere else.
"""

import tensorflow as tf

from stacked_rnn.rnn_ops import widths

CELLS = ("gru", "lstm")


def stack(cell, x, states, weights, lengths=None):
    """Runs a stack of layers of equal width over all time steps.

    cuDNN computes several layers at the same time (Appleyard et al. 2016,
    section 3.3): one call is faster than a call per layer.

    Args:
        cell: "gru" (with reset_after) or "lstm".
        x: the inputs, [batch, time, inputs], float32 or float16.
        states: states[layer][part], each [batch, units], in the dtype of x.
        weights: for each layer its kernel, recurrent kernel and bias, laid out
            as in Keras, in the dtype of x.
        lengths: None, or int32 [batch]: the number of time steps of each row. A
            row of length 0 keeps its state.

    Returns:
        The outputs of the top layer [batch, time, units], zero beyond the
        length of a row, and the new states, nested like `states`.
    """
    units = states[0][0].shape[-1]
    x, weights = _pad(x, weights, units)
    states = [
        [widths.pad(part, widths.num_missing(units)) for part in parts]
        for parts in states
    ]
    # Time-major is faster. But a time-major op that has seen a batch of full
    # rows fails on the first batch with shorter ones: it keeps the descriptor
    # that it made for full rows.
    time_major = lengths is None
    with tf.device("CPU:0"):  # where the op needs the lengths
        if time_major:
            batch_size, time = tf.unstack(tf.shape(x)[:2])
            row_lengths = tf.fill([batch_size], time)
        else:  # older versions of cuDNN refuse empty rows
            row_lengths = tf.maximum(lengths, 1)
    axis = 0 if time_major else 1  # the axis of layers in h and c
    h, c = (
        tf.stack([parts[part] for parts in states], axis) for part in (0, -1)
    )
    outputs, new_h, new_c, _, _ = tf.raw_ops.CudnnRNNV3(
        input=tf.transpose(x, (1, 0, 2)) if time_major else x,
        input_h=h,
        input_c=c if cell == "lstm" else tf.zeros([], x.dtype),
        params=_parameters(cell, weights),
        sequence_lengths=row_lengths,
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


def _pad(x, weights, units):
    """Pads the inputs and the weights of all layers, see `widths`."""
    padded = []
    x = widths.pad(x, widths.num_missing(x.shape[-1]))
    inputs = x.shape[-1]
    for kernel, recurrent_kernel, bias in weights:
        rows = inputs - kernel.shape[0]
        padded.append(
            (
                widths.pad(widths.pad_gates(kernel, units), rows, axis=0),
                widths.pad(
                    widths.pad_gates(recurrent_kernel, units),
                    widths.num_missing(units),
                    axis=0,
                ),
                widths.pad_gates(bias, units),
            )
        )
        inputs = units + widths.num_missing(units)
    return x, padded


def _parameters(cell, weights):
    """Packs all weights into cuDNN's vector: all matrices, then all biases."""
    matrices, biases = [], []
    for kernel, recurrent_kernel, bias in weights:
        matrices += [
            tf.reshape(_reorder_gates(cell, tf.transpose(matrix)), [-1])
            for matrix in (kernel, recurrent_kernel)
        ]
        if cell == "lstm":  # cuDNN has a recurrent bias, too
            bias = tf.stack([bias, tf.zeros_like(bias)])
        biases += [_reorder_gates(cell, row) for row in tf.unstack(bias)]
    return tf.concat(matrices + biases, axis=0)


def _reorder_gates(cell, gates):
    """Reorders [gates * units, ...] from the gate order of Keras to cuDNN's."""
    if cell == "lstm":
        return gates  # i, f, g, o in both
    z, r, c = tf.split(gates, 3)
    return tf.concat([r, z, c], axis=0)
