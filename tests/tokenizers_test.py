"""Tokenizers: lossless where promised, equal eagerly and in a graph."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stacked_rnn import configs, tokenizers

NASTY = [
    b"",
    b"a\r\nb\r\n",
    b"zero\0byte\0",
    "e\u0301 combining, \U0001f469\u200d\U0001f52c joined".encode(),
    "\ufeffmark and \ufffd replacement".encode(),
    b"\xff\xfe not UTF-8 \xc3",
    b"\xed\xa0\x80 surrogate, \xf4\x90\x80\x80 too high, \xc0\xaf overlong",
]
property_test = settings(max_examples=60, deadline=None)


def round_trip(tokenizer, texts):
    token_ids = tokenizer.tokenize(tf.constant(texts, tf.string))
    assert token_ids.dtype == tf.int32
    return tokenizer.detokenize(token_ids).numpy().tolist()


@property_test
@given(st.lists(st.binary(), min_size=1, max_size=4))
def test_bytes_are_lossless_on_anything(texts):
    tokenizer = tokenizers.ByteTokenizer()
    assert round_trip(tokenizer, texts) == texts
    token_ids = tokenizer.tokenize(tf.constant(texts))
    assert token_ids.to_list() == [list(text) for text in texts]


def test_bytes_are_tokenized_without_a_padded_matrix():
    """25,000 texts and one of 10 MB would take 250 GB."""
    tokenize = tf.function(tokenizers.ByteTokenizer().tokenize)
    texts = tf.TensorSpec([None], tf.string)
    operations = tokenize.get_concrete_function(texts).graph.get_operations()
    assert any("Decode" in operation.type for operation in operations)
    for operation in operations:
        assert all(output.shape.rank <= 1 for output in operation.outputs)


@property_test
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_characters_are_lossless_on_their_alphabet(texts):
    encoded = [text.encode() for text in texts]
    tokenizer = tokenizers.build("char", b"".join(encoded) or b"x")
    assert round_trip(tokenizer, encoded) == encoded
    token_ids = tokenizer.tokenize(tf.constant(encoded))
    assert token_ids.row_lengths().numpy().tolist() == [*map(len, texts)]


@property_test
@given(st.lists(st.binary(), min_size=1, max_size=4))
def test_invalid_utf8_is_decoded_as_python_does(texts):
    replaced = [text.decode("utf-8", "replace").encode() for text in texts]
    tokenizer = tokenizers.build("char", b"x" + b"".join(texts))
    assert round_trip(tokenizer, texts) == replaced


@pytest.mark.parametrize("text", NASTY)
def test_odd_texts_survive_a_round_trip(text):
    assert round_trip(tokenizers.ByteTokenizer(), [text]) == [text]
    replaced = text.decode("utf-8", "replace").encode()
    assert round_trip(tokenizers.build("char", b"x" + text), [text]) == [
        replaced
    ]


def test_characters_outside_the_vocabulary_are_unknown():
    tokenizer = tokenizers.build("char", b"abc\n")
    token_ids = tokenizer.tokenize(tf.constant(["axb\u00e9\0", "\ufffd"]))
    assert token_ids.to_list() == [[2, 0, 3, 0, 0], [0]]
    assert round_trip(tokenizer, ["axb"]) == ["a\ufffdb".encode()]


@property_test
@given(st.lists(st.text()))
@example(["a\x1eb\x1e\x1ec"])
def test_words_are_lossless_on_their_own_text(texts):
    encoded = [text.encode() for text in texts]
    tokenizer = tokenizers.build("word", b"".join(encoded), 10**6)
    # Words are cut text by text, so the joined text may hold other words.
    for text, restored in zip(encoded, round_trip(tokenizer, encoded)):
        if b"<unk>" not in restored:
            assert restored == text
    if encoded:
        joined = b"".join(encoded)
        assert round_trip(tokenizer, [joined]) == [joined]


def test_words_carry_the_space_before_them():
    tokenizer = tokenizers.build("word", b"It has, been. It's\n  been", 100)
    words = tokenizer._split(tf.constant(["It has, been.\n  It's"]))
    assert words.to_list() == [
        [b"It", b" has", b",", b" been", b".", b"\n", b" ", b" It's"]
    ]


def test_a_word_vocabulary_keeps_the_commonest():
    tokenizer = tokenizers.build("word", b"a a a a b b b c", 3)
    assert tokenizer.vocabulary_size() == 3
    assert round_trip(tokenizer, [b" a b c"]) == [b" a b<unk>"]
    with pytest.raises(configs.UserError, match="--vocabulary_size=1: "):
        tokenizers.build("word", b"a a b", 1)


@pytest.mark.parametrize(
    ("kind", "options", "string", "missing"),
    [
        ("char", {}, "cat\n", ["\n"]),
        ("char", {}, "dog, dog", ["d", "o", "g", ","]),
        ("char", {"letters_only": True}, "a.", ["."]),
        ("char", {"document_separator": r"\t"}, "a\tx", []),
        ("word", {}, "a cat sat", []),
        ("word", {}, "tas at!", ["!"]),
        ("byte", {}, "dog\n", []),
    ],
)
def test_missing_characters_of_a_string_are_listed(
    kind, options, string, missing
):
    tokenizer = tokenizers.build(kind, b"a cat sat", 50, **options)
    assert tokenizer.missing_characters(string) == missing


def test_letters_only_is_the_normalization_of_d2l():
    text = "The Time-Machine, by H. G. Wells [1898]\n\n\u00e9t\u00e9!"
    tokenizer = tokenizers.build("char", text.encode(), letters_only=True)
    expected = re.sub("[^A-Za-z]+", " ", text).lower()
    assert round_trip(tokenizer, [text]) == [expected.encode()]
    assert set(tokenizer.to_dict()["vocabulary"]) == {"\ufffd", *expected}


@pytest.mark.parametrize("kind", ["byte", "char", "word", "subword"])
@pytest.mark.parametrize("letters_only", [False, True])
def test_tokenizers_survive_json(kind, letters_only):
    built = tokenizers.build(kind, b"One two. \x1e\0 two", 260, letters_only)
    values = json.loads(json.dumps(built.to_dict()))
    again = tokenizers.from_dict(values)
    assert again == built and again.kind == kind
    assert again.vocabulary_size() == built.vocabulary_size()
    other = tokenizers.build(kind, b"other", 260, not letters_only)
    assert again != other


@pytest.mark.parametrize("kind", ["byte", "char", "word", "subword"])
@pytest.mark.parametrize("separator", [r"\n", "<|end|>"])
def test_a_separator_is_one_token_of_its_own(kind, separator):
    between = separator.replace(r"\n", "\n").encode()
    text = between.join([b"anna b", b"bo", b"", b"cy"])
    tokenizer = tokenizers.build(kind, text, 300, document_separator=separator)
    end = tokenizer.end_id
    assert end == tokenizer.vocabulary_size() - 1 == tokenizer.start_id
    texts = [text, b"", between, b"bo"]
    whole, nothing, only, one = tokenizer.tokenize(tf.constant(texts)).to_list()
    parts = [
        tokenizer.tokenize([part]).to_list()[0] for part in text.split(between)
    ]
    assert whole == [
        *parts[0], end, *parts[1], end, *parts[2], end, *parts[3]
    ]  # fmt: skip
    assert (nothing, only, one) == ([], [end], parts[1])
    assert end not in parts[0] + parts[1] + parts[3]
    assert round_trip(tokenizer, texts) == [
        text.replace(between, b"") for text in texts
    ]
    assert tokenizer.unknown_parts([text]) == []
    again = tokenizers.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer and again.end_id == end


@pytest.mark.parametrize("kind", ["byte", "char", "word", "subword"])
@pytest.mark.parametrize("separator", ["", " with "])
def test_graph_equals_eager(kind, separator):
    tokenizer = tokenizers.build(
        kind, b"some text, with words\n", document_separator=separator
    )
    texts = tf.constant([b"some words", b"", b"\xff unseen text"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def in_graph(texts):
        token_ids = tokenizer.tokenize(texts)
        return token_ids, tokenizer.detokenize(token_ids)

    token_ids, restored = in_graph(texts)
    assert token_ids.to_list() == tokenizer.tokenize(texts).to_list()
    assert restored.numpy().tolist() == round_trip(tokenizer, texts)
    assert in_graph(tf.constant([], tf.string))[1].shape == (0,)


def test_unknown_parts_are_listed_once():
    characters = tokenizers.build("char", b"abc\n")
    assert characters.unknown_parts(["az\u00e9z", "b"]) == ["z", "\u00e9"]
    assert characters.unknown_parts(["abc"]) == []
    assert characters.unknown_parts([""]) == []
    # Several texts are not joined by something that may itself be unknown.
    assert tokenizers.build("char", b"ab").unknown_parts(["a", "b"]) == []
    letters = tokenizers.build("char", b"abc ", letters_only=True)
    assert letters.unknown_parts(["A, B!", "a"]) == []
    words = tokenizers.build("word", b"one two\n", 10)
    assert words.unknown_parts(["one three\n two three"]) == [" three"]
    assert tokenizers.ByteTokenizer().unknown_parts(["\u00e9"]) == []


@pytest.mark.parametrize("separator", ["", "|"])
@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_widened_vocabulary_has_the_new_tokens_behind_the_old(
    kind, separator
):
    old = tokenizers.build(kind, b"o n", document_separator=separator)
    pieces = ["z n|e é ".encode(), b"n|z n e"]
    wide, new_parts = tokenizers.widen(old, pieces)
    if kind == "char":
        expected = [*"ez\u00e9"] if separator else [*"ez|\u00e9"]
    else:  # the most frequent first, then in the order of the text
        expected = ["z", "e", " \u00e9", " ", "n", " e"]
        expected[1:1] = [] if separator else ["|"]
    assert new_parts == expected
    vocabulary = [*old.to_dict()["vocabulary"], *expected]
    assert [*wide.to_dict()["vocabulary"]] == vocabulary
    assert wide.vocabulary_size() == len(vocabulary) + bool(separator)
    assert wide.end_id == (len(vocabulary) if separator else None)
    for piece in pieces:
        [ids] = wide.tokenize([piece]).to_list()
        assert 0 not in ids
        assert round_trip(wide, [piece]) == [
            piece.replace(separator.encode(), b"")
        ]
    [ids], [old_ids] = (
        tokenizer.tokenize([b"on|o n"]).to_list() for tokenizer in (wide, old)
    )
    assert [i for i, o in zip(ids, old_ids) if 0 < o != old.end_id] == [
        o for o in old_ids if 0 < o != old.end_id
    ]
    assert wide == tokenizers.from_dict(json.loads(json.dumps(wide.to_dict())))
    assert tokenizers.widen(wide, pieces) == (wide, [])


def test_a_vocabulary_of_words_is_widened_up_to_its_limit():
    old = tokenizers.build("word", b"a b", 3)
    for size, expected in (
        (0, [" c", "d", " e"]),
        (4, [" c"]),
        (3, []),
        (2, []),
    ):
        assert tokenizers.widen(old, [b"d c e c"], size)[1] == expected


@pytest.mark.parametrize("kind", ["byte", "char", "subword"])
def test_a_vocabulary_that_knows_the_text_is_not_widened(kind):
    old = tokenizers.build(kind, b"abc ", letters_only=True)
    assert tokenizers.widen(old, ["C, BA\u00e9!".encode()]) == (old, [])


def test_start_id_is_a_line_break_where_there_is_one():
    def start(kind, text):
        return tokenizers.build(kind, text).start_id

    assert start("byte", b"x") == 10
    assert start("char", b"ab\n") == 1
    assert start("char", b"ab ") == 1
    assert start("char", b"ab") == 0
    assert start("word", b"ab cd\n") > 0
    subwords = tokenizers.build("subword", b"x")
    assert subwords.detokenize([subwords.start_id]).numpy() == b"\n"


@pytest.mark.parametrize(
    "vocabulary", ["", "ab", "\ufffd", "\ufffda\ufffd", "\ufffdaa"]
)
def test_broken_character_vocabularies_are_refused(vocabulary):
    with pytest.raises(configs.UserError):
        tokenizers.CharTokenizer(vocabulary)


def test_a_real_text_is_lossless(shared_text):
    text = shared_text("tinyshakespeare.txt")
    for kind in ("byte", "char"):
        assert round_trip(tokenizers.build(kind, text), [text]) == [text]
    words = tokenizers.build("word", text, 10**6)
    assert round_trip(words, [text]) == [text]
    assert np.max(words.tokenize(tf.constant([text])).flat_values) < (
        words.vocabulary_size()
    )
