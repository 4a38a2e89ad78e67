"""Drawing the next token: pure functions of logits, numbers and options.

A row of a batch has its own options and its own stream of random numbers, so
that what it draws does not depend on the rows beside it. Every function runs
eagerly, in a graph and under XLA, with the same result.
"""

import numpy as np
import tensorflow as tf

# Up to so many tokens, comparing all pairs is faster than 62 passes over the
# tokens: 1 row of 65 tokens 2.3 and 6.2 us, 32 rows 30 and 48 us, 32 rows of
# 128 tokens 78 and 90 us, of 256 tokens 263 and 186 us (one core of an EPYC).
_MOST_IN_PAIRS = 128
_LEAST_TOP_P = 1e-9  # with which the likeliest token is always kept


def uniforms(seeds, positions):
    """Random numbers in [0, 1), a pure function of a row's seed and position.

    Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers:
    as easy as 1, 2, 3"): the key is the seed, the counter the position. The
    stateless ops of TensorFlow give other numbers under XLA than without.

    Args:
        seeds: int64 [batch].
        positions: int32 [count, batch], the index into each row's stream.

    Returns:
        float32 [count, batch].
    """
    low = tf.constant(0xFFFFFFFF, tf.int64)
    key_0 = tf.cast(tf.bitwise.bitwise_and(seeds, low), tf.uint32)
    key_1 = tf.cast(
        tf.bitwise.bitwise_and(tf.bitwise.right_shift(seeds, 32), low),
        tf.uint32,
    )
    parity = tf.constant(0x1BD11BDA, tf.uint32)
    keys = (
        key_0,
        key_1,
        tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(key_0, key_1), parity),
    )
    counters = tf.cast(positions, tf.uint32)
    block = _threefry_2x32(keys, counters, tf.zeros_like(counters))
    # The upper 24 bits: as many as a float32 holds exactly.
    return tf.cast(tf.bitwise.right_shift(block, 8), tf.float32) * 2.0**-24


def _threefry_2x32(keys, counter_0, counter_1):
    """The first word of the cipher's block, uint32."""
    rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
    x_0, x_1 = counter_0 + keys[0], counter_1 + keys[1]
    for group in range(5):
        for bits in rotations[group % 2]:
            x_0 = x_0 + x_1
            rotated = tf.bitwise.bitwise_or(
                tf.bitwise.left_shift(x_1, bits),
                tf.bitwise.right_shift(x_1, 32 - bits),
            )
            x_1 = tf.bitwise.bitwise_xor(rotated, x_0)
        x_0 = x_0 + keys[(group + 1) % 3]
        x_1 = x_1 + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return x_0


def penalize_repetition(logits, seen, penalty):
    """Makes tokens that were seen less likely (Keskar et al. 2019, 4.1).

    Args:
        logits: float32 [batch, vocabulary].
        seen: bool [batch, vocabulary].
        penalty: float32 [batch].
    """
    penalty = penalty[:, None]
    penalized = tf.where(logits > 0, logits / penalty, logits * penalty)
    return tf.where(seen, penalized, logits)


def adjust(logits, counts, positions, options):
    """Changes logits by more than the sampling options.

        logits + bias - presence_penalty * [counts > 0]
               - frequency_penalty * counts

    as in OpenAI's API, and minus infinity for what would end a row too soon.

    Args:
        logits: float32 [batch, vocabulary].
        counts: float32 [batch, vocabulary], how often each was drawn.
        positions: int32 [batch], how many tokens each row has drawn.
        options: a dictionary of

            bias: float32 [batch, vocabulary].
            presence_penalty, frequency_penalty: float32 [batch].
            ends: bool [batch, vocabulary], the tokens that end a row.
            min_tokens: int32 [batch], how many tokens a row draws before one
                may end it.
    """
    adjusted = (
        logits
        + options["bias"]
        - options["presence_penalty"][:, None] * tf.cast(counts > 0, tf.float32)
        - options["frequency_penalty"][:, None] * counts
    )
    is_early = positions < options["min_tokens"]
    return tf.where(is_early[:, None] & options["ends"], -np.inf, adjusted)


def truncate(logits, top_k, top_p, sorts=True):
    """Minus infinity for the tokens that top-k, then top-p, leave out.

    Top-p is nucleus sampling (Holtzman et al. 2020): the likeliest tokens
    whose probabilities, renormalized after top-k, sum to at least p.

    Args:
        logits: float32 [batch, vocabulary], divided by the temperature.
        top_k: int32 [batch]; top_p: float32 [batch].
        sorts: how the tokens are found: by sorting, or, at least four times
            faster under XLA and four times slower without, by comparing pairs
            of tokens or, in large vocabularies, bit by bit.
    """
    vocabulary_size = logits.shape[-1]
    k = tf.where(top_k > 0, tf.minimum(top_k, vocabulary_size), vocabulary_size)
    if not sorts and vocabulary_size <= _MOST_IN_PAIRS:
        return tf.where(_kept_by_pairs(logits, k, top_p), logits, -np.inf)
    find = _threshold_by_sorting if sorts else _threshold_by_bits
    threshold = find(logits, k, top_p)
    return tf.where(logits >= threshold[:, None], logits, -np.inf)


