"""The sampled softmax against the full one, and against NumPy."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, metrics, training
from tests.helpers import small_tasks
from tests.helpers.small_models import randomized_model, small_config

COUNTS = np.array([400, 150, 0, 90, 60, 40, 30, 20, 5, 3, 2, 1])
DRAWS = 6
make_trainer = functools.partial(
    small_tasks.make_trainer, "language_model", batch_size=8, jit_compile=False
)


def nats_and_gradient(logits, targets, nats):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = nats(logits)
        loss = tf.reduce_sum(values)
    return values.numpy(), tape.gradient(loss, logits).numpy()


def test_all_tokens_as_candidates_are_the_full_softmax(rng):
    logits = tf.constant(rng.normal(0, 2, (7, 11)), tf.float32)
    targets = tf.constant([0, 10, 3, 3, -1, 5, -1])

    def sampled(logits):
        return training.sampled_nats(
            tf.gather(logits, tf.maximum(targets, 0), batch_dims=1),
            logits, targets, tf.range(11), np.zeros(11, "float32"),
        )  # fmt: skip

    got = nats_and_gradient(logits, targets, sampled)
    expected = nats_and_gradient(
        logits, targets, lambda logits: metrics.token_nats(logits, targets)
    )
    for value, wanted in zip(got, expected):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_hits_and_repeated_candidates_do_not_count(rng):
    logits = tf.constant(rng.normal(size=4), tf.float32)
    log_probabilities = np.log(rng.uniform(0.1, 0.9, 4)).astype("float32")

    def nats(candidates):
        return training.sampled_nats(
            logits[2:3], tf.gather(logits, candidates)[None],
            tf.constant([2]), tf.constant(candidates), log_probabilities,
        ).numpy()  # fmt: skip

    assert nats([0, 0, 2, 2, 3]) == pytest.approx(nats([0, 3]))
    weights = np.exp(logits - log_probabilities)
    expected = np.log(weights[[0, 2, 3]].sum()) - logits[2]
    assert nats([0, 3]) == pytest.approx([expected], abs=1e-5)


def test_tokens_are_drawn_as_often_as_their_probabilities_say():
    sampler = training.CandidateSampler(COUNTS, DRAWS)
    draw = tf.function(sampler.draw, autograph=False)
    drawn = np.zeros(len(COUNTS))
    for step in range(2000):
        candidates = draw(tf.constant([3, step])).numpy()
        assert len(candidates) == DRAWS and np.all(np.diff(candidates) >= 0)
        drawn[np.unique(candidates)] += 1
    np.testing.assert_allclose(
        drawn / 2000, np.exp(sampler.log_probabilities), atol=0.04
    )
    assert drawn[2] > 0  # though it does not occur
    seed = tf.constant([5, 6])
    compiled = tf.function(sampler.draw, jit_compile=True, autograph=False)
    assert np.array_equal(compiled(seed), draw(seed))


def mean_gradient_in_numpy(logits, shares, probabilities, rng, times):
    """Draws and sums one by one, without any of the tested code."""
    total = np.zeros_like(logits)
    entries = probabilities / probabilities.sum()
    inclusion = 1 - (1 - entries) ** DRAWS
    for _ in range(times):
        drawn = {*rng.choice(len(logits), DRAWS, p=entries).tolist()}
        for target, share in enumerate(shares):
            chosen = sorted(drawn | {target})
            weights = np.exp(logits[chosen]) / inclusion[chosen]
            total[chosen] += share * weights / weights.sum()
            total[target] -= share
    return total / times


@pytest.mark.parametrize("is_best", [True, False])
def test_the_mean_gradient_is_that_of_numpy_and_zero_at_the_best(is_best, rng):
    """A predictable frequent token is where wrong corrections show."""
    shares = rng.dirichlet(np.ones(len(COUNTS)))
    shares = 0.5 * shares + 0.5 * np.eye(len(COUNTS))[0]
    logits = np.log(shares) + (0.0 if is_best else rng.normal(size=12))
    sampler = training.CandidateSampler(COUNTS, DRAWS)
    targets = tf.range(len(COUNTS))

    @tf.function(autograph=False)
    def gradient(seed):
        variable = tf.constant(logits, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            candidates = sampler.draw(seed)
            others = tf.gather(variable, candidates)
            nats = training.sampled_nats(
                variable,
                tf.broadcast_to(others, [len(COUNTS), DRAWS]),
                targets,
                candidates,
                sampler.log_probabilities,
            )
            loss = tf.reduce_sum(nats * tf.constant(shares, tf.float32))
        return tape.gradient(loss, variable)

    got = np.mean(
        [gradient(tf.constant([1, step])) for step in range(3000)], axis=0
    )
    entries = 1 + COUNTS * 16 * len(COUNTS) // COUNTS.sum()
    expected = mean_gradient_in_numpy(logits, shares, entries, rng, 3000)
    np.testing.assert_allclose(got, expected, atol=0.01)
    assert (np.abs(got).max() < 0.015) == is_best


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_embeddings": True},
     {"tie_embeddings": True, "embedding_dim": 6}],
    ids=str,
)  # fmt: skip
def test_some_logits_are_those_of_the_step(settings, rng):
    model = randomized_model(small_config(**settings))
    token_ids = tf.constant(rng.integers(0, 11, (4, 9)), tf.int32)
    new = model.step(
        {"token_ids": token_ids, "states": model.initial_states(4)}
    )
    targets = tf.reshape(token_ids, [-1])
    got = model.some_logits(
        tf.reshape(new["outputs"], [36, -1]), targets, tf.constant([1, 1, 7])
    )
    logits = new["logits"].numpy().reshape(36, -1)
    np.testing.assert_allclose(
        got[0], logits[np.arange(36), targets], atol=1e-5
    )
    np.testing.assert_allclose(got[1], logits[:, [1, 1, 7]], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "muon", "weight_decay": 0.01, "average_decay": 0.9},
     {"optimizer": "adamw", "mixed_precision": True}],
    ids=str,
)  # fmt: skip
def test_it_learns_and_is_validated_with_the_full_softmax(settings, tmp_path):
    trainer = make_trainer(
        tmp_path, epochs=4, model={"sampled_words": 4, "tie_embeddings": True},
        **settings,
    )  # fmt: skip
    trainer.fit(verbose=0)
    losses = [row["val_loss"] for row in trainer.history]
    assert losses[-1] < losses[0] - 0.05, losses
    model, windows = trainer.best_model(), trainer.data.validation
    assert model.config.sampled_words == 0
    nats, count, states = 0.0, 0, model.initial_states(windows.batch_size)
    for token_ids, targets in windows.dataset().take(windows.steps_per_epoch):
        new = model.step({"token_ids": token_ids, "states": states})
        nats += metrics.token_nats(new["logits"], targets).numpy().sum()
        count += np.count_nonzero(targets >= 0)
        states = new["states"]
    assert nats / count == pytest.approx(losses[-1], abs=0.02)


def test_as_many_as_the_vocabulary_has_are_all(tmp_path):
    plain, sampled = (
        make_trainer(tmp_path, model={"sampled_words": count})
        for count in (0, 50)
    )
    for trainer in (plain, sampled):
        trainer.fit(verbose=0)
    for got, expected in zip(
        sampled.model.get_weights(), plain.model.get_weights()
    ):
        assert np.array_equal(got, expected)


def test_what_contradicts_it_is_refused():
    with pytest.raises(configs.UserError, match="leave one of the two out"):
        configs.ModelConfig(sampled_words=9, label_smoothing=0.1)
    with pytest.raises(configs.UserError, match="--sampled_words: has no eff"):
        configs.with_task_defaults(
            configs.ModelConfig(sampled_words=9),
            configs.TrainConfig(task="classifier"),
            {"sampled_words", "task"},
        )
