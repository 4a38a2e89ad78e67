"""A long text scored in pieces costs what it costs in one pass."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import metrics, models
from stacked_rnn.inference import parallel_scores
from tests.helpers.small_models import small_config

LENGTH = 32 * 512 + 300  # 27 pieces of 640 tokens, the last one shorter
CALLS = 640 // 128  # per round


def counting(forgets):
    """A model by hand: the state counts the tokens since the last 0."""
    calls = []

    def score_window(inputs, targets, states):
        calls.append(len(inputs))
        ((state,),) = states
        nats, state = [], state[:, 0].numpy()
        for column in inputs.numpy().T:
            state = np.where(forgets & (column == 0), 0, state + 1)
            nats.append(state)
        nats = np.where(targets >= 0, np.stack(nats, axis=1), 0)
        return tf.constant(nats, tf.float32), ((tf.constant(state[:, None]),),)

    def initial_states(batch_size):
        return ((tf.zeros([batch_size, 1]),),)

    return score_window, initial_states, calls


@pytest.mark.parametrize("forgets", [True, False])
def test_the_state_is_exact_however_long_the_memory(forgets, rng):
    score_window, initial_states, calls = counting(forgets)
    token_ids = rng.integers(0, 100, LENGTH + 1).astype(np.int32)
    done = []
    nats = parallel_scores.nats_of_text(
        score_window, token_ids, initial_states, done.append, 100
    )
    expected = metrics.nats_of_text(
        score_window, token_ids, initial_states(1), lambda done: None
    )
    assert np.array_equal(nats, expected)
    assert done == sorted(done) and done[-1] == LENGTH  # it never goes back
    # The first of all calls guess: 512 tokens.
    rounds = (calls.count(27) - 512 // 128) / CALLS
    assert rounds <= 2 if forgets else 20 < rounds <= 27


@pytest.mark.parametrize("vocabulary_size", [200_000, 1_000_000])
def test_a_call_has_a_limited_number_of_logits(vocabulary_size, rng):
    score_window, initial_states, calls = counting(True)
    token_ids = rng.integers(0, 100, LENGTH + 1).astype(np.int32)
    nats = parallel_scores.nats_of_text(
        score_window, token_ids, initial_states, print, vocabulary_size
    )
    assert max(calls) == max(1, 2**26 // (128 * vocabulary_size))
    expected = metrics.nats_of_text(
        score_window, token_ids, initial_states(1), print
    )
    assert np.array_equal(nats, expected)


def test_a_state_that_is_no_number_ends():
    calls = []

    def score_window(inputs, targets, states):
        calls.append(len(inputs))
        assert len(calls) < 1000
        nan = tf.fill([len(inputs), 1], np.nan)
        return tf.zeros(inputs.shape), ((nan,),)

    nats = parallel_scores.nats_of_text(
        score_window,
        np.ones(LENGTH + 1, np.int32),
        lambda batch_size: ((tf.zeros([batch_size, 1]),),),
        lambda done: None,
        100,
    )
    assert len(nats) == LENGTH


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_real_layers_score_as_in_one_pass(cell, rng):
    model = models.build_language_model(small_config(cell=cell))
    vocabulary_size = model.config.vocabulary_size

    @tf.function(autograph=False)
    def score_window(inputs, targets, states):
        new = model.step({"token_ids": inputs, "states": states})
        return metrics.token_nats(new["logits"], targets), new["states"]

    token_ids = rng.integers(0, vocabulary_size, LENGTH).astype(np.int32)
    nats = parallel_scores.nats_of_text(
        score_window, token_ids, model.initial_states, print, vocabulary_size
    )
    expected = metrics.nats_of_text(
        score_window, token_ids, model.initial_states(1), print
    )
    np.testing.assert_allclose(nats, expected, atol=1e-4)


def test_a_short_text_is_scored_in_one_pass():
    score_window, initial_states, calls = counting(False)
    token_ids = np.ones(1000, np.int32)
    nats = parallel_scores.nats_of_text(
        score_window, token_ids, initial_states, print, 100
    )
    assert np.array_equal(nats, range(1, 1000)) and set(calls) == {1}
