"""The generation loop, given a step function: no model, no text in here."""

import numpy as np
import tensorflow as tf

from stacked_rnn import samplers


def generate(
    decode_step,
    token_ids,
    states,
    *,
    options,
    seeds,
    max_new_tokens,
    seen,
    never=None,
):
    """Draws tokens one after the other, each row until its own limit.

    Args:
        decode_step: (token_ids int32 [batch], states) -> (logits float32
            [batch, vocabulary], states).
        token_ids: int32 [batch], the last token of each prompt.
        states: the states before that token, a nest of [batch, units].
        options: `samplers.SamplingOptions`.
        seeds: int64 [batch], one stream of random numbers a row.
        max_new_tokens: int32 [batch]; 0: nothing.
        seen: bool [batch, vocabulary], what the repetition penalty takes as
            seen before the first draw.
        never: an id that is never drawn, such as the unknown token.

    Returns:
        token_ids: int32 [batch, longest], 0 beyond a row's length.
        log_probs: float32 [batch, longest], the model's own log p(token),
            before temperature, penalty and truncation.
    """
    longest = tf.reduce_max(tf.concat([max_new_tokens, [0]], axis=0))
    steps = tf.maximum(longest, 1)  # no step would leave shapes unknown
    vocabulary_size = seen.shape[-1]
    uniforms = samplers.uniforms(seeds, steps)
    allowed = np.zeros(vocabulary_size, np.float32)
    if never is not None:
        allowed[never] = -np.inf
    penalizes = tf.reduce_any(options.repetition_penalty != 1.0)

    def draw(position, token_ids, states, seen, drawn, log_probs):
        logits, states = decode_step(token_ids, states)
        logits = tf.cast(logits, tf.float32)
        penalized = tf.cond(
            penalizes,
            lambda: samplers.penalize_repetition(
                logits, seen, options.repetition_penalty
            ),
            lambda: logits,
        )
        token_ids = samplers.sample(
            penalized + allowed, uniforms[position], options
        )
        seen = tf.cond(
            penalizes,
            lambda: (
                seen
                | tf.one_hot(
                    token_ids, vocabulary_size, True, False, dtype=tf.bool
                )
            ),
            lambda: seen,
        )
        log_prob = -tf.nn.sparse_softmax_cross_entropy_with_logits(
            token_ids, logits
        )
        return (
            position + 1,
            token_ids,
            states,
            seen,
            drawn.write(position, token_ids),
            log_probs.write(position, log_prob),
        )

    _, _, _, _, drawn, log_probs = tf.while_loop(
        lambda position, *_: position < steps,
        draw,
        (
            tf.constant(0),
            token_ids,
            states,
            seen,
            tf.TensorArray(tf.int32, steps, element_shape=(None,)),
            tf.TensorArray(tf.float32, steps, element_shape=(None,)),
        ),
    )
    within = tf.sequence_mask(max_new_tokens, longest)
    return tuple(
        tf.where(within, tf.transpose(values.stack()[:longest]), 0)
        for values in (drawn, log_probs)
    )
