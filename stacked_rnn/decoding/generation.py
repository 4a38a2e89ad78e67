"""The generation loop, given a step function: no model, no text in here.

Where a batch stands between two tokens is a value, the carry: a dictionary of

    token_ids  int32 [batch], the last token of each row, not yet read
    states     the states before that token, a nest of [batch, units]
    seen       bool [batch, vocabulary], what the repetition penalty knows
    positions  int32 [batch], how many tokens each row has drawn
    finished   bool [batch], the rows that draw no more
    seeds      int64 [batch], one stream of random numbers a row

So a text may be generated in pieces of any length and come out the same.
"""

import numpy as np
import tensorflow as tf

from stacked_rnn.decoding import samplers

CHUNK = 256  # most tokens of one call of a compiled loop


def start(token_ids, states, seen, seeds):
    """The carry before the first draw."""
    return {
        "token_ids": token_ids,
        "states": states,
        "seen": seen,
        "positions": tf.zeros_like(token_ids),
        "finished": tf.zeros_like(token_ids, tf.bool),
        "seeds": seeds,
    }


def generate(
    decode_step,
    carry,
    *,
    options,
    max_new_tokens,
    count,
    size=None,
    given=None,
    never=None,
    end_id=None,
):
    """Draws up to `count` tokens, one after the other, until all rows finish.

    Args:
        decode_step: (token_ids int32 [batch], states) -> (logits float32
            [batch, vocabulary], states).
        carry: where the rows stand, see above.
        options: `samplers.SamplingOptions`.
        max_new_tokens: int32 [batch], over all calls; 0: nothing.
        count: int32 scalar, most tokens of this call.
        size: None, or, for XLA, a constant at least as large as `count`: the
            width of the results. It compiles once for a size, whatever the
            counts.
        given: None, or int32 [batch, count or more]: what each row reads
            before it draws, the rest of a prompt; negative beyond. It stands
            in front of what the row draws, and is not counted.
        never: an id that is never drawn, such as the unknown token.
        end_id: the id that ends a row, itself left out.

    Returns:
        token_ids: int32 [batch, size], 0 beyond what a row read or drew.
        log_probs: float32 [batch, size], the model's own log p(token),
            before temperature, penalty and truncation.
        lengths: int32 [batch], tokens that each row drew.
        carry: where the rows stand now.
    """
    compiled = size is not None
    size = size if compiled else tf.maximum(count, 1)
    vocabulary_size = carry["seen"].shape[-1]
    before = carry["positions"]
    places = before + tf.range(size)[:, None]
    if given is not None:
        is_given = given >= 0
        places -= tf.reduce_sum(tf.cast(is_given, tf.int32), axis=1)
    uniforms = samplers.uniforms(carry["seeds"], places)
    allowed = np.zeros(vocabulary_size, np.float32)
    if never is not None:
        allowed[never] = -np.inf
    penalty = options.repetition_penalty

    def if_penalized(change, value):
        if penalty is None:
            return value
        return tf.cond(
            tf.reduce_any(penalty != 1.0), lambda: change(value), lambda: value
        )

    def draw(step, carry, drawn, log_probs):
        logits, states = decode_step(carry["token_ids"], carry["states"])
        logits = tf.cast(logits, tf.float32)
        penalized = if_penalized(
            lambda logits: samplers.penalize_repetition(
                logits, carry["seen"], penalty
            ),
            logits,
        )
        token_ids = samplers.sample(
            penalized + allowed, uniforms[step], options, sorts=not compiled
        )
        is_drawn = ~carry["finished"]
        if given is not None:
            is_drawn &= ~is_given[:, step]
            token_ids = tf.where(is_given[:, step], given[:, step], token_ids)
        seen = if_penalized(
            lambda seen: (
                seen
                | tf.one_hot(
                    token_ids, vocabulary_size, True, False, dtype=tf.bool
                )
            ),
            carry["seen"],
        )
        log_prob = -tf.nn.sparse_softmax_cross_entropy_with_logits(
            token_ids, logits
        )
        finished = carry["finished"]
        if end_id is not None:
            finished |= is_drawn & (token_ids == end_id)
        positions = carry["positions"] + tf.cast(is_drawn & ~finished, tf.int32)
        new_carry = {
            "token_ids": token_ids,
            "states": states,
            "seen": seen,
            "positions": positions,
            "finished": finished | (positions >= max_new_tokens),
            "seeds": carry["seeds"],
        }
        return (
            step + 1,
            new_carry,
            drawn.write(step, tf.where(finished, 0, token_ids)),
            log_probs.write(step, tf.where(finished, 0.0, log_prob)),
        )

    carry = carry | {"finished": carry["finished"] | (before >= max_new_tokens)}
    _, carry, drawn, log_probs = tf.while_loop(
        lambda step, carry, *_: (
            # Without a single step the shapes of the results were unknown.
            (step == 0) | ((step < count) & ~tf.reduce_all(carry["finished"]))
        ),
        draw,
        (
            tf.constant(0),
            carry,
            tf.TensorArray(tf.int32, size, element_shape=before.shape),
            tf.TensorArray(tf.float32, size, element_shape=before.shape),
        ),
    )
    return {
        "token_ids": tf.transpose(drawn.stack()),
        "log_probs": tf.transpose(log_probs.stack()),
        "lengths": carry["positions"] - before,
        "carry": carry,
    }
