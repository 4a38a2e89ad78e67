"""Beam search over a step function: no model and no text in here.

At every step each live text and each token make a candidate. Of the `num_beams`
best candidates, those that end a text are finished; the `num_beams` best of the
others live on. Texts that are still live after the last step are cut off, and
rank after all finished ones, since a text without an end may score well by
repeating itself. Between equal candidates the better beginning comes first,
then the lower id; between equal finished texts, the one that finished first.

The score of a finished text is log p / length ** length_penalty ("Dive into
Deep Learning", D2L, section 10.8; Wu et al. 2016, section 7, go on to ((5 +
length) / 6) ** length_penalty). With 0 the plain power compares log p, with 1
the mean log p per token. The end of a text counts, in log p and in length;
where several ids may end it, log p is that of any of them.

The log p of a live text only falls, so its score cannot exceed log p now /
max_new_tokens ** length_penalty. The search stops once no live text can beat a
finished one; the result is the same as without stopping.
"""

import numpy as np
import tensorflow as tf


def search(
    decode_step,
    token_ids,
    states,
    *,
    num_beams,
    max_new_tokens,
    length_penalty,
    end_ids=(),
    banned_id=None,
    num_texts=None,
):
    """Finds the continuations of each prompt that score best.

    Args:
        decode_step: (token_ids int32 [rows], states) -> (logits float32
            [rows, vocabulary], states), for batch * num_beams rows.
        token_ids: int32 [batch], the last token of each prompt, not yet read.
        states: the states before that token, a nest of [batch, ...].
        num_beams, max_new_tokens: int32 scalars, at least 1; for XLA constants.
        length_penalty: float32 scalar, at least 0.
        end_ids: int32 [count], the ids that end a text and are not part of it.
        banned_id: an id that no text holds, such as the unknown token.
        num_texts: how many texts are wanted (None: all `num_beams`). With
            fewer the search may stop sooner; the rest are then not the best.

    Returns:
        token_ids: int32 [batch, num_beams, max_new_tokens], the best finished
            text first; 0 beyond its length.
        log_probs: float32 of that shape, log p of each token.
        lengths: int32 [batch, num_beams]; less than max_new_tokens where an end
            follows.
        scores: float32 [batch, num_beams]; minus infinity where there are no
            more texts.
    """
    end_ids = tf.convert_to_tensor(end_ids, tf.int32)
    batch_size = tf.size(token_ids)
    num_texts = num_beams if num_texts is None else num_texts
    first_rows = tf.range(batch_size)[:, None] * num_beams

    def score(log_prob, length):
        return log_prob / tf.cast(length, tf.float32) ** length_penalty

    def keep_best(finished, *others):
        """The best of both; the finished ones first where they are equal."""
        both = [tf.concat(pair, axis=1) for pair in zip(finished, others)]
        scores, best = tf.math.top_k(both[0], num_beams)
        return scores, *(tf.gather(x, best, batch_dims=1) for x in both[1:])

    def extend(step, live, finished, history):
        token_ids, log_prob, states = live
        logits, states = decode_step(tf.reshape(token_ids, [-1]), states)
        vocabulary_size = logits.shape[-1]
        ids = tf.range(vocabulary_size)
        log_probs = tf.nn.log_softmax(tf.cast(logits, tf.float32))
        if banned_id is not None:
            log_probs = tf.where(ids == banned_id, -np.inf, log_probs)
        # All ends make one choice, the last column. A sum of rounded
        # probabilities may be above 1.
        ending = tf.reduce_logsumexp(
            tf.gather(log_probs, end_ids, axis=-1), axis=-1, keepdims=True
        )
        is_end = tf.reduce_any(ids[:, None] == end_ids, axis=-1)
        choices = tf.concat(
            [tf.where(is_end, -np.inf, log_probs), tf.minimum(ending, 0.0)],
            axis=-1,
        )
        choices = tf.reshape(
            choices, [batch_size, num_beams, vocabulary_size + 1]
        )
        candidates = log_prob[:, :, None] + choices
        # A text has one end: of twice as many, enough do not end.
        best, places = tf.math.top_k(
            tf.reshape(candidates, [batch_size, -1]), 2 * num_beams
        )
        beams = places // (vocabulary_size + 1)
        token_ids = places % (vocabulary_size + 1)
        ends = token_ids == vocabulary_size
        top = slice(None, num_beams)
        finished = keep_best(
            finished,
            tf.where(ends[:, top], score(best[:, top], step + 1), -np.inf),
            tf.fill(tf.shape(beams[:, top]), step),
            beams[:, top],
        )
        log_prob, goes_on = tf.math.top_k(
            tf.where(ends, -np.inf, best), num_beams
        )
        beams, token_ids, places = (
            tf.gather(x, goes_on, batch_dims=1)
            for x in (beams, token_ids, places)
        )
        # Where there are no more texts, an end that is none may be among them.
        token_ids = tf.minimum(token_ids, vocabulary_size - 1)
        rows = tf.reshape(first_rows + beams, [-1])
        new_live = (
            token_ids,
            log_prob,
            tf.nest.map_structure(lambda x: tf.gather(x, rows), states),
        )
        chosen = tf.gather(
            tf.reshape(choices, [batch_size, -1]), places, batch_dims=1
        )
        return (
            step + 1,
            tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(new, old.shape), new_live, live
            ),
            finished,
            tuple(
                array.write(step, values)
                for array, values in zip(history, (beams, token_ids, chosen))
            ),
        )

    # A text is kept as the step after its last token and its beam there: what
    # was written at each step leads back to its beginning.
    none = tf.zeros([batch_size, num_beams], tf.int32)
    nothing = tf.fill([batch_size, num_beams], -np.float32(np.inf))
    live = (
        tf.repeat(token_ids[:, None], num_beams, axis=1),
        tf.where(tf.range(num_beams) == 0, 0.0, nothing),  # one beginning
        tf.nest.map_structure(
            lambda state: tf.repeat(state, num_beams, axis=0), states
        ),
    )
    steps, (_, log_prob, _), finished, history = tf.while_loop(
        lambda step, live, finished, _: (
            (step == 0)  # the shape of the history comes with its first entry
            | (
                (step < max_new_tokens)
                & tf.reduce_any(
                    score(live[1][:, 0], max_new_tokens)
                    > finished[0][:, num_texts - 1]
                )
            )
        ),
        extend,
        (
            tf.constant(0),
            live,
            (nothing, none, none),
            tuple(
                tf.TensorArray(dtype, max_new_tokens, element_shape=none.shape)
                for dtype in (tf.int32, tf.int32, tf.float32)
            ),
        ),
    )
    cut_off = (
        tf.where(
            steps == max_new_tokens, score(log_prob, max_new_tokens), -np.inf
        ),
        tf.fill(tf.shape(none), max_new_tokens),
        tf.repeat(tf.range(num_beams)[None, :], batch_size, axis=0),
    )
    scores, lengths, beams = (
        tf.concat(pair, axis=1) for pair in zip(finished, cut_off)
    )
    # Both are sorted: what exists keeps its order, in front of what does not.
    is_missing = tf.cast(scores == -np.inf, tf.int32)
    kept = tf.argsort(is_missing, axis=1, stable=True)[:, :num_beams]
    scores, lengths, beams = (
        tf.gather(x, kept, batch_dims=1) for x in (scores, lengths, beams)
    )
    parents, token_ids, log_probs = (array.stack() for array in history)

    def go_back(later, step):
        beams, _ = later
        parent = tf.gather(parents[step], beams, batch_dims=1)
        return tf.where(step < lengths, parent, beams), beams

    places = tf.range(max_new_tokens)
    _, path = tf.scan(go_back, places, (beams, beams), reverse=True)
    within = places[:, None, None] < lengths
    token_ids, log_probs = (
        tf.transpose(
            tf.where(
                within,
                tf.gather(values, path, batch_dims=2),
                tf.zeros([], values.dtype),
            ),
            [1, 2, 0],
        )
        for values in (token_ids, log_probs)
    )
    return {
        "token_ids": token_ids,
        "log_probs": log_probs,
        "lengths": lengths,
        "scores": scores,
    }
