"""Layers of any width as layers of a width that tensor cores like.

They take sizes that are multiples of 8, and others only by slow ways: 1,150
units take half as long again as 1,152 (benchmarks/results/gpu.md). A layer with
a few units more whose weights are all zero gives the same: a unit that begins
at zero stays there, as tanh(0) = 0 is all that its state takes up.
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
