"""Layers of any width as layers of a width that tensor cores like.

They take matrices of multiples of 8; XLA and cuDNN pad others time step by time
step, which takes half as long again (benchmarks/results/gpu.md). A layer with
some units more, all of whose weights are zero, gives the same: a unit of theirs
begins at zero and stays there, tanh(0) = 0 being all that it takes up.
"""

import tensorflow as tf


def missing(units) -> int:
    """How many units a layer lacks."""
    return -units % 8


def pad(x, count, axis=-1):
    """Zeros at the end of an axis."""
    if not count:
        return x
    paddings = [[0, 0] for _ in x.shape]
    paddings[axis][1] = count
    return tf.pad(x, paddings)


def pad_gates(weights, units):
    """[..., gates * units], each gate's block padded."""
    count = missing(units)
    if not count:
        return weights
    gates = weights.shape[-1] // units
    return tf.concat(
        [pad(block, count) for block in tf.split(weights, gates, axis=-1)],
        axis=-1,
    )
