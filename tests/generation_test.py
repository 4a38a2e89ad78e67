"""The loop with models that are no models: one spells a word, one counts."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import generation, reference, samplers
from tests.samplers_test import options

WORD = [3, 1, 4, 1, 5, 2, 6, 0]


def spell(token_ids, states):
    """Whatever it reads, it writes WORD, letter by letter, over and over."""
    del token_ids
    logits = 10.0 * tf.one_hot(tf.gather(WORD, states % len(WORD)), 8)
    return logits, states + 1


def successor(token_ids, states):
    """After i comes i + 1; the state adds up what was read."""
    return 10.0 * tf.one_hot((token_ids + 1) % 8, 8), states + token_ids


def generate(step, token_ids, states, *, max_new_tokens, seeds=None, **kwargs):
    batch = len(token_ids)
    return generation.generate(
        step,
        tf.constant(token_ids),
        states,
        options=kwargs.pop("options", options(batch)),
        seeds=tf.constant(seeds or [0] * batch, tf.int64),
        max_new_tokens=tf.constant(max_new_tokens),
        seen=kwargs.pop("seen", tf.zeros((batch, 8), tf.bool)),
        **kwargs,
    )


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_it_spells_the_word(temperature):
    token_ids, log_probs = generate(
        spell, [0, 0], tf.constant([0, 2]), max_new_tokens=[8, 8],
        options=options(2, temperature=temperature),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [WORD, WORD[2:] + WORD[:2]]
    expected = reference.log_softmax(10.0 * np.eye(8)[0])[0]
    np.testing.assert_allclose(log_probs, np.full((2, 8), expected), atol=1e-6)


def test_each_token_is_read_before_the_next():
    token_ids, _ = generate(
        successor, [2], tf.constant([0]), max_new_tokens=[4],
        options=options(temperature=0.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 4, 5, 6]]


def test_every_row_stops_at_its_own_limit():
    token_ids, log_probs = generate(
        spell, [0] * 3, tf.zeros(3, tf.int32), max_new_tokens=[2, 0, 5],
        options=options(3, temperature=0.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 1, 0, 0, 0], [0] * 5, WORD[:5]]
    assert np.count_nonzero(log_probs.numpy(), axis=1).tolist() == [2, 0, 5]


@pytest.mark.parametrize("limits", [[0, 0], [0], []])
def test_nothing_to_do_gives_nothing(limits):
    token_ids, log_probs = generate(
        spell,
        np.zeros(len(limits), "int32"),
        tf.zeros(len(limits), tf.int32),
        max_new_tokens=np.array(limits, "int32"),
    )
    assert token_ids.shape == log_probs.shape == (len(limits), 0)


def test_a_token_that_is_never_to_be_drawn():
    token_ids, log_probs = generate(
        spell, [0], tf.constant([0]), max_new_tokens=[8], never=1,
        options=options(temperature=0.0),
    )  # fmt: skip
    assert 1 not in token_ids.numpy()
    assert log_probs.numpy().min() < -9  # the model's own, undisturbed


def test_the_penalty_sees_the_prompt_and_what_was_drawn():
    def flat(token_ids, states):
        return tf.ones((tf.size(token_ids), 8)), states

    seen = tf.constant([[True] * 3 + [False] * 5])
    token_ids, _ = generate(
        flat, [0], tf.constant([0]), max_new_tokens=[5], seen=seen,
        options=options(temperature=0.0, repetition_penalty=3.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 4, 5, 6, 7]]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_the_draw_is_the_reference_draw(mode, rng):
    """A random table of next-token logits; every token by the NumPy sampler."""
    table = rng.normal(0, 1.5, (8, 8)).astype("float32")

    def bigram(token_ids, states):
        return tf.gather(table, token_ids), states

    def run():
        return generate(
            bigram, [1, 5], (), max_new_tokens=[12, 12], seeds=[4, 9],
            options=options(2, temperature=0.9, top_p=0.95),
        )  # fmt: skip

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    token_ids, log_probs = run()
    uniforms = samplers.uniforms(tf.constant([4, 9], tf.int64), 12).numpy()
    for row, token_id in enumerate([1, 5]):
        for position in range(12):
            logits = table[token_id].astype("float64")
            token_id = reference.sample(
                logits,
                uniforms[position, row],
                np.float32(0.9),
                0,
                np.float32(0.95),
            )
            assert token_ids[row, position] == token_id
            assert float(log_probs[row, position]) == pytest.approx(
                reference.log_softmax(logits)[token_id], abs=1e-5
            )
