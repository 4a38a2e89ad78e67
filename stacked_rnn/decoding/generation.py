"""The generation loop over a step function: no model and no text in here.

Where a batch stands between two tokens is a value, the carry: a dictionary of

    token_ids  int32 [batch], the last token of each row, not yet read
    states     the states before that token, a nest of [batch, units]
    seen       bool [batch, vocabulary], the tokens for the repetition penalty
    positions  int32 [batch], how many tokens each row has drawn
    finished   bool [batch], the rows that draw no more
    seeds      int64 [batch], one stream of random numbers per row

So a text may be generated in pieces of any length and come out the same.
"""

import math

import numpy as np
import tensorflow as tf

from stacked_rnn.decoding import samplers

CHUNK = 256  # most tokens per call of a compiled loop
_DRAWS = 16  # of an iteration of a compiled loop


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
    max_steps,
    padded_length=None,
    forced_ids=None,
    banned_id=None,
    end_id=None,
):
    """Draws up to `max_steps` tokens per row, one after the other.

    It stops earlier once all rows have finished.

    Args:
        decode_step: (token_ids int32 [batch], states) -> (logits float32
            [batch, vocabulary], states).
        carry: where the rows stand, see above.
        options: the sampling options, see `options`; `max_new_tokens` is over
            all calls, 0 draws nothing. Those not in `options.PLAIN` may be
            missing: without effect then, and less work. There may be those of
            `samplers.adjust`, and the carry then has `counts`.
        max_steps: int32 scalar.
        padded_length: None, or, for XLA, a constant of at least `max_steps`:
            the width of the results. XLA compiles once per width, whatever
            `max_steps` is.
        forced_ids: None, or int32 [batch, max_steps or more]: what each row
            reads before it draws, such as the rest of a prompt; negative
            beyond. These tokens stand before those that the row draws, and
            are not counted.
        banned_id: an id that is never drawn, such as the unknown token.
        end_id: the id that ends a row; it is not part of the result.

    Returns:
        A dictionary of

        token_ids: int32 [batch, width], read or drawn; 0 beyond.
        log_probs: float32 [batch, width], the model's own log p(token),
            before temperature, penalty and truncation; 0 beyond.
        end_log_probs: float32 [batch], the same of the token that ended a row,
            which is not in the result; without meaning for other rows.
        lengths: int32 [batch], how many tokens each row drew.
        carry: where the rows stand now.
    """
    is_compiled = padded_length is not None
    width = padded_length if is_compiled else tf.maximum(max_steps, 1)
    vocabulary_size = carry["seen"].shape[-1]
    before, limits = carry["positions"], options["max_new_tokens"]
    places = before + tf.range(width)[:, None]
    if forced_ids is not None:
        is_forced = forced_ids >= 0
        places -= tf.reduce_sum(tf.cast(is_forced, tf.int32), axis=1)
    uniforms = samplers.uniforms(carry["seeds"], places)
    bans = np.zeros(vocabulary_size, np.float32)
    if banned_id is not None:
        bans[banned_id] = -np.inf
    penalty, adjusts = options.get("repetition_penalty"), "ends" in options

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
        if adjusts:
            penalized = samplers.adjust(
                penalized, carry["counts"], carry["positions"], options
            )
        token_ids = samplers.sample(
            penalized + bans, uniforms[step], options, sorts=not is_compiled
        )
        is_drawn = ~carry["finished"]
        if forced_ids is not None:
            is_drawn &= ~is_forced[:, step]
            token_ids = tf.where(
                is_forced[:, step], forced_ids[:, step], token_ids
            )
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
        if adjusts:
            finished |= is_drawn & tf.gather(
                options["ends"], token_ids, batch_dims=1
            )
        elif end_id is not None:
            finished |= is_drawn & (token_ids == end_id)
        positions = carry["positions"] + tf.cast(is_drawn & ~finished, tf.int32)
        new_carry = {
            # Where a row has ended, it stays the token that ended it.
            "token_ids": tf.where(
                carry["finished"], carry["token_ids"], token_ids
            ),
            "states": states,
            "seen": seen,
            "positions": positions,
            "finished": finished | (positions >= limits),
            "seeds": carry["seeds"],
        }
        if adjusts:
            new_carry["counts"] = carry["counts"] + tf.one_hot(
                tf.where(is_drawn, token_ids, -1), vocabulary_size
            )
        return (
            step + 1,
            new_carry,
            drawn.write(step, tf.where(finished, 0, token_ids)),
            log_probs.write(step, tf.where(carry["finished"], 0.0, log_prob)),
        )

    def draw_if_due(step, carry, *arrays):
        next_step, new_carry, *arrays = draw(step, carry, *arrays)
        new_carry = tf.nest.map_structure(
            lambda new, old: tf.where(step < max_steps, new, old),
            new_carry,
            carry,
        )
        return next_step, new_carry, *arrays

    def draw_several(*loop):
        # XLA knows this number, so that a GPU need not ask the CPU after each
        # draw whether to go on, which takes as long as some draws.
        return tf.while_loop(
            lambda *_: True,
            draw_if_due,
            loop,
            maximum_iterations=math.gcd(_DRAWS, padded_length),
        )

    carry = carry | {"finished": carry["finished"] | (before >= limits)}
    _, carry, drawn, log_probs = tf.while_loop(
        lambda step, carry, *_: (
            # Without a single step the shapes of the results were unknown.
            (step == 0)
            | ((step < max_steps) & ~tf.reduce_all(carry["finished"]))
        ),
        draw_several if is_compiled else draw,
        (
            tf.constant(0),
            carry,
            tf.TensorArray(tf.int32, width, element_shape=before.shape),
            tf.TensorArray(tf.float32, width, element_shape=before.shape),
        ),
    )
    lengths = carry["positions"] - before
    is_due = tf.range(width) < max_steps
    end = lengths  # column behind the last token of each row
    if forced_ids is not None:
        is_read = is_forced & (tf.range(tf.shape(is_forced)[1]) < max_steps)
        end += tf.reduce_sum(tf.cast(is_read, tf.int32), axis=1)
    log_probs = tf.transpose(log_probs.stack())
    return {
        "token_ids": tf.where(is_due, tf.transpose(drawn.stack()), 0),
        "log_probs": tf.where(
            tf.range(width) < end[:, None], log_probs, tf.zeros_like(log_probs)
        ),
        "end_log_probs": tf.gather(
            log_probs, tf.minimum(end, width - 1), batch_dims=1
        ),
        "lengths": lengths,
        "carry": carry,
    }
