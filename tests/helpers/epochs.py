"""Batches of windows as a training reads them."""

import tensorflow as tf


def batch(windows, step, rows=None):
    """The batch of one step."""
    page, length = tf.constant(windows.page(step)), windows.length_of(step)
    return windows.batch(step, page, rows, length)


def batches(windows, epoch=0):
    """Yields (inputs, targets) of one epoch, in NumPy."""
    cut = tf.function(windows.batch, autograph=False)
    first = epoch * windows.steps_per_epoch
    for step in range(first, first + windows.steps_per_epoch):
        if windows.begins_page(step):
            page = tf.constant(windows.page(step))
        inputs, targets = cut(
            tf.constant(step, tf.int64), page, length=windows.length_of(step)
        )
        yield inputs.numpy(), targets.numpy()


def epoch_targets(windows, epoch=0):
    """All targets of one epoch, without padding, in order."""
    return [
        int(token)
        for _, targets in batches(windows, epoch)
        for token in targets[targets >= 0]
    ]
