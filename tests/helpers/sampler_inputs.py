"""Options and random numbers for the samplers."""

import tensorflow as tf

from stacked_rnn.decoding import samplers
from stacked_rnn.decoding.options import DTYPES


def options(
    batch=1, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0
):
    """Sampling options of a batch: a value for all rows, or one per row."""

    values = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
    }
    return {
        name: tf.broadcast_to(tf.constant(value, DTYPES[name]), [batch])
        for name, value in values.items()
    }


def uniforms(seeds, count):
    """The first `count` random numbers of each seed, [count, seeds]."""
    places = tf.repeat(tf.range(count)[:, None], len(seeds), axis=1)
    return samplers.uniforms(tf.constant(seeds, tf.int64), places)
