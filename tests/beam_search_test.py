"""Beam search against NumPy, against all texts, and by hand."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stacked_rnn import reference
from stacked_rnn.decoding import beam_search, generation
from tests.helpers.sampler_inputs import options


def random_steps(seed, vocabulary_size, units=4):
    """Makes the step of a random recurrent model in TensorFlow and in NumPy.

    The state depends on the whole text, so no two texts are equally likely.
    """
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(vocabulary_size, units))
    recurrent = rng.normal(0.0, 1.5, (units, units))
    readout = rng.normal(0.0, 1.5, (units, vocabulary_size))

    def in_tensorflow(token_ids, states):
        (h,), counts = states
        h = tf.tanh(tf.gather(embedding, token_ids) + h @ recurrent)
        return h @ readout, ((h,), counts + 1)

    def in_numpy(token_id, h):
        h = np.tanh(embedding[token_id] + h @ recurrent)
        return h @ readout, h

    return in_tensorflow, in_numpy


def beginning(seed, vocabulary_size, batch_size=3, units=4):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, vocabulary_size, batch_size).astype("int32"),
        rng.normal(size=(batch_size, units)),
    )


def search(step, token_ids, h, **kwargs):
    """Calls `beam_search.search` with a nest of states."""
    states = ((tf.constant(h),), tf.zeros(len(token_ids), tf.int32))
    return beam_search.search(step, tf.constant(token_ids), states, **kwargs)


def texts(found, row=0):
    """Lists (score, token ids, log-probabilities) of the texts of a prompt."""
    return [
        (float(score), *(x[:length].numpy().tolist() for x in (ids, log_probs)))
        for score, ids, log_probs, length in zip(
            found["scores"][row],
            found["token_ids"][row],
            found["log_probs"][row],
            found["lengths"][row],
        )
        if score > -np.inf
    ]


def assert_same(found, expected):
    assert [ids for _, ids, _ in found] == [ids for _, ids, _ in expected]
    for one, other in zip(found, expected):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        np.testing.assert_allclose(one[2], other[2], atol=1e-4)


@given(
    seed=st.integers(0, 2**20),
    vocabulary_size=st.integers(1, 7),
    num_beams=st.integers(1, 6),
    max_new_tokens=st.integers(1, 7),
    length_penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    end_ids=st.lists(st.integers(0, 6), max_size=2, unique=True),
    banned_id=st.none() | st.integers(0, 6),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_search_equals_the_reference(
    seed, vocabulary_size, end_ids, banned_id, **kwargs
):
    kwargs |= {
        "end_ids": [i for i in end_ids if i < vocabulary_size],
        "banned_id": banned_id if (banned_id or 9) < vocabulary_size else None,
    }
    step, numpy_step = random_steps(seed, vocabulary_size)
    token_ids, h = beginning(seed, vocabulary_size)
    found = search(step, token_ids, h, **kwargs)
    for row in range(len(token_ids)):
        assert_same(
            texts(found, row),
            reference.beam_search(numpy_step, token_ids[row], h[row], **kwargs),
        )
    unused = (
        np.arange(kwargs["max_new_tokens"])
        >= found["lengths"].numpy()[..., None]
    )
    assert not found["token_ids"].numpy()[unused].any()
    assert not found["log_probs"].numpy()[unused].any()


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("end_ids", [[], [2], [0, 2]])
def test_enough_beams_find_the_best_of_all_texts(length_penalty, end_ids):
    """Compares with all texts of up to four tokens out of three."""
    step, numpy_step = random_steps(3, 3)
    (token_id,), h = beginning(3, 3, batch_size=1)

    def text(ids, ends):
        """Computes what a search returns for a text from the step alone."""
        state, last, log_probs = h[0], token_id, []
        for new in ids:
            logits, state = numpy_step(last, state)
            log_probs.append(reference.log_softmax(logits)[new])
            last = new
        total = sum(log_probs)
        if ends:
            logits, _ = numpy_step(last, state)
            p = np.exp(reference.log_softmax(logits))
            total += np.log(p[end_ids].sum())
        score = total / (len(ids) + ends) ** length_penalty
        return score, list(ids), log_probs

    letters = [i for i in range(3) if i not in end_ids]
    cut_off = [text(ids, 0) for ids in itertools.product(letters, repeat=4)]
    ended = [
        text(ids, 1)
        for length in range(4 if end_ids else 0)
        for ids in itertools.product(letters, repeat=length)
    ]
    expected = [
        *sorted(ended, key=lambda text: -text[0]),
        *sorted(cut_off, key=lambda text: -text[0]),
    ]
    found = search(
        step, [token_id], h, num_beams=3**4, max_new_tokens=4,
        length_penalty=length_penalty, end_ids=end_ids,
    )  # fmt: skip
    assert_same(texts(found), expected)
    absent = found["scores"].numpy() == -np.inf
    assert not found["lengths"].numpy()[absent].any()


@pytest.mark.parametrize("end_id", [None, 1])
def test_one_beam_equals_greedy_decoding(end_id):
    step, _ = random_steps(8, 6)
    token_ids, h = beginning(8, 6, batch_size=8)
    states = ((tf.constant(h),), tf.zeros(8, tf.int32))
    greedy = generation.generate(
        step,
        generation.start(
            tf.constant(token_ids), states, tf.zeros((8, 6), tf.bool),
            tf.zeros(8, tf.int64),
        ),
        options=options(8, temperature=0.0)
        | {"max_new_tokens": tf.fill([8], 9)},
        max_steps=tf.constant(9), padded_length=9,
        end_id=end_id,
    )  # fmt: skip
    found = search(
        step, token_ids, h, num_beams=1, max_new_tokens=9, length_penalty=0.0,
        end_ids=[] if end_id is None else [end_id],
    )  # fmt: skip
    assert np.array_equal(found["token_ids"][:, 0], greedy["token_ids"])
    assert np.array_equal(found["lengths"][:, 0], greedy["lengths"])
    np.testing.assert_allclose(
        found["log_probs"][:, 0], greedy["log_probs"], atol=1e-5
    )
    stopped = np.count_nonzero(greedy["lengths"].numpy() < 9)
    assert stopped == 0 if end_id is None else 0 < stopped < 8


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_graph_and_xla_equal_eager(mode):
    """In a graph the options are tensors; for XLA they are constants."""
    step, _ = random_steps(5, 7)
    token_ids, h = beginning(5, 7)

    def run(num_beams, max_new_tokens, length_penalty):
        return search(
            step, token_ids, h, num_beams=num_beams,
            max_new_tokens=max_new_tokens, length_penalty=length_penalty,
            end_ids=[1, 3], banned_id=0,
        )  # fmt: skip

    numbers = [
        tf.TensorSpec([], dtype) for dtype in (tf.int32, tf.int32, tf.float32)
    ]
    graph = tf.function(run, autograph=False, input_signature=numbers)
    for values in ((4, 6, 1.0), (2, 1, 0.0), (3, 9, 0.5)):
        result = (
            tf.function(lambda v=values: run(*v), jit_compile=True)()
            if mode == "xla"
            else graph(*values)
        )
        expected = run(*values)
        assert np.array_equal(result["token_ids"], expected["token_ids"])
        assert np.array_equal(result["lengths"], expected["lengths"])
        np.testing.assert_allclose(
            result["scores"], expected["scores"], atol=1e-4
        )
        if mode == "xla":
            break  # each compiles anew


def bigrams(probabilities):
    """Makes a step that depends on the last token only and counts its calls."""
    logits, calls = np.log(np.maximum(probabilities, 1e-30)), []

    def step(token_ids, states):
        calls.append(1)
        return tf.gather(logits.astype("float32"), token_ids), states

    return step, calls


def best(step, **kwargs):
    """Searches from token 0; returns the ids and the score of the best text."""
    score, ids, _ = texts(
        beam_search.search(step, tf.constant([0]), (), **kwargs)
    )[0]
    return ids, np.exp(score)


def test_beams_find_a_likelier_text_than_greedy_decoding():
    """Token 1 is likelier than 2, but what follows 2 is certain."""
    step, _ = bigrams(
        [[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.0, 0.0, 1.0]]
    )  # fmt: skip
    values = {"max_new_tokens": 2, "length_penalty": 0.0}
    assert best(step, num_beams=1, **values) == (
        [1, 0], pytest.approx(0.24, rel=1e-4),
    )  # fmt: skip
    assert best(step, num_beams=2, **values) == (
        [2, 2], pytest.approx(0.4, rel=1e-4),
    )  # fmt: skip


def test_a_length_penalty_favours_longer_texts():
    """0 ends at once with p = 0.3, or begins 1 1 1 ..., each with p = 0.7."""
    step, _ = bigrams(
        [[0.0, 0.7, 0.3], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]
    )  # fmt: skip
    values = {"num_beams": 3, "max_new_tokens": 6, "end_ids": [2]}
    short, p = best(step, length_penalty=0.0, **values)
    assert short == [] and p == pytest.approx(0.3, rel=1e-4)
    long, p = best(step, length_penalty=1.0, **values)
    assert long == [1] * 5  # an end follows
    assert p == pytest.approx((0.7**5 * 0.3) ** (1 / 6), rel=1e-4)


def test_finished_texts_come_before_unfinished_ones():
    """The text 1 1 1 ... is likelier than any end, and never ends."""
    step, _ = bigrams([[0.0, 0.9, 0.1]] * 3)
    found = beam_search.search(
        step, tf.constant([0]), (), num_beams=3, max_new_tokens=2,
        length_penalty=0.0, end_ids=[2],
    )  # fmt: skip
    assert [ids for _, ids, _ in texts(found)] == [[], [1], [1, 1]]
    np.testing.assert_allclose(
        np.exp(found["scores"][0]), [0.1, 0.09, 0.81], 1e-4
    )


def test_probabilities_of_several_ends_add_up():
    step, _ = bigrams([[0.0, 0.4, 0.3, 0.3]] * 4)
    values = {"max_new_tokens": 3, "num_beams": 2, "length_penalty": 0.0}
    found = beam_search.search(
        step, tf.constant([0]), (), end_ids=[2, 3], **values
    )
    assert [ids for _, ids, _ in texts(found)] == [[], [1]]
    np.testing.assert_allclose(np.exp(found["scores"]), [[0.6, 0.24]], 1e-4)


def test_ties_are_broken_by_lower_ids():
    step, _ = bigrams([[0.25] * 4] * 4)
    found = beam_search.search(
        step, tf.constant([0]), (), num_beams=4, max_new_tokens=2,
        length_penalty=0.0,
    )  # fmt: skip
    assert [ids for _, ids, _ in texts(found)] == [
        [0, 0], [0, 1], [0, 2], [0, 3],
    ]  # fmt: skip
    # After 1 an end and 0 have p = 1/2 each; after 0 the end is certain.
    step, _ = bigrams([[0.0, 1.0], [0.5, 0.5]])
    for num_beams, expected in ((1, [[0]]), (2, [[], [0]])):
        found = beam_search.search(
            step, tf.constant([1]), (), num_beams=num_beams, max_new_tokens=3,
            length_penalty=0.0, end_ids=[1],
        )  # fmt: skip
        assert [ids for _, ids, _ in texts(found)] == expected


def test_search_stops_as_soon_as_nothing_can_improve():
    sure, calls = bigrams([[0.0, 0.05, 0.95], [0.0, 0.05, 0.95], [0, 0, 1.0]])
    values = {"max_new_tokens": 50, "end_ids": [2], "num_beams": 2}
    assert best(sure, length_penalty=0.0, **values)[0] == []
    assert len(calls) == 2
    # The mean log p may rise for as long as a text grows.
    step, calls = bigrams([[0.0, 0.4, 0.6], [0.0, 0.99, 0.01], [0, 0, 1.0]])
    ids, _ = best(step, length_penalty=1.0, **values)
    assert ids == [1] * 49 and len(calls) == 50


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_search_for_fewer_texts_stops_sooner(seed):
    step, _ = random_steps(seed, 5)
    calls = []

    def counted(token_ids, states):
        calls.append(1)
        return step(token_ids, states)

    token_ids, h = beginning(seed, 5, batch_size=4)
    found, counts = [], []
    for num_texts in (None, 2):
        found.append(
            search(
                counted, token_ids, h, num_beams=6, max_new_tokens=25,
                length_penalty=0.2, end_ids=[4], num_texts=num_texts,
            )
        )  # fmt: skip
        counts.append(len(calls))
        calls.clear()
    assert counts[0] > counts[1]
    for row in range(4):
        everything, wanted = (texts(one, row) for one in found)
        assert_same(wanted[:2], everything[:2])


def test_prompts_of_a_batch_do_not_affect_each_other():
    """Rows that have finished stay as they are while others go on."""
    step, _ = random_steps(11, 5)
    token_ids, h = beginning(11, 5, batch_size=6)
    values = {
        "num_beams": 3, "max_new_tokens": 12, "length_penalty": 0.3,
        "end_ids": [4],
    }  # fmt: skip
    together = search(step, token_ids, h, **values)
    for row in range(6):
        alone = search(
            step, token_ids[row : row + 1], h[row : row + 1], **values
        )
        assert_same(texts(alone), texts(together, row))
    assert len({int(x) for x in together["lengths"][:, 0]}) > 2


def test_an_empty_batch_gives_no_texts():
    step, _ = random_steps(0, 5)
    found = search(
        step, np.zeros(0, "int32"), np.zeros((0, 4)), num_beams=2,
        max_new_tokens=3, length_penalty=1.0,
    )  # fmt: skip
    assert found["token_ids"].shape == (0, 2, 3)
