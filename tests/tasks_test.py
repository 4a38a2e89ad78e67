"""Texts that train.py suggests at the end."""

import pytest

from stacked_rnn.tasks import base


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttle bird, and it sang of 3 ships. On the way", "and it sang"),
        ("ch ein Lied\nvon Flüssen und Bergen.", "von Flüssen und"),
        ("<unk> the <unk> cat sat on <unk> .", "cat sat on"),
        ("Anna\nBert\nCaesar\n", "Anna"),
        ("她走了。天黑了", "她走了"),
        ("0x00 +---+ \ufffd\ufffd", ""),
    ],
)
def test_a_suggested_prompt_is_whole_words(text, expected):
    assert base.some_words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good", "good"),
        ("it's\nfine ", "'it'\"'\"'s fine'"),
        ("x" * 99, "x" * 60),
    ],
)
def test_suggested_texts_are_quoted_in_one_line(text, expected):
    assert base.in_one_line(text) == expected