def _kept_by_pairs(logits, k, top_p):
    """Whether each token is kept, bool [batch, vocabulary].

    One product sums up what is above each token: how many tokens, and their
    probability. That is in two parts, since a GPU rounds factors to 11 bits.
    """
    probabilities = tf.nn.softmax(logits)
    # The upper half of the bits; XLA may leave out a cast and its inverse.
    bits = tf.bitcast(probabilities, tf.int32)
    high = tf.bitcast(tf.bitwise.bitwise_and(bits, -(2**16)), tf.float32)
    summands = tf.stack(
        [tf.ones_like(high), high, probabilities - high], axis=1
    )
    is_above = logits[:, :, None] > logits[:, None, :]
    sums = tf.matmul(summands, tf.cast(is_above, tf.float32))
    rank, mass = sums[:, 0], sums[:, 1] + sums[:, 2]
    within_k = rank < tf.cast(k, tf.float32)[:, None]
    kept_mass = tf.reduce_sum(
        tf.where(within_k, probabilities, 0.0), axis=-1, keepdims=True
    )
    at_least = tf.maximum(top_p, _LEAST_TOP_P)[:, None]
    in_nucleus = mass < at_least * kept_mass
    # top_p = 1 keeps all: rounding must not cut a tail off.
    return within_k & (in_nucleus | (top_p[:, None] >= 1.0))


def _threshold_by_sorting(logits, k, top_p):
    """The least logit that is kept, float32 [batch]."""
    ranked = tf.sort(logits, axis=-1, direction="DESCENDING")
    # With the ties of the least of them.
    within_k = ranked >= tf.gather(ranked, k - 1, batch_dims=1)[:, None]
    probabilities = tf.nn.softmax(tf.where(within_k, ranked, -np.inf))
    before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    in_nucleus = (before < top_p[:, None]) & within_k
    count = tf.reduce_sum(tf.cast(in_nucleus, tf.int32), axis=-1)
    # top_p = 1 keeps all: rounding must not cut a tail off.
    count = tf.where(top_p < 1.0, tf.maximum(count, 1), k)
    return tf.gather(ranked, count - 1, batch_dims=1)


def _threshold_by_bits(logits, k, top_p):
    """The least logit that is kept, float32 [batch].

    The bits of a float, those below the sign turned over for negative ones,
    are an integer in the same order. So the largest threshold that keeps
    enough is found from the highest bit to the lowest.
    """

    def ordered(bits):
        return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 2**31 - 1), bits)

    keys = ordered(tf.bitcast(logits, tf.int32))

    def largest(keeps_enough):
        threshold = tf.where(keeps_enough(tf.zeros_like(k)), 0, -(2**31))
        for bit in reversed(range(31)):
            higher = threshold + 2**bit
            threshold = tf.where(keeps_enough(higher), higher, threshold)
        return threshold

    # A function is one node of the graph, however many bits there are.
    @tf.function(autograph=False)
    def count(keys, threshold):
        kept = tf.cast(keys >= threshold[:, None], tf.int32)
        return tf.reduce_sum(kept, axis=-1)

    kth = largest(lambda threshold: count(keys, threshold) >= k)
    probabilities = tf.nn.softmax(
        tf.where(keys >= kth[:, None], logits, -np.inf)
    )

    @tf.function(autograph=False)
    def mass(keys, probabilities, threshold):
        kept = tf.where(keys >= threshold[:, None], probabilities, 0.0)
        return tf.reduce_sum(kept, axis=-1)

    at_least = tf.maximum(top_p, _LEAST_TOP_P)
    nucleus = largest(
        lambda threshold: mass(keys, probabilities, threshold) >= at_least
    )
    threshold = tf.where(top_p < 1.0, tf.maximum(kth, nucleus), kth)
    return tf.bitcast(ordered(threshold), tf.float32)


def sample(logits, uniform, options, sorts=True):
    """Draws one token per row by inverting its cumulative distribution.

    Args:
        logits: float32 [batch, vocabulary].
        uniform: float32 [batch], numbers in [0, 1).
        options: [batch] each: temperature, where 0 takes the likeliest token;
            top_k and top_p, or neither; min_p, the least probability of a
            token, as a fraction of that of the likeliest, or not.
            (`penalize_repetition` and `adjust` come before.)
        sorts: see `truncate`.

    Returns:
        token_ids, int32 [batch].
    """
    greedy = options["temperature"] <= 0
    # The least divisor is one with which no logit becomes infinite.
    divisor = tf.where(greedy, 1.0, tf.maximum(options["temperature"], 1e-30))
    scaled = logits / divisor[:, None]
    if "min_p" in options:
        least = tf.math.log(options["min_p"])[:, None]
        highest = tf.reduce_max(scaled, axis=-1, keepdims=True)
        scaled = tf.where(scaled >= highest + least, scaled, -np.inf)
    if "top_k" in options:
        top_k, top_p = options["top_k"], options["top_p"]
        truncates = (top_k > 0) | (top_p < 1.0)
        scaled = tf.cond(  # the sort is the dearest part
            tf.reduce_any(truncates),
            lambda: truncate(scaled, top_k, top_p, sorts),
            lambda: scaled,
        )
    # float64: two float32 sums of the same numbers, in batches of different
    # sizes, would put some borders on the other side of the uniform number.
    probabilities = tf.cast(tf.nn.softmax(scaled), tf.float64)
    cumulative = tf.cumsum(probabilities, axis=-1)
    target = tf.cast(uniform, tf.float64) * cumulative[:, -1]
    drawn = tf.reduce_sum(
        tf.cast(cumulative <= target[:, None], tf.int32), axis=-1
    )
    likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.where(greedy, likeliest, drawn)
