"""Scores: sums first, one division at the end."""

import math

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import metrics, reference


def test_score_has_nats_perplexity_and_bits_per_character():
    score = metrics.Score(nats=30.0, tokens=20, characters=60)
    assert score.nats_per_token == 1.5
    assert score.perplexity == pytest.approx(math.exp(1.5))
    assert score.bits_per_character == pytest.approx(0.5 / math.log(2))


def test_perplexity_of_extreme_scores_is_finite():
    assert metrics.Score().perplexity == 1.0
    assert metrics.Score(1e9, 1, 1).perplexity > 1e300


def test_token_nats_equal_the_reference_and_skip_padding(rng):
    logits = rng.normal(0, 3, (2, 3, 5)).astype("float32")
    targets = np.array([[0, 4, -1], [2, -1, -1]])
    nats = metrics.token_nats(logits, tf.constant(targets)).numpy()
    expected = reference.nats(logits, np.maximum(targets, 0))
    np.testing.assert_allclose(
        nats, np.where(targets >= 0, expected, 0), atol=1e-5
    )


@pytest.mark.parametrize("window", [1, 3, 4, 100])
def test_every_target_is_scored_once_with_the_state_carried(window):
    calls = []

    def score_window(inputs, targets, states):
        """Gives one nat per target; the state counts the tokens read."""
        assert inputs.shape == (1, window)
        real = targets >= 0
        assert np.array_equal(targets[real], inputs[real] + 1)
        assert inputs[0, 0] == states
        calls.append(states + int(np.count_nonzero(real)))
        return tf.cast(targets, tf.float32), calls[-1]

    done = []
    nats = metrics.nats_of_text(
        score_window, tf.range(13), 0, done.append, window
    )
    assert np.array_equal(nats, range(1, 13))
    assert done == calls and done[-1] == 12
