"""Equal to the `tokenizers` library on text, and lossless on anything."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from stacked_rnn import configs, tokenizers
from stacked_rnn.tokenizers import subword

TEXT = (
    "The traveller's theme: we'll see, they've seen; I'd go, 'tis ''so''.\n\n"
    "\t\tif x1 == 12345:\r\n    return  ----====----  # \u00a0\u3000 wide\n"
    "Gr\u00f6\u00dfe na\u00efve caf\u00e9 e\u0301 \u00bd \u0663\u0664 "
    "\U0001f469\u200d\U0001f52c \u043c\u0438\u0440, \u041c\u0438\u0440! "
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002 \u0928\u092e\u0938\u094d\n"
) * 4  # fmt: skip
SIZE = 370
BY_BYTES = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
property_test = settings(max_examples=80, deadline=None)


def library_twin(tokenizer):
    """The library's tokenizer of the same merges."""
    merges = [merge.split(" ") for merge in tokenizer.to_dict()["merges"]]
    vocabulary = sorted(BY_BYTES.alphabet())
    vocabulary += dict.fromkeys(map("".join, merges))
    ids = {token: token_id for token_id, token in enumerate(vocabulary)}
    twin = library.Tokenizer(library.models.BPE(ids, list(map(tuple, merges))))
    twin.pre_tokenizer = BY_BYTES
    return twin


def library_words(text):
    return [
        text[start:end].encode()
        for _, (start, end) in BY_BYTES.pre_tokenize_str(text)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.build("subword", TEXT.encode(), SIZE)


@pytest.fixture(scope="module")
def twin(tokenizer):
    return library_twin(tokenizer)


@pytest.fixture(scope="module")
def in_graph(tokenizer):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def there_and_back(texts):
        token_ids = tokenizer.tokenize(texts)
        return token_ids, tokenizer.detokenize(token_ids)

    return there_and_back


def test_the_vocabulary_is_what_the_library_learns(tokenizer):
    learner = library.Tokenizer(library.models.BPE())
    learner.pre_tokenizer = BY_BYTES
    learner.train_from_iterator(
        [TEXT],
        library.trainers.BpeTrainer(
            vocab_size=SIZE,
            min_frequency=2,
            initial_alphabet=BY_BYTES.alphabet(),
            show_progress=False,
        ),
    )
    assert tokenizer.vocabulary_size() == learner.get_vocab_size() == SIZE
    token_ids = tokenizer.tokenize([TEXT]).flat_values.numpy().tolist()
    assert token_ids == learner.encode(TEXT).ids
    assert len(token_ids) < len(TEXT.encode()) / 2


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "timemachine.txt"])
def test_ids_of_a_real_text_are_the_library_s(shared_text, name):
    text = shared_text(name)
    tokenizer = tokenizers.build("subword", text)
    assert tokenizer.vocabulary_size() == 1024
    token_ids = tokenizer.tokenize([text])
    expected = library_twin(tokenizer).encode(text.decode()).ids
    assert np.array_equal(token_ids.flat_values, expected)
    assert tokenizer.detokenize(token_ids).numpy() == [text]


# Newer characters than these are letters to one of the two only.
CHARACTERS = st.characters(
    exclude_categories=("Cs", "Cn"), max_codepoint=0x1FFFF
) | st.sampled_from([*" \n\t\r\v\0\x1c\x85\u00a0\u2028\u0301'stmdrevl1-aZ"])


@property_test
@given(st.lists(st.text(CHARACTERS), max_size=5))
def test_words_and_ids_of_any_text_are_the_library_s(in_graph, twin, texts):
    words = subword._words(tf.constant(texts, tf.string))
    assert words.to_list() == [library_words(text) for text in texts]
    token_ids, restored = in_graph(tf.constant(texts, tf.string))
    assert token_ids.dtype == tf.int32
    assert token_ids.to_list() == [twin.encode(text).ids for text in texts]
    assert restored.numpy().tolist() == [text.encode() for text in texts]


PIECES = [b"\xff", b"\xff\xff", b"\xc3", b"\xa9 ", b"\0", b" ", b"\n\n", b"'ll",
          b"the", TEXT.encode()[:99], b"\x1e", b"\xed\xa0\x80"]  # fmt: skip


@property_test
@given(
    st.lists(
        st.binary() | st.lists(st.sampled_from(PIECES)).map(b"".join),
        min_size=1,
        max_size=4,
    )
)
def test_any_bytes_survive_a_round_trip(in_graph, texts):
    assert in_graph(tf.constant(texts))[1].numpy().tolist() == texts


def test_bytes_that_are_no_utf8_leave_the_words_around_them_whole(tokenizer):
    token_ids = tokenizer.tokenize([" caf\u00e9 caf".encode("latin-1")])
    pieces = tokenizer.detokenize(token_ids.flat_values[:, None]).numpy()
    assert pieces.tolist() == [b" caf", b"\xe9", b" caf"]


