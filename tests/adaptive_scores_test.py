"""Dynamic evaluation and the neural cache: by hand, and without peeking."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, training
from stacked_rnn.training import adaptive_scores
from tests.helpers.small_models import randomized_model, small_config

TOKEN_IDS = np.random.default_rng(3).integers(1, 11, 53).astype("int32")
DYNAMIC = {
    "dynamic_rate": 0.01, "dynamic_decay": 0.05, "dynamic_window": 5,
    "training_text": "mine.txt",
}  # fmt: skip
CACHE = {"cache_size": 12, "cache_weight": 0.3, "cache_flatness": 0.7}


def model():
    return randomized_model(small_config(cell="lstm"))


def scorer(**settings):
    return training.AdaptiveScorer(
        model(), configs.EvaluateConfig(**settings), TOKEN_IDS[::-1]
    )


def log_probs(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_a_learning_rate_of_almost_zero_scores_as_the_model_does():
    logits = model()(TOKEN_IDS[None, :-1]).numpy()[0]
    expected = -np.take_along_axis(
        log_probs(logits), TOKEN_IDS[1:, None], axis=1
    )[:, 0]
    for settings in (DYNAMIC | {"dynamic_rate": 1e-30}, CACHE | {
        "cache_weight": 0.0
    }):  # fmt: skip
        np.testing.assert_allclose(
            scorer(**settings).token_nats(TOKEN_IDS), expected, atol=1e-5
        )
    cooled = scorer(temperature=0.5).token_nats(TOKEN_IDS)
    expected = -np.take_along_axis(
        log_probs(2 * logits), TOKEN_IDS[1:, None], axis=1
    )[:, 0]
    np.testing.assert_allclose(cooled, expected, atol=1e-5)


@pytest.mark.parametrize("settings", [DYNAMIC, CACHE, DYNAMIC | CACHE])
def test_later_tokens_do_not_change_a_score(settings):
    adaptive = scorer(**settings)
    whole = adaptive.token_nats(TOKEN_IDS)
    for position in (7, 23, 51):
        changed = TOKEN_IDS.copy()
        changed[position] = changed[position] % 10 + 1
        nats = adaptive.token_nats(changed)
        np.testing.assert_allclose(
            nats[: position - 1], whole[: position - 1], atol=1e-6
        )
        assert abs(nats[position - 1] - whole[position - 1]) > 1e-4
        if position < 40:
            assert (
                np.abs(nats[position + 5 :] - whole[position + 5 :]).max() > 0
            )


def test_each_text_begins_with_the_trained_weights():
    adaptive = scorer(**DYNAMIC)
    first = adaptive.token_nats(TOKEN_IDS)
    np.testing.assert_allclose(adaptive.token_nats(TOKEN_IDS), first, atol=1e-6)


def test_a_step_is_that_of_the_paper():
    """After the first stretch; the decay draws nothing back yet."""
    adaptive = scorer(**DYNAMIC)
    before = [weight.numpy() for weight in model().trainable_variables]

    def gradient(network, token_ids, states):
        with tf.GradientTape() as tape:
            new = network.step({"token_ids": tf.constant(token_ids[None, :-1]),
                                "states": states})  # fmt: skip
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
                token_ids[None, 1:], new["logits"]
            )
            loss = tf.reduce_mean(nats)
        variables = [v.value for v in network.trainable_variables]
        gradients = tape.gradient(loss, variables)
        return [*map(tf.convert_to_tensor, gradients)], new["states"]

    network, text = model(), TOKEN_IDS[::-1]
    states, squares, count = network.initial_states(1), 0, 0
    for first in range(0, 52, 5):
        gradients, states = gradient(network, text[first : first + 6], states)
        squares = [
            s + np.square(g)
            for s, g in zip(squares or [0] * len(gradients), gradients)
        ]
        count += 1
    rms = [np.sqrt(square / count) for square in squares]
    gradients, _ = gradient(network, TOKEN_IDS[:6], network.initial_states(1))
    adaptive.token_nats(TOKEN_IDS[:6])
    for got, begin, root, slope in zip(
        adaptive._weights, before, rms, gradients
    ):
        expected = begin - 0.01 * slope / (root + 2e-5)
        np.testing.assert_allclose(got, expected, atol=2e-4)
    mean = sum(root.sum() for root in rms) / sum(root.size for root in rms)
    for (_, share), root in zip(adaptive._scales, rms):
        np.testing.assert_allclose(share, root / mean, rtol=1e-3)


def test_the_decay_draws_the_weights_back():
    """A rate of almost zero, from weights that were moved by hand."""
    adaptive = scorer(**DYNAMIC | {"dynamic_rate": 1e-30})
    stretch = next(adaptive._stretches(TOKEN_IDS))
    moved = [begin + 1.0 for begin in adaptive._begin]
    for weight, value in zip(adaptive._weights, moved):
        weight.assign(value)
    adaptive._score_and_learn(*stretch[:2], adaptive._model.initial_states(1))
    for weight, value, (_, share) in zip(
        adaptive._weights, moved, adaptive._scales
    ):
        back = np.minimum(0.05 * share, 1.0)
        np.testing.assert_allclose(weight, value - back, atol=1e-5)


def test_the_cache_mixes_as_the_paper_does():
    network = model()
    new = network.step(
        {"token_ids": tf.constant(TOKEN_IDS[None, :-1]),
         "states": network.initial_states(1)}
    )  # fmt: skip
    states = new["outputs"].numpy()[0]
    model_log_probs = log_probs(new["logits"].numpy()[0])
    nats = scorer(**CACHE).token_nats(TOKEN_IDS)
    for position, target in enumerate(TOKEN_IDS[1:]):
        probability = np.exp(model_log_probs[position, target])
        seen = range(max(0, position - 12), position)
        if seen:
            weights = np.array(
                [np.exp(0.7 * states[position] @ states[i]) for i in seen]
            )
            followed = TOKEN_IDS[1:][list(seen)] == target
            cached = weights[followed].sum() / weights.sum()
            probability = 0.7 * probability + 0.3 * cached
        assert nats[position] == pytest.approx(-np.log(probability), abs=1e-4)


def test_a_rate_without_a_training_text_is_refused():
    with pytest.raises(configs.UserError, match="--training_text"):
        configs.EvaluateConfig(dynamic_rate=0.1)


def test_gradients_need_a_training_text_of_two_tokens():
    with pytest.raises(configs.UserError, match="--training_text.*two tokens"):
        training.AdaptiveScorer(
            model(), configs.EvaluateConfig(**DYNAMIC), TOKEN_IDS[:1]
        )


def test_a_rate_that_diverges_is_refused():
    diverging = scorer(**DYNAMIC | {"dynamic_rate": 1e38})
    with pytest.raises(configs.UserError, match="--dynamic_rate=1e.38: the lo"):
        diverging.token_nats(TOKEN_IDS)


def test_an_impossible_token_costs_a_finite_number():
    """exp(-2000) is zero."""
    cache = adaptive_scores._Cache(configs.EvaluateConfig(**CACHE))
    nats = cache.mix(
        np.float32([2000.0]), np.ones((1, 3), np.float32), np.int32([4])
    )
    assert nats.tolist() == [2000.0]
