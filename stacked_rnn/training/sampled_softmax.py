"""Sampled softmax: a training loss that takes a part of a large vocabulary.

In each step, some tokens are drawn for all targets: the candidates. The softmax
of a target is over that token and the candidates, each logit less the log of
the probability that the token is a candidate. With this correction, the logits
that are best for the full softmax are best for the sampled one, too.

Source: Jean et al. 2015, "On using very large target vocabulary for neural
machine translation"; the correction for draws with replacement, of which only
the first of each token counts, is that of `tf.nn.sampled_softmax_loss`.
"""

import numpy as np
import tensorflow as tf

_ENTRIES_PER_TOKEN = 16


class CandidateSampler:
    """Draws tokens about as often as they occur in a text.

    Args:
        counts: int [vocabulary], occurrences of each token. One that does not
            occur can be drawn, too.
        num_draws: number of draws, with replacement.

    Attributes:
        log_probabilities: float32 [vocabulary], log of the probability that a
            token is drawn at least once.
    """

    def __init__(self, counts, num_draws):
        # A draw takes an entry of a table, which has more of frequent tokens.
        room = _ENTRIES_PER_TOKEN * len(counts)
        entries = 1 + counts * room // max(1, counts.sum())
        token_ids = np.arange(len(counts), dtype=np.int32)
        self._table, self._num_draws = np.repeat(token_ids, entries), num_draws
        log_missed = num_draws * np.log1p(-entries / len(self._table))
        self.log_probabilities = np.log(-np.expm1(log_missed)).astype("float32")

    def draw(self, seed):
        """Draws tokens: int32 [num_draws], sorted, for a seed int32 [2]."""
        indices = tf.random.stateless_uniform(
            [self._num_draws], seed, 0, len(self._table), tf.int32, "philox"
        )
        return tf.gather(self._table, tf.sort(indices))


def sampled_nats(
    target_logits, candidate_logits, targets, candidates, log_probabilities
):
    """Estimates -log p(target), with the gradient of the sampled softmax.

    A candidate that is the target itself, or a repeated one, does not count.
    The loss of the sampled softmax also has the log of the probability of the
    target, on which no gradient depends. Without it, the values are about those
    of the full softmax.

    Args:
        target_logits: float32 [positions].
        candidate_logits: float32 [positions, candidates].
        targets: int32 [positions]; negative at padding, where the result is 0.
        candidates: int32 [candidates], sorted.
        log_probabilities: float32 [vocabulary], see `CandidateSampler`.

    Returns:
        float32 [positions].
    """
    token_ids = tf.maximum(targets, 0)
    is_repeated = tf.concat([[False], candidates[1:] == candidates[:-1]], 0)
    is_left_out = is_repeated | (candidates == token_ids[:, None])
    others = candidate_logits - tf.gather(log_probabilities, candidates)
    logits = tf.concat(
        [
            (target_logits - tf.gather(log_probabilities, token_ids))[:, None],
            tf.where(is_left_out, -np.inf, others),
        ],
        axis=1,
    )
    nats = tf.reduce_logsumexp(logits, axis=1) - target_logits
    return tf.where(targets >= 0, nats, 0.0)
