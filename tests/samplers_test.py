"""Drawn sets and frequencies on logits made by hand; eager, graph, XLA."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stacked_rnn import reference
from stacked_rnn.decoding import samplers
from tests.helpers.sampler_inputs import options, uniforms

LOGITS = np.log([[0.5, 0.3, 0.15, 0.05]]).astype("float32")


WAYS = ("sorting", "pairs", "bits")  # to find the tokens of top-k and top-p


@contextlib.contextmanager
def finding_by(way):
    """Gives `sorts`, with which `samplers.truncate` takes that way."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "bits":
            patch.setattr(samplers, "_MOST_IN_PAIRS", 0)
        yield way == "sorting"


def drawn_set(way="sorting", **kwargs):
    """The ids that any random number draws from LOGITS."""
    uniform = np.arange(1000, dtype="float32") / 1000
    logits = np.repeat(LOGITS, 1000, axis=0)
    values = options(1000, **kwargs)
    with finding_by(way) as sorts:
        return set(samplers.sample(logits, uniform, values, sorts).numpy())


def test_threefry_known_answers():
    """Test vectors of the authors' Random123 library, threefry2x32 R=20."""
    vectors = [
        ((0, 0), (0, 0), 0x6B200159),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, 0x1CB996FC),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), 0xC4923A9C),
    ]
    for counter, key, expected in vectors:
        keys = [tf.constant(word, tf.uint32) for word in key]
        parity = tf.constant(0x1BD11BDA ^ key[0] ^ key[1], tf.uint32)
        counters = [tf.constant(word, tf.uint32) for word in counter]
        block = samplers._threefry_2x32((*keys, parity), *counters)
        assert int(block) == expected


def test_both_halves_of_the_seed_are_the_key():
    key = (0x13198A2E, 0x03707344)
    words = [tf.constant(word, tf.uint32) for word in key]
    parity = tf.constant(0x1BD11BDA ^ key[0] ^ key[1], tf.uint32)
    zero = tf.constant(0, tf.uint32)
    block = samplers._threefry_2x32((*words, parity), zero, zero)
    number = uniforms([key[0] | key[1] << 32], 1)
    assert float(number[0, 0]) == (int(block) >> 8) / 2**24


def test_uniforms_depend_on_seed_and_position_alone():
    seeds = [3, 4, 2**62 + 3]
    numbers = uniforms(seeds, 50).numpy()
    assert numbers.shape == (50, 3)
    assert np.array_equal(uniforms(seeds[1:2], 20)[:, 0], numbers[:20, 1])
    places = tf.constant([[7, 0, 49]])
    assert np.array_equal(
        samplers.uniforms(tf.constant(seeds, tf.int64), places)[0],
        numbers[[7, 0, 49], range(3)],
    )
    assert len(np.unique(numbers)) == 150


@pytest.mark.parametrize("jit_compile", [False, True])
def test_uniforms_are_the_same_bits_in_a_graph_and_under_xla(jit_compile):
    seeds = [0, 1, 2**63 - 1, 12345]
    function = tf.function(lambda: uniforms(seeds, 30), jit_compile=jit_compile)
    assert np.array_equal(function(), uniforms(seeds, 30))


def test_uniforms_are_uniform():
    numbers = uniforms(range(100), 1000).numpy()
    assert 0 <= numbers.min() and numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.abs(counts / 5000 - 1).max() < 0.06
    assert (
        abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01
    )


def test_frequencies_follow_the_distribution():
    uniform = uniforms([7], 20_000)[:, 0]
    logits = np.repeat(LOGITS, 20_000, axis=0)
    token_ids = samplers.sample(logits, uniform, options(20_000)).numpy()
    frequencies = np.bincount(token_ids, minlength=4) / 20_000
    np.testing.assert_allclose(frequencies, [0.5, 0.3, 0.15, 0.05], atol=0.012)


def test_low_temperature_sharpens_the_distribution():
    uniform = np.arange(1000, dtype="float32") / 1000
    logits = np.repeat(LOGITS, 1000, axis=0)
    token_ids = samplers.sample(logits, uniform, options(1000, temperature=0.5))
    share = np.mean(token_ids.numpy() == 0)
    assert share == pytest.approx(
        0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=2e-3
    )


def test_temperature_zero_is_greedy():
    assert drawn_set(temperature=0.0) == {0}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("top_k", [0, 2])
