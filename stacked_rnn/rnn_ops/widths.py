"""Pads layers to a width that suits tensor cores, a multiple of 8.

Other widths take a slow path: 1,150 units take half as long again as 1,152
(benchmarks/results/gpu.md). Extra units whose weights are all zero do not
change a layer's results: their state starts at zero and remains there, because
the candidate that is added to it is tanh(0) = 0.
"""

import tensorflow as tf


def num_missing(units) -> int:
    """Returns how many units a layer needs to reach a multiple of 8."""
    return -units % 8


def pad(x, count, axis=-1):
    """Appends `count` zeros to an axis."""
    if not count:
        return x
    paddings = [[0, 0] for _ in x.shape]
    paddings[axis][1] = count
    return tf.pad(x, paddings)


def pad_gates(weights, units):
    """Pads the block of each gate in weights [..., gates * units]."""
    count = num_missing(units)
    if not count:
        return weights
    gates = weights.shape[-1] // units
    return tf.concat(
        [pad(block, count) for block in tf.split(weights, gates, axis=-1)],
        axis=-1,
    )
