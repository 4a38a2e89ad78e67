"""Options and random numbers for the samplers."""

import tensorflow as tf

from stacked_rnn.decoding import samplers


def options(
    batch=1, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0
):
    """Sampling options of a batch: a value for all rows, or one per row."""

    def rows(value, dtype):
        return tf.broadcast_to(tf.constant(value, dtype), [batch])

    return samplers.SamplingOptions(
        rows(temperature, tf.float32),
        rows(top_k, tf.int32),
        rows(top_p, tf.float32),
        rows(repetition_penalty, tf.float32),
    )


def uniforms(seeds, count):
    """The first `count` random numbers of each seed, [count, seeds]."""
    places = tf.repeat(tf.range(count)[:, None], len(seeds), axis=1)
    return samplers.uniforms(tf.constant(seeds, tf.int64), places)