def test_the_smallest_temperature_is_greedy(way, top_k):
    with finding_by(way) as sorts:
        drawn = samplers.sample(
            tf.constant([[-np.inf, 20.0, 30.0, -40.0]]),
            tf.constant([0.999]),
            options(temperature=np.finfo(np.float32).tiny, top_k=top_k),
            sorts,
        )
    assert drawn.numpy().tolist() == [2]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, {0, 1, 2, 3}),
        (2, 1.0, {0, 1}),
        (9, 1.0, {0, 1, 2, 3}),
        (0, 0.5, {0}),
        (0, 0.51, {0, 1}),
        (0, 0.9, {0, 1, 2}),
        (0, 0.0, {0}),
        (2, 0.7, {0, 1}),  # of the two kept, 0.625 is not enough
        (2, 0.6, {0}),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_top_k_and_top_p_keep_the_expected_tokens(top_k, top_p, expected, way):
    assert drawn_set(way, top_k=top_k, top_p=top_p) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.floats(-(2.0**99), 2.0**99, width=32)
        | st.sampled_from([0.0, -0.0, -np.inf]),
        min_size=2,
        max_size=12,
    ),
    st.integers(0, 14),
    st.sampled_from([1.0, 0.6]),
)
@example([2.0, 1.0, 1.0], 2, 0.6)
def test_the_same_tokens_are_kept_however_they_are_found(logits, top_k, top_p):
    """Including ties, both zeros and minus infinities."""
    row = tf.constant([[*logits, 1.0]], tf.float32)
    found = []
    for way in WAYS:
        with finding_by(way) as sorts:
            found.append(
                samplers.truncate(
                    row, tf.constant([top_k]), tf.constant([top_p]), sorts
                )
            )
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_repetition_penalty_pushes_seen_tokens_down():
    logits = tf.constant([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    seen = tf.constant([[True, True, False]] * 2)
    penalized = samplers.penalize_repetition(
        logits, seen, tf.constant([2.0, 1.0])
    )
    np.testing.assert_allclose(penalized, [[1.0, -4.0, 1.0], [2.0, -2.0, 1.0]])
    expected = reference.penalize_repetition(logits[0], seen[0], 2.0)
    np.testing.assert_allclose(penalized[0], expected)


def test_minus_infinity_is_never_drawn():
    logits = tf.constant([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]] * 1000)
    uniform = np.arange(1000, dtype="float32") / 1000
    token_ids = samplers.sample(logits, uniform, options(1000)).numpy()
    assert set(token_ids) == {1, 3}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.99999),
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.integers(0, 12),
    st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    st.sampled_from(WAYS),
)
@example(2049, 0.0, 0.3, 0, 1.0, "pairs")  # a first token of next to no mass
def test_samples_equal_the_reference(
    seed, uniform, temperature, top_k, top_p, way
):
    logits = np.random.default_rng(seed).normal(0, 3, (1, 9)).astype("float32")
    values = options(temperature=temperature, top_k=top_k, top_p=top_p)
    with finding_by(way) as sorts:
        token_id = samplers.sample(
            logits, tf.constant([uniform], tf.float32), values, sorts
        )
    expected = reference.sample(
        logits[0].astype("float64"),
        np.float32(uniform),
        temperature,
        top_k,
        top_p,
    )
    assert int(token_id[0]) == expected


@pytest.mark.parametrize("vocabulary_size", [40, 140])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_rows_have_their_own_options_and_do_not_affect_each_other(
    jit_compile, vocabulary_size, rng
):
    logits = tf.constant(rng.normal(0, 2, (6, vocabulary_size)), tf.float32)
    uniform = tf.constant(rng.uniform(size=6), tf.float32)
    mixed = options(
        6,
        temperature=[0.0, 0.5, 1.0, 1.0, 2.0, 1.0],
        top_k=[0, 3, 0, 7, 0, 1],
        top_p=[1.0, 1.0, 0.3, 0.8, 1.0, 1.0],
    )
    sample = tf.function(samplers.sample, jit_compile=jit_compile)
    together = sample(logits, uniform, mixed, sorts=not jit_compile).numpy()
    for row in range(6):
        one = slice(row, row + 1)
        alone = {name: values[one] for name, values in mixed.items()}
        assert (
            samplers.sample(logits[one], uniform[one], alone) == together[row]
        )
