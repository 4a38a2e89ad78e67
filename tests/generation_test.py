"""The decoding loop with toy models: one spells a word, one counts."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import reference
from stacked_rnn.decoding import generation
from tests.helpers.sampler_inputs import options, uniforms

WORD = [3, 1, 4, 1, 5, 2, 6, 0]


def spell(token_ids, states):
    """Writes WORD over and over, letter by letter, whatever it reads."""
    del token_ids
    logits = 10.0 * tf.one_hot(tf.gather(WORD, states % len(WORD)), 8)
    return logits, states + 1


def successor(token_ids, states):
    """Follows i with i + 1; the state sums the tokens read."""
    return 10.0 * tf.one_hot((token_ids + 1) % 8, 8), states + token_ids


def start(token_ids, states, seeds=None, seen=None):
    batch = len(token_ids)
    return generation.start(
        tf.constant(token_ids, tf.int32),
        states,
        tf.zeros((batch, 8), tf.bool) if seen is None else seen,
        tf.constant(seeds or [0] * batch, tf.int64),
    )


def generate(step, carry, *, max_new_tokens, count=None, **kwargs):
    """Returns token ids, log-probabilities, and the whole result."""
    count = max([*max_new_tokens, 0]) if count is None else count
    result = generation.generate(
        step,
        carry,
        options=kwargs.pop("options", options(len(max_new_tokens)))
        | {"max_new_tokens": tf.constant(max_new_tokens, tf.int32)},
        max_steps=tf.constant(count),
        **kwargs,
    )
    return result["token_ids"], result["log_probs"], result


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_certain_model_spells_its_word(temperature):
    token_ids, log_probs, _ = generate(
        spell, start([0, 0], tf.constant([0, 2])), max_new_tokens=[8, 8],
        options=options(2, temperature=temperature),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [WORD, WORD[2:] + WORD[:2]]
    expected = reference.log_softmax(10.0 * np.eye(8)[0])[0]
    np.testing.assert_allclose(log_probs, np.full((2, 8), expected), atol=1e-6)


@pytest.mark.parametrize("size", [None, 12])
def test_given_tokens_are_forced_not_drawn(size):
    """Rows with given tokens draw as if these were part of the prompt."""
    given = np.full((3, 12), -1, np.int32)
    given[0, :4], given[1, :1] = [5, 0, 2, 6], [7]
    limits, seeds = [3, 8, 5], [11, 12, 13]

    def wavering(token_ids, states):
        logits, states = successor(token_ids, states)
        return 0.2 * logits, states

    token_ids, log_probs, result = generate(
        wavering, start([1, 2, 3], tf.zeros(3, tf.int32), seeds),
        max_new_tokens=limits, count=12, padded_length=size,
        forced_ids=tf.constant(given),
    )  # fmt: skip
    # The state adds up what was read before the last token.
    last, read, places = [6, 7, 3], [1 + 5 + 0 + 2, 2, 0], [4, 1, 0]
    expected_ids, expected_log_probs, expected = generate(
        wavering, start(last, tf.constant(read), seeds), max_new_tokens=limits
    )
    np.testing.assert_array_equal(result["lengths"], expected["lengths"])
    for row, place in enumerate(places):
        drawn = slice(place, place + limits[row])
        assert token_ids[row, :place].numpy().tolist() == (
            given[row, :place].tolist()
        )
        np.testing.assert_array_equal(
            token_ids[row, drawn], expected_ids[row, : limits[row]]
        )
        np.testing.assert_allclose(
            log_probs[row, drawn], expected_log_probs[row, : limits[row]]
        )


def test_each_token_is_fed_back_before_the_next():
    token_ids, *_ = generate(
        successor, start([2], tf.constant([0])), max_new_tokens=[4],
        options=options(temperature=0.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 4, 5, 6]]


def test_every_row_stops_at_its_own_limit():
    token_ids, log_probs, result = generate(
        spell, start([0] * 3, tf.zeros(3, tf.int32)), max_new_tokens=[2, 0, 5],
        options=options(3, temperature=0.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 1, 0, 0, 0], [0] * 5, WORD[:5]]
    assert result["lengths"].numpy().tolist() == [2, 0, 5]
    assert np.count_nonzero(log_probs.numpy(), axis=1).tolist() == [2, 0, 5]


@pytest.mark.parametrize("limits", [[0, 0], [0], []])
def test_empty_batches_and_zero_limits_give_no_tokens(limits):
    token_ids, _, result = generate(
        spell,
        start([0] * len(limits), tf.zeros(len(limits), tf.int32)),
        max_new_tokens=limits,
    )
    assert not token_ids.numpy().any() and len(token_ids) == len(limits)
    assert result["lengths"].numpy().tolist() == limits


def test_end_token_ends_a_row_and_the_last_row_the_loop():
    steps = []

    def counting(token_ids, states):
        steps.append(1)
        return spell(token_ids, states)

    token_ids, log_probs, result = generate(
        counting, start([0, 0], tf.constant([0, 1])), max_new_tokens=[8, 8],
        options=options(2, temperature=0.0), end_id=5,
    )  # fmt: skip
    assert result["lengths"].numpy().tolist() == [4, 3]
    assert token_ids.numpy()[:, :4].tolist() == [[3, 1, 4, 1], [1, 4, 1, 0]]
    assert not token_ids.numpy()[:, 4:].any()
    assert np.count_nonzero(log_probs) == 7
    assert result["carry"]["finished"].numpy().all()
    assert len(steps) == 5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_generating_in_pieces_gives_the_same_text(jit_compile, rng):
    """With a penalty, an end token and a limit per row."""
    table = tf.constant(rng.normal(0, 1.5, (8, 8)), tf.float32)

    def bigram(token_ids, states):
        return tf.gather(table, token_ids), states

    settings = options(3, temperature=1.2, repetition_penalty=[1.0, 1.3, 1.0])
    begun = start([1, 5, 2], (), seeds=[4, 9, 1])
    whole, log_probs, _ = generate(
        bigram, begun, options=settings, max_new_tokens=[30, 12, 25], end_id=7
    )
    chunk = tf.function(
        lambda carry, count: generation.generate(
            bigram,
            carry,
            options=settings | {"max_new_tokens": tf.constant([30, 12, 25])},
            max_steps=count,
            padded_length=8,
            end_id=7,
        ),
        jit_compile=jit_compile,
    )
    texts, pieces, carry = [[], [], []], [[], [], []], begun
    for count in (1, 8, 3, 5, 8, 8):
        drawn = chunk(carry, tf.constant(count))
        carry = drawn["carry"]
        for row, length in enumerate(drawn["lengths"]):
            texts[row] += drawn["token_ids"][row, :length].numpy().tolist()
            pieces[row] += drawn["log_probs"][row, :length].numpy().tolist()
    assert carry["finished"].numpy().all()
    for row, text in enumerate(texts):
        assert text == whole[row, : len(text)].numpy().tolist()
        assert not whole[row, len(text) :].numpy().any()
        np.testing.assert_allclose(
            pieces[row], log_probs[row, : len(text)], atol=1e-5
        )


def test_a_banned_token_is_never_drawn():
    token_ids, log_probs, _ = generate(
        spell, start([0], tf.constant([0])), max_new_tokens=[8], banned_id=1,
        options=options(temperature=0.0),
    )  # fmt: skip
    assert 1 not in token_ids.numpy()
    assert log_probs.numpy().min() < -9  # the model's own, undisturbed


def test_repetition_penalty_covers_prompt_and_drawn_tokens():
    def flat(token_ids, states):
        return tf.ones((tf.size(token_ids), 8)), states

    seen = tf.constant([[True] * 3 + [False] * 5])
    token_ids, *_ = generate(
        flat, start([0], (), seen=seen), max_new_tokens=[5],
        options=options(temperature=0.0, repetition_penalty=3.0),
    )  # fmt: skip
    assert token_ids.numpy().tolist() == [[3, 4, 5, 6, 7]]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_drawn_tokens_equal_the_reference_sampler(mode, rng):
    """A random table of next-token logits; every token by the NumPy sampler."""
    table = rng.normal(0, 1.5, (8, 8)).astype("float32")

    def bigram(token_ids, states):
        return tf.gather(table, token_ids), states

    def run():
        return generate(
            bigram, start([1, 5], (), seeds=[4, 9]), max_new_tokens=[12, 12],
            count=12, options=options(2, temperature=0.9, top_p=0.95),
            padded_length=12 if mode == "xla" else None,
        )  # fmt: skip

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    token_ids, log_probs, _ = run()
    numbers = uniforms([4, 9], 12).numpy()
    for row, token_id in enumerate([1, 5]):
        for position in range(12):
            logits = table[token_id].astype("float64")
            token_id = reference.sample(
                logits,
                numbers[position, row],
                np.float32(0.9),
                0,
                np.float32(0.95),
            )
            assert token_ids[row, position] == token_id
            assert float(log_probs[row, position]) == pytest.approx(
                reference.log_softmax(logits)[token_id], abs=1e-5
            )
