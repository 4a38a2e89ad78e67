"""A growing text shows the same text wherever it is cut."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stacked_rnn.decoding.incremental_text import Continuation


def grown(tokens, sizes=(1,), stop=()):
    """Feeds a continuation in pieces; returns it and what it showed."""
    row = Continuation("prompt", 3, stop)
    shown, start, turn = [], 0, 0
    while start < len(tokens) and not row.stopped:
        piece = tokens[start : start + sizes[turn % len(sizes)]]
        row.add(piece, [-1.0] * len(piece))
        shown.append(row.show())
        start, turn = start + len(piece), turn + 1
    shown.append(row.show(last=True))
    return row, shown


def expected_text(content, stop):
    """The text before the stop string that is complete first."""
    found = [
        (place + len(string.encode()), place)
        for string in stop
        if (place := content.find(string.encode())) >= 0
    ]
    _, end = min(found, default=(0, len(content)))
    return content[:end].decode("utf-8", "replace")


@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"\xc3", b"\xa9", b"ba\n"])),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(
        st.sampled_from(
            ["ab", "ba\n", "aab", "\u00e9", "b", "aaaa", "abab", "aabaaa"]
        ),
        max_size=2,
    ),
)
@example([b"ab", b"ab"], [1], ["b", "abab"])
@example([b"ab", b"ab"], [2], ["b", "abab"])
def test_pieces_add_up_to_the_whole_text(tokens, sizes, stop):
    row, shown = grown(tokens, sizes, stop)
    text = expected_text(b"".join(tokens), stop)
    assert row.text == "".join(shown) == text
    assert row.stopped == any(
        string.encode() in b"".join(tokens) for string in stop
    )
    assert len(row.log_probs) == len(row.tokens)
    # The token in which a stop string begins is one of those shown.
    assert row.show_tokens() == slice(0, len(row.tokens))
    joined = b"".join(row.tokens)
    content = text.encode() if "\ufffd" not in text else joined
    assert joined.startswith(content)
    if row.tokens:  # the last one begins before the end of the text
        assert len(joined) - len(row.tokens[-1]) < max(len(content), 1)
    whole = row.tokens[:-1] if row.cut_token else row.tokens
    if "\ufffd" not in text:
        assert b"".join([*whole, row.cut_token]) == content


def test_only_whole_characters_are_shown():
    _, shown = grown([b"\xe2", b"\x82", b"\xac", b"!"])
    assert shown == ["", "", "\u20ac", "!", ""]


def test_a_possible_stop_string_is_held_back():
    _, shown = grown([b"a", b"E", b"N", b"x", b"E", b"N", b"D"], stop=["END"])
    assert shown == ["a", "", "", "ENx", "", "", "", ""]
    _, shown = grown([b"a", b"E", b"N"], stop=["END"])
    assert shown[-1] == "EN"  # it was none


@given(
    st.lists(st.text("ab", min_size=1), min_size=1),
    st.text("ab", min_size=1, max_size=9),
)
def test_no_more_is_held_back_than_may_be_a_stop_string(pieces, stop):
    row, content = Continuation("", 0, [stop]), ""
    for piece in pieces:
        row.add([piece.encode()], [-1.0])
        content += piece
        if row.stopped:
            break
        shown = len(content) - max(
            length
            for length in range(len(stop))
            if content.endswith(stop[:length])
        )
        row.show()
        assert row._shown == shown


def test_a_long_stop_string_is_cheap():
    """A server searches for it in the one thread that decodes all texts."""
    row = Continuation("", 0, ["a" * 999_999 + "b"])
    start = time.process_time()
    for _ in range(20):
        row.add([b"a" * 100], [-1.0])
        assert row.show() == ""
    assert time.process_time() - start < 3


def test_finish_reason_is_stop_or_length():
    row, _ = grown([b"a", b"b"])
    assert (row.finish_reason, row.mean_log_prob) == ("length", -1.0)
    row.add([], [], ended=True)
    assert row.finish_reason == "stop"
    assert Continuation("", 0).mean_log_prob is None


@pytest.mark.parametrize("stop", [[], ["zz"]])
def test_invalid_bytes_become_replacement_characters(stop):
    row, shown = grown([b"\xff", b"a", b"\xc3"], stop=stop)
    assert "".join(shown) == row.text == "\ufffda\ufffd"