def test_a_token_may_be_a_part_of_a_character():
    tokenizer = tokenizers.build("subword", b"x")
    token_ids = tokenizer.tokenize(["\u00e9"]).flat_values
    pieces = tokenizer.detokenize(token_ids[:, None]).numpy()
    assert pieces.tolist() == [b"\xc3", b"\xa9"]


@pytest.mark.parametrize(
    ("merges", "text", "pieces"),
    [
        # The pair that was learned first, not the one that stands first.
        (["b c", "a b"], "abc", [b"a", b"bc"]),
        (["a a", "aa a", "aa aa"], "aaaaaaa", [b"aaaa", b"aaa"]),
        # "abc" arises late in a second way, and its pair goes before the next.
        (
            ["b c", "a b", "ab c", "abc a", "a bc", "x y"],
            "abcabcxy",
            [b"abca", b"bc", b"xy"],
        ),
    ],
)
def test_merges_are_applied_in_order(merges, text, pieces):
    tokenizer = tokenizers.SubwordTokenizer(merges)
    token_ids = tokenizer.tokenize([text]).flat_values
    assert tokenizer.detokenize(token_ids[:, None]).numpy().tolist() == pieces
    assert (
        token_ids.numpy().tolist() == library_twin(tokenizer).encode(text).ids
    )


def test_long_words_are_split(tokenizer, twin):
    """Up to a length as the library does; longer ones lossless and cheap."""
    text = "the" * 85 + "s"
    assert len(text) == subword.LONGEST_WORD
    assert tokenizer.tokenize([text]).to_list() == [twin.encode(text).ids]
    # As a matrix of words and bytes this would be 20 GB.
    words = [f" w{number}".encode() for number in range(5000)]
    text = b"".join(["\u00e9the".encode() * 200_000, *words])
    token_ids = tokenizer.tokenize([text])
    assert token_ids.flat_values.shape[0] < len(text)
    assert tokenizer.detokenize(token_ids).numpy() == [text]


def test_json_is_readable(tokenizer):
    values = json.loads(json.dumps(tokenizer.to_dict()))
    assert set(values) == set(tokenizers.ByteTokenizer().to_dict()) | {"merges"}
    assert "h e" in values["merges"] and "\u0120 t" in values["merges"]
    again = tokenizers.from_dict(values)
    assert (
        again == tokenizer == tokenizers.build("subword", TEXT.encode(), SIZE)
    )
    texts = [TEXT, "", "unseen"]
    assert (
        again.tokenize(texts).to_list() == tokenizer.tokenize(texts).to_list()
    )


def test_letters_only_normalizes_the_text():
    tokenizer = tokenizers.build("subword", TEXT.encode(), 300, True)
    restored = tokenizer.detokenize(tokenizer.tokenize(["We'll GO, 2!"]))
    assert restored.numpy().tolist() == [b"we ll go "]
    assert all(merge.strip("\u0120 ").isascii() for merge in tokenizer._merges)


def test_a_small_text_fills_less_of_the_vocabulary():
    assert tokenizers.build("subword", b"ab ab", 1000).vocabulary_size() == 257
    assert tokenizers.build("subword", b"", 1000).vocabulary_size() == 256
    assert tokenizers.build("subword", b"ab ab", 256).vocabulary_size() == 256


def test_bad_vocabularies_are_one_line(monkeypatch):
    with pytest.raises(
        configs.UserError, match="--vocabulary_size=255: .* 256 or more"
    ):
        tokenizers.build("subword", b"text", 255)
    for merge in ("a", "a b c", "ab c", ""):
        with pytest.raises(configs.UserError, match="joins two tokens"):
            tokenizers.SubwordTokenizer([merge])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        configs.UserError,
        match=r"tokenizers is missing: pip install --editable '\.\[subword\]'",
    ):
        tokenizers.build("subword", b"text")
    # What was learned is used without the library.
    assert tokenizers.SubwordTokenizer(["a b"]).tokenize(["ab"]).shape[0] == 1


def test_words_of_many_letters_are_learned_from_in_part(monkeypatch):
    """Such as DNA: five million letters take the library a minute."""
    monkeypatch.setattr(subword, "_MAX_LONG_WORD_CHARACTERS", 1000)
    texts = [
        TEXT,
        "ACGT" * 100 + " and " + "1" * 300,
        "\u3042" * 600,
        "_" * 900,
    ]
    learned = list(subword._split_long_words(texts))
    assert learned[0] == TEXT
    dna, ones = learned[1].split(" and ")
    assert dna.split("\n") == ["ACGT" * 8] * 12 + ["ACGT" * 4]
    assert ones.split("\n") == ["1" * 32] * 9 + ["1" * 12]
    assert learned[2].replace("\n", "") == "\u3042" * 300
    assert learned[3] == ""
