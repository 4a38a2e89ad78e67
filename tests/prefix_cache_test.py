"""The prefix cache finds the longest beginning, and keeps to its bytes."""

import weakref

import numpy as np
import pytest

from stacked_rnn.serving import prefix_cache

ENTRY_BYTES = prefix_cache.ENTRY_BYTES + 8


def ids(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def states(number):
    return {"state_0_h": np.full(2, number, np.float32)}


@pytest.fixture
def cache():
    return prefix_cache.PrefixCache(10_000)


def add(cache, text, number):
    beginning = prefix_cache.Beginning()
    beginning.extend(ids(text))
    cache.add(beginning, states(number))


def found(cache, text):
    beginning, known = cache.find(ids(text))
    return beginning.length, known and known["state_0_h"][0]


def test_the_longest_beginning_is_found(cache):
    assert found(cache, "The cat sat") == (0, {})
    for number, text in enumerate(["The", "The cat", "The dog", "A"]):
        add(cache, text, number)
    assert found(cache, "The cat sat") == (7, 1)
    assert found(cache, "The dogs") == (7, 2)
    assert found(cache, "The cow") == (3, 0)
    assert found(cache, "Th") == found(cache, "") == (0, {})


def test_a_beginning_grows_piece_by_piece(cache):
    add(cache, "The cat", 0)
    beginning, _ = cache.find(ids("The cat sat"))
    assert beginning.length == 7
    for piece in (" s", "", "at on the mat"):
        beginning.extend(ids(piece))
    cache.add(beginning, states(1))
    assert found(cache, "The cat sat on the mat.") == (22, 1)
    assert found(cache, "The cat sits") == (7, 0)


def test_one_token_is_left_to_read(cache):
    add(cache, "The", 0)
    add(cache, "The cat", 1)
    assert found(cache, "The cat") == (3, 0)


def test_equal_hashes_are_told_apart(cache, monkeypatch):
    monkeypatch.setattr(
        prefix_cache, "_powers", lambda n: np.ones(n, np.uint64)
    )
    add(cache, "abc", 0)
    assert found(cache, "cba.") == (0, {})
    assert found(cache, "abc.") == (3, 0)


def test_the_least_used_go_first():
    cache = prefix_cache.PrefixCache(2 * ENTRY_BYTES)
    add(cache, "abc", 0)
    add(cache, "def", 1)
    assert found(cache, "abc.") == (3, 0)
    add(cache, "ghi", 2)
    assert found(cache, "abc.") == (3, 0)
    assert found(cache, "def.") == (0, {})
    assert cache.num_bytes == 2 * ENTRY_BYTES
    add(cache, "ghi", 3)
    assert found(cache, "ghi.") == (3, 3)
    assert cache.num_bytes == 2 * ENTRY_BYTES


def test_what_is_too_large_is_not_kept():
    for most in (0, ENTRY_BYTES - 1):
        cache = prefix_cache.PrefixCache(most)
        add(cache, "abc", 0)
        assert found(cache, "abc.") == (0, {})
        assert not cache.num_bytes


def test_a_long_beginning_takes_no_more_than_a_short_one(cache):
    text = ids("a" * 100_000)
    base = weakref.ref(text)
    beginning = prefix_cache.Beginning()
    beginning.extend(text[:90_000])
    cache.add(beginning, states(0))
    assert cache.num_bytes == ENTRY_BYTES
    del text
    assert base() is None
    assert found(cache, "a" * 90_001) == (90_000, 0)
