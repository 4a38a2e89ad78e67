"""Reading of corpora, splits, and windows, exact to the token."""

import collections
import gzip
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, datasets, tokenizers
from stacked_rnn.datasets import corpora, splits, token_cache
from stacked_rnn.utils import text_files
from tests.helpers.epochs import batch, batches, epoch_targets

WINDOWS = [datasets.RandomWindows, datasets.SlidingWindows, datasets.Streams]


def read(corpus, **options):
    return b"".join(datasets.Corpus(corpus, **options).pieces())


# Corpora


def test_pydoc_is_english_prose_of_some_size():
    text = read("pydoc").decode()
    assert len(text) > 400_000
    assert (
        "The following sections describe" in text or "class definition" in text
    )


def test_files_globs_gzip_and_lists_are_joined_in_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "b.txt").write_bytes("zw\u00f6lf".encode())
    with gzip.open(tmp_path / "c.gz", "wb") as file:
        file.write(b"third\n")
    assert read(f"{tmp_path}/c.gz,{tmp_path}/a.txt") == b"third\nfirst"
    assert read(f"{tmp_path}/*.txt") == "first\nzw\u00f6lf".encode()


@pytest.mark.parametrize(
    ("separator", "files", "expected"),
    [
        ("", ["anna\nzoe", "liam\n", "noah"], "anna\nzoe\nliam\nnoah"),
        ("", ["a\r\n", "b\r", "c"], "a\nb\nc"),
        ("\n", ["a", "b\n", "c"], "a\nb\nc"),
        ("\n\n", ["a", "b\n", "c\n\n", "d"], "a\n\nb\n\nc\n\nd"),
        ("\n\n", ["a\n\n\n\nb\n\n\n", "\n\nc"], "a\n\nb\n\nc"),
        ("\n", ["\na\n\n\nb\n\n"], "a\nb\n"),
        ("<end>", ["a\n", "b<end>", "c<end>\n", "d"],
         "a\n<end>b<end>c<end>\nd"),
        ("\n<end>\n", ["a", "b\n<end>", "c"], "a\n<end>\nb\n<end>\nc"),
        ("\t", ["a", "b\t", "c", "\td"], "a\tb\tc\td"),
        ("<end>", ["<end>a", "<end>b<end>", "<end>c"],
         "<end>a<end>b<end>c"),
        ("<end>", ["a", "<end>"], "a<end><end>"),
        ("---\n", ["---\n1\n---\na\n", "---\n2\n---\nb\n"],
         "---\n1\n---\na\n---\n2\n---\nb\n"),
        ("\n<end>\n", ["a", "<end>\nb", "\n<end>\nc"],
         "a\n<end>\nb\n<end>\nc"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("piece", [2, 10**6])
def test_files_are_joined_by_one_separator(
    tmp_path, monkeypatch, separator, files, expected, piece
):
    monkeypatch.setattr(text_files, "PIECE", piece)
    for number, content in enumerate(files):
        (tmp_path / f"{number}.txt").write_bytes(content.encode())
    corpus = datasets.Corpus(str(tmp_path), document_separator=separator)
    assert b"".join(corpus.pieces()).decode() == expected
    assert corpus.num_characters == len(expected)
    assert corpus.has_separator == (bool(separator))
    (tmp_path / "whole").write_bytes(expected.encode())
    whole = datasets.Corpus(f"{tmp_path}/whole", document_separator=separator)
    assert whole.digest == corpus.digest


def test_files_of_bytes_are_joined_the_same_way(tmp_path):
    for name, content in (("a", b"a\r\n\xff"), ("b", b"\0b")):
        (tmp_path / name).write_bytes(content)
    assert read(str(tmp_path), binary=True) == b"a\r\n\xff\n\0b"


def test_line_ends_become_line_feeds_but_not_in_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"anna\r\nbob\r\n" * 99)
    for kind, line in (("char", "anna\nbob\n"), ("byte", "anna\r\nbob\r\n")):
        config = configs.TrainConfig(
            corpus=f"{tmp_path}/a.txt", tokenizer=kind, sequence_length=4,
            document_separator=r"\n",
        )  # fmt: skip
        data = datasets.load_language_data(config)
        token_ids = data.training.token_ids[: len(line) + 1].tolist()
        ends = [i for i, token in enumerate(token_ids)
                if token == data.tokenizer.end_id]  # fmt: skip
        assert ends == [i for i, sign in enumerate(line) if sign == "\n"]


def test_a_directory_means_all_visible_files_below_it(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/.hidden", ".git/config", "a/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"<{name}>")
    assert read(str(tmp_path)) == b"<a/y.txt>\n<a/z.txt>\n<b.txt>"


def test_a_directory_leaves_out_what_training_there_has_written(tmp_path):
    for name in (
        "mine.txt", "yarn.lock", "runs/mine.lock", "runs/mine/config.flags",
        "runs/mine/a.txt", "runs/tune-mine/search.json",
        "runs/tune-mine/trials.csv", "runs/tune-mine/trials/oracle.json",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"<{name}>")
    assert read(str(tmp_path)) == b"<mine.txt>\n<yarn.lock>"
    (tmp_path / "search.json").write_text("<the user's own>")
    everything = b"<mine.txt>\n<the user's own>\n<yarn.lock>"
    assert read(str(tmp_path)) == everything


def test_bad_files_are_skipped_on_demand(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"bad\xff")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"text" * 99)[:-12])
    (tmp_path / "d.txt").write_bytes(b"")
    (tmp_path / "e.txt").write_bytes(b" too")
    with pytest.raises(configs.UserError, match=r"b\.txt is not UTF-8"):
        read(str(tmp_path))
    text = read(str(tmp_path), skip_bad_files=True)
    assert text == b"good\n too"
    warnings = capsys.readouterr().err.splitlines()
    for warning, name in zip(warnings, ("b.txt", "c.gz", "d.txt"), strict=True):
        assert warning.startswith("warning: skipped: ") and name in warning
    for name in ("a.txt", "e.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(configs.UserError, match="none of its files"):
        read(str(tmp_path), skip_bad_files=True)


def test_an_existing_path_with_glob_characters_is_read(tmp_path):
    (tmp_path / "notes [1].txt").write_bytes(b"here")
    assert read(f"{tmp_path}/notes [1].txt") == b"here"


def test_standard_input_is_a_corpus(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"piped"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert read("-") == b"piped"


def test_a_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
    assert read(f"{tmp_path}/a.txt") == b"a\n"
    assert read(f"{tmp_path}/a.txt", binary=True) == (b"\xef\xbb\xbfa\r\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc\xff", r"is not UTF-8 text \(byte 3, line 1\).*--tokenizer=byte"),
        (
            b"ELF\0",
            r"is a binary file \(zero byte at 3, line 1\).*--skip_bad_f",
        ),
    ],
)
def test_files_that_are_not_text_are_named(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(configs.UserError, match=f"bad.txt {message}"):
        read(str(path))


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(configs.UserError, match=r"nowhere\.txt.*pydoc"):
        read("nowhere.txt")
    with pytest.raises(configs.UserError, match="no files in this directory"):
        read(str(tmp_path))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"some text" * 100)[:-12])
    with pytest.raises(configs.UserError, match=r"cut\.gz"):
        read(str(cut))


def test_a_download_is_kept_in_the_keras_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    cached = tmp_path / "datasets" / "timemachine.txt"
    cached.parent.mkdir()
    cached.write_bytes(b"put here by hand")
    assert read("timemachine") == b"put here by hand"
    assert "timemachine.txt differs from" in capsys.readouterr().err


def serve_download(monkeypatch, content):
    def get_file(name, origin, cache_dir):
        if content is None:
            raise Exception(f"URL fetch failure on {origin}")
        path = f"{cache_dir}/datasets/{name}"
        tf.io.gfile.makedirs(f"{cache_dir}/datasets")
        assert not tf.io.gfile.exists(path)
        with open(path, "wb") as file:
            file.write(content[:2])
            # What another process would find now.
            assert not tf.io.gfile.glob(f"{cache_dir}/datasets/*.txt")
            file.write(content[2:])
        return path

    monkeypatch.setattr("keras.utils.get_file", get_file)


def test_offline_the_error_names_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    serve_download(monkeypatch, None)
    place = str(tmp_path / "datasets" / "shakespeare.txt")
    with pytest.raises(
        configs.UserError, match=f"by hand and put it at {place}"
    ):
        read("shakespeare")


def test_a_download_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    serve_download(monkeypatch, b"a captive portal")
    with pytest.raises(configs.UserError, match="has changed"):
        read("shakespeare")
    assert not [*(tmp_path / "datasets").iterdir()]


def test_a_good_download_passes_its_hash(tmp_path, monkeypatch, shared_text):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    text = shared_text("tinyshakespeare.txt")
    serve_download(monkeypatch, text)
    assert read("shakespeare") == text
    (kept,) = (tmp_path / "datasets").iterdir()
    assert kept.name == "shakespeare.txt"


# Splits


def write_corpus(tmp_path, text):
    path = tmp_path / "corpus.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_vocabulary_comes_from_the_training_part(tmp_path):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "abc" * 30 + "x" * 10),
        sequence_length=4, batch_size=2, validation_fraction=0.1,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    assert data.tokenizer.to_dict()["vocabulary"] == "\ufffdabc"
    assert set(data.validation.token_ids) == {0}


def test_the_share_of_unknown_tokens_is_counted(tmp_path):
    path = write_corpus(
        tmp_path, "a b c d e f g h i x " * 9 + "a y z x a b c d"
    )
    for kind, size, share in (
        ("char", 0, 2 / 20), ("word", 0, 2 / 10), ("word", 5, 0.6),
        ("subword", 0, 0),
    ):  # fmt: skip
        config = configs.TrainConfig(
            corpus=path, tokenizer=kind, sequence_length=5
        )
        data = datasets.load_language_data(config, size)
        assert 0.8 * share <= data.unknown_share <= 1.2 * share


@pytest.mark.parametrize(
    ("separator", "is_there"),
    [
        ("", True),
        (r"\n", True),
        ("x", True),
        ("<end>", False),
        ("\r", True),
        (r"\r\n", True),
        (r"\\r", False),
        (r"\\\r\n", False),
    ],
)
def test_a_missing_separator_is_noticed(tmp_path, separator, is_there):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "axb\r\n" * 50),
        document_separator=separator, sequence_length=5,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    assert data.has_separator == is_there
    if not is_there or not separator:
        assert data.tokenizer.end_id not in data.training.token_ids
    else:
        assert data.tokenizer.end_id in data.training.token_ids


def test_carriage_returns_are_kept_for_a_vocabulary_that_has_them(tmp_path):
    """Vocabularies of earlier versions, which kept all line ends."""
    path = write_corpus(tmp_path, "ab\r\n" * 50)
    for kind in ("char", "word"):
        old = tokenizers.build(kind, b"ab\r\n" * 50)
        new = tokenizers.build(kind, b"ab\n" * 50)
        assert datasets.read_text(path, old) == b"ab\r\n" * 50
        assert datasets.read_text(path, new) == b"ab\n" * 50
        config = configs.TrainConfig(
            corpus=path, tokenizer=kind, sequence_length=3
        )
        data = datasets.load_language_data(config, tokenizer=old)
        assert data.unknown_share == 0 and not data.unknown_parts
        assert data.training.characters == 180


def test_a_word_vocabulary_has_the_size_asked_for(tmp_path):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "one two three four five six\n" * 20),
        tokenizer="word",
        sequence_length=4,
        batch_size=2,
    )
    data = datasets.load_language_data(config, vocabulary_size=5)
    assert data.tokenizer.vocabulary_size() == 5
    assert set(epoch_targets(data.training)) == {0, 1, 2, 3, 4}
    assert data.training.characters_per_token == pytest.approx(4, abs=0.1)


def test_subwords_shorten_a_text(tmp_path):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "one two three four five six\n" * 20),
        tokenizer="subword",
        sequence_length=4,
        batch_size=2,
    )
    data = datasets.load_language_data(config, vocabulary_size=275)
    assert data.tokenizer.vocabulary_size() == 275
    assert data.training.characters_per_token == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("carry_state", [False, True])
def test_no_window_straddles_the_split(tmp_path, carry_state):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "a" * 90 + "b" * 10),
        sequence_length=4, batch_size=2, carry_state=carry_state,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    assert set(epoch_targets(data.training)) == {1}  # a
    assert set(epoch_targets(data.validation)) == {0}  # b is unknown
    assert data.training.carries_state == carry_state


def test_the_split_of_a_book_keeps_its_proportions(tmp_path):
    """D2L: windows of 4 at every position, 10 to train, the next 5."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, alphabet), sequence_length=4,
        batch_size=4, train_windows=10, validation_windows=5,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    for windows, first, count in (
        (data.training, 1, 10),
        (data.validation, 11, 5),
    ):
        starts = sorted(
            int(row[0]) for inputs, targets in batches(windows)
            for row, target in zip(inputs, targets) if target[0] >= 0
        )  # fmt: skip
        assert starts == [*range(first, first + count)]


@pytest.mark.parametrize("kind", ["byte", "word"])
def test_windows_of_a_book_know_their_characters(kind, tmp_path):
    config = configs.TrainConfig(
        corpus=write_corpus(tmp_path, "\u00e9 " * 50 + "ab cd " * 100),
        tokenizer=kind, sequence_length=4, batch_size=2,
        train_windows=20, validation_windows=100,
    )  # fmt: skip
    data = datasets.load_language_data(config)
    for windows in (data.training, data.validation):
        text = data.tokenizer.detokenize(
            tf.RaggedTensor.from_tensor([windows.token_ids])
        )
        text = text[0].numpy().decode("utf-8", "replace")
        assert windows.characters == len(text)
    ratios = [
        windows.characters_per_token
        for windows in (data.training, data.validation)
    ]
    assert ratios[0] != ratios[1]


def load(tmp_path, text, **changes):
    return datasets.load_language_data(
        configs.TrainConfig(corpus=write_corpus(tmp_path, text), **changes)
    )


@pytest.mark.parametrize("length", [60, 300, 900, 2000])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokenizer": "word"},
        {"tokenizer": "byte"},
        {"carry_state": True},
        {"train_windows": 20, "validation_windows": 10},
    ],
)
def test_short_texts_train_with_the_defaults(tmp_path, length, changes):
    text = ("We saw a cat, and it ran; how it ran! " * 60)[:length]
    data = load(tmp_path, text, **changes)
    training, validation = data.training, data.validation
    assert training.sequence_length == min(
        100, training.num_tokens - changes.get("train_windows", 1)
    )
    assert len(epoch_targets(training)) >= min(100, training.num_tokens - 1)
    if not changes.get("train_windows"):
        held_out = text[int(0.9 * length) :]
        token_cache = data.tokenizer.tokenize([held_out]).flat_values.numpy()
        # Whatever the length of a window.
        assert epoch_targets(validation) == token_cache[1:].tolist()
        assert validation.characters == len(held_out)


def test_a_short_text_reduces_settings_with_one_line(tmp_path):
    for text, changes, notes in (
        ("a" * 60, {}, ["windows of 53 token(s) (not 100), 6 tokens held out, "
                        "too few to rely on"]),
        ("a" * 900, {}, ["90 tokens held out, too few to rely on"]),
        ("a" * 1001, {}, []),
        ("a" * 1001, {"carry_state": True}, ["8 stream(s) (not 32)"]),
        ("a" * 5000, {"carry_state": True}, []),
        ("a" * 450, {"sequence_length": 500, "validation_fraction": 0.0},
         ["windows of 449 token(s) (not 500)"]),
    ):  # fmt: skip
        assert load(tmp_path, text, **changes).notes == [
            f"warning: the text is short: {note}" for note in notes
        ]


def test_texts_too_short_are_refused_with_a_way_out(tmp_path):
    for text, changes, message in (
        ("a", {}, r"has 1 --tokenizer=char token\(s\) .*, and 2 are needed"),
        ("abc.", {"tokenizer": "word"}, "1 --.* or --validation_fraction=0$"),
        ("\u043f" * 500, {"letters_only": True}, "--letters_only leaves next"),
        ("a" * 9, {"early_stopping": 1},
         "--early_stopping=1: .*of 9 tokens, 1 are held out, and 2 are needed"),
        ("a" * 20, {"train_windows": 15, "validation_windows": 5},
         "need 21 tokens or more, but the text has 20"),
    ):  # fmt: skip
        with pytest.raises(configs.UserError, match=message):
            load(tmp_path, text, **changes)


def test_a_missing_validation_part_is_reported(tmp_path, capsys):
    for text, changes, message in (
        ("aa", {}, "of 2 tokens, 0 are held out, and 2 are needed"),
        ("a" * 9, {}, "of 9 tokens, 1 are held out, and 2 are needed"),
        ("a" * 9, {"validation_fraction": 0.0}, ""),
        ("aa|" * 9, {"document_separator": "|"}, "documents are equal"),
    ):  # fmt: skip
        assert load(tmp_path, text, **changes).validation is None
        warnings = capsys.readouterr().err
        assert bool(message) == warnings.startswith("warning: no validation: ")
        assert message in warnings


# Documents


def sorted_names(count=500):
    """A list as of first names, each letter of the alphabet as frequent."""
    rng = np.random.default_rng(0)
    names = {
        chr(97 + n % 26) + "".join(rng.choice([*"aeilnorst"], 5))
        for n in range(count)
    }
    return sorted(names)


def documents_of(windows, tokenizer):
    """Decodes a stream of tokens into lines."""
    token_ids = np.asarray(windows.token_ids[:])
    ends = np.flatnonzero(token_ids == tokenizer.end_id)
    rows = np.split(token_ids, ends + 1)
    lines = tokenizer.detokenize(tf.ragged.constant(rows, dtype=tf.int32))
    return [line.decode() for line in lines.numpy() if line]


@pytest.mark.parametrize("carry_state", [False, True])
def test_validation_documents_come_from_the_whole_corpus(tmp_path, carry_state):
    names = sorted_names()
    text = "".join(f"{name}\n" for name in [*names, *names[:50]])
    options = {"document_separator": r"\n", "carry_state": carry_state}
    data = load(tmp_path, text, **options)
    training, validation = (
        documents_of(windows, data.tokenizer)
        for windows in (data.training, data.validation)
    )
    assert not set(training) & set(validation)
    assert sorted(training + validation) == sorted([*names, *names[:50]])
    assert training == sorted(training[:-45]) + training[-45:]  # their order
    assert len({name[0] for name in validation}) > 13
    characters = sum(len(name) + 1 for name in validation)
    assert data.validation.characters == characters
    assert characters == pytest.approx(0.1 * len(text), rel=0.05)
    assert data.notes[0] == (
        f"note: {len(validation)} of {len(names) + 50} documents are "
        f"held out for validation, {characters / len(text):.1%} of the text; "
        "--seed chooses them"
    )
    again = load(tmp_path, text, **options)
    assert documents_of(again.validation, again.tokenizer) == validation
    other = load(tmp_path, text, seed=1, **options)
    other = set(documents_of(other.validation, other.tokenizer))
    assert len(other & set(validation)) < 20


def test_validation_documents_depend_on_text_and_seed(tmp_path):
    """A resumed run computes the same split from the text again."""
    names = sorted_names(200)
    hashes = tf.strings.to_hash_bucket_strong(names, 2**16, [5, 0]).numpy()
    assert hashes[:3].tolist() == [49895, 16574, 56860]
    left, expected = 0.1 * sum(len(name) + 1 for name in names), []
    for name in [names[i] for i in np.argsort(hashes)[:-1]]:
        if len(name) + 1 <= 2 * left:
            expected.append(name)
            left -= len(name) + 1

    def held_out(text):
        corpus = datasets.Corpus(
            write_corpus(tmp_path, text), document_separator="\n"
        )
        part = datasets.split(corpus, 0.1, 5)["validation"]
        text = b"".join(corpus.pieces(part)).decode()
        assert len(text) == part.num_characters
        assert len(text.split()) == part.num_documents
        return text.split()

    assert held_out("\n".join(names)) == sorted(expected)
    for changed in (
        [*names, "new"], names[1:], [f" {name}\t" for name in names]
    ):  # fmt: skip
        found = held_out("\n".join(changed) + "\n")
        assert len(set(found) ^ set(expected)) < 4


@pytest.mark.parametrize(
    ("documents", "fraction", "num_held_out"),
    [
        (["abc"], 0.1, 0),  # the end
        (["abc", " "], 0.1, 0),
        (["abc", "def"], 0.1, 0),
        (["abc", "def", "ghi"], 0.1, 0),
        (["abc", "def", "ghi", "jkl"], 0.1, 1),
        (["abc", "def", "ghi", "jkl"], 0.01, 1),
        (["abc", "def", "ghi", "jkl"], 0.99, 3),
        (["abc", "def", "ghi" * 9], 0.1, 1),
        (["abc"] * 9, 0.1, None),  # nothing
        (["abc"] * 9 + ["abd"], 0.1, 1),
        (["abc"] * 9 + ["", " ", "\t"], 0.1, None),
        ([f"{n}" for n in range(100, 120)], 0.1, 2),
    ],
)
def test_few_documents_are_split_or_refused(
    tmp_path, documents, fraction, num_held_out
):
    text = "|".join(documents)
    corpus = datasets.Corpus(
        write_corpus(tmp_path, text), document_separator="|"
    )
    for seed in range(5):
        parts = datasets.split(corpus, fraction, seed)
        if num_held_out is None:
            assert "validation" not in parts
        else:
            assert parts["validation"].num_documents == num_held_out
        texts = {
            name: b"".join(corpus.pieces(part)).decode()
            for name, part in parts.items()
        }
        assert all(texts.values())
        if not num_held_out:
            assert "".join(texts.values()) == text
        else:
            assert sorted("".join(texts.values())) == sorted(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna\nBert\n" * 40, True),
        ("Anna\nBert\n" * 40 + "Clara", True),
        ("Anna\nBert\n" * 20, False),  # few
        ("Anna\n\nBert\n" * 40, False),
        ("Anna\r\n\r\nBert\r\n" * 40, False),
        ("Anna\nBert\n" * 40 + "x" * 61, False),
        ("This is a line of some verse\n" * 40, False),
    ],
)
@pytest.mark.parametrize("piece", [7, 10**6])
def test_a_list_is_recognized(text, expected, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE", piece)
    path = write_corpus(tmp_path, text)
    corpus = datasets.Corpus(path)
    assert corpus.is_list == datasets.Corpus(path, binary=True).is_list
    assert corpus.is_list == expected
    if expected:
        lines = corpus.as_lines()
        assert b"".join(lines.pieces()) == b"".join(corpus.pieces())


def test_a_name_per_file_is_a_list(tmp_path):
    for number in range(60):
        (tmp_path / f"{number:02}").write_text(f"name {number}")
    (tmp_path / "07").write_bytes(b"\xff\n\n")
    assert datasets.Corpus(str(tmp_path), skip_bad_files=True).is_list


def lines(count, seed=0):
    """A running text, each line of which is unlike all others."""
    rng = np.random.default_rng(seed)
    return "".join(
        f"{number} {'x' * rng.integers(5, 60)}\n" for number in range(count)
    )


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("end", ["\n", " "])
def test_blocks_from_all_over_the_text_are_held_out(tmp_path, fraction, end):
    text = lines(8000).replace("\n", end)
    corpus = datasets.Corpus(write_corpus(tmp_path, text))
    parts = datasets.split(corpus, fraction, 0)
    names = [f"validation-{index}" for index in range(len(parts) - 1)]
    assert [*parts] == ["training", *names] and 2 <= len(names) <= 20
    texts = {
        name: b"".join(corpus.pieces(part)).decode()
        for name, part in parts.items()
    }
    held_out = [texts[name] for name in names]
    share = sum(map(len, held_out)) / len(text)
    assert share == pytest.approx(fraction, rel=0.15)
    assert all(len(block) > 1000 - splits._NEAR for block in held_out)
    assert all(block.endswith(end) for block in held_out)
    # In order, evenly spread; with the training text, the whole text.
    starts = [text.index(block) for block in held_out]
    assert np.ptp(np.diff(starts)) < 1000
    left = text
    for block in held_out:
        before, left = left.split(block, 1)
        assert texts["training"].startswith(before)
        texts["training"] = texts["training"][len(before) :]
    assert texts["training"] == left


def test_the_end_is_held_out_if_asked_for_or_if_the_text_is_short(tmp_path):
    text = lines(2000)
    corpus = datasets.Corpus(write_corpus(tmp_path, text))
    parts = datasets.split(corpus, 0.1, 0, "end")
    found = b"".join(corpus.pieces(parts["validation"])).decode()
    assert found == text[int(len(text) * 0.9) :]
    corpus = datasets.Corpus(write_corpus(tmp_path, text[:19_000]))
    assert [*datasets.split(corpus, 0.1, 0)] == ["training", "validation"]


def test_blocks_are_not_longer_than_100_000_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "_BLOCK_LENGTHS", (100, 500))
    corpus = datasets.Corpus(write_corpus(tmp_path, lines(3000)))
    for part in [*datasets.split(corpus, 0.5, 0).values()][1:]:
        assert part.num_characters <= 500 + splits._NEAR


def test_a_line_end_is_found_across_the_pieces_of_a_file(tmp_path, monkeypatch):
    text = lines(3000)
    path = write_corpus(tmp_path, text)
    expected = datasets.split(datasets.Corpus(path), 0.1, 0)
    monkeypatch.setattr(text_files, "PIECE", 3000)
    found = datasets.split(datasets.Corpus(path), 0.1, 0)
    assert [*found] == [*expected]
    assert found["training"].num_characters == pytest.approx(
        expected["training"].num_characters, rel=0.01
    )


def test_blocks_are_scored_side_by_side_from_a_warm_state():
    """Row i reads block i alone; its first tokens are inputs only."""
    lengths = (90, 103, 81)
    ends = np.cumsum(lengths)
    blocks = np.split(np.arange(ends[-1]), ends[:-1])
    windows = datasets.Blocks.of(blocks, 20, 300)
    assert windows.num_first == 10 and windows.carries_state
    read, scored = ([[] for _ in lengths] for _ in range(2))
    for inputs, targets in batches(windows):
        for row in range(3):
            counts = targets[row] >= 0
            assert np.array_equal(targets[row][counts], inputs[row][counts] + 1)
            read[row] += inputs[row].tolist()
            scored[row] += targets[row][counts].tolist()
    for row, block in enumerate(blocks):
        assert read[row][: len(block)] == block.tolist()
        assert scored[row] == block[10:].tolist()


def test_a_corpus_is_validated_on_its_blocks(tmp_path):
    text = lines(2000)
    data = load(tmp_path, text, validation_fraction=0.1)
    assert data.held_out == "blocks"
    assert data.training.num_tokens + data.validation.num_tokens == len(text)
    data = load(tmp_path, text, validation_fraction=0.1, validation="end")
    assert data.held_out == "the end"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("a word " * 9000 + "0123456789 " * 9000, {"letters_only": True}),
        ("x" * 99_000 + " y" * 9000, {"tokenizer": "word"}),
    ],
)
def test_blocks_of_hardly_any_tokens_are_one_stream(tmp_path, text, changes):
    data = load(tmp_path, text, **changes)
    assert data.held_out == "blocks"
    for step in range(data.validation.steps_per_epoch):
        _, targets = batch(data.validation, step)
        assert np.any(targets.numpy() >= 0)


def test_the_vocabulary_comes_from_the_training_documents(tmp_path):
    text = "".join(f"{chr(0x4E00 + n)}\n" for n in range(200))
    data = load(tmp_path, text, document_separator=r"\n")
    validation = np.asarray(data.validation.token_ids)
    assert set(validation.tolist()) == {0, data.tokenizer.end_id}
    assert 0 not in np.asarray(data.training.token_ids)


# Windows


@pytest.mark.parametrize("kind", WINDOWS)
def test_targets_are_the_inputs_one_token_on(kind):
    windows = kind(tf.range(103), 10, 4)
    for epoch in range(3):
        for inputs, targets in batches(windows, epoch):
            assert inputs.shape == targets.shape == (4, 10)
            counts = targets >= 0
            assert np.array_equal(targets[counts], inputs[counts] + 1)
            for row in inputs[counts.all(axis=1)]:
                assert np.array_equal(row, np.arange(row[0], row[0] + 10))


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("num_tokens", [11, 12, 20, 21, 22, 103])
@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_texts_of_any_length_make_windows(kind, num_tokens, batch_size):
    windows = kind(tf.range(num_tokens), 10, batch_size)
    for epoch in range(3):
        seen = epoch_targets(windows, epoch)
        assert seen and 1 <= min(seen) and max(seen) < num_tokens


def test_random_windows_tile_the_text_from_a_new_offset_per_epoch():
    windows = datasets.RandomWindows(tf.range(1003), 10, 4, seed=5)
    offsets, orders = set(), set()
    for epoch in range(6):
        targets = epoch_targets(windows, epoch)
        first = min(targets)
        assert sorted(targets) == [
            *range(first, first + 10 * windows.num_windows)
        ]
        offsets.add(first)
        orders.add(tuple(targets[::10]))
    assert len(offsets) > 2 and max(offsets) <= 10
    assert len(orders) == 6


def test_sliding_windows_are_all_windows():
    windows = datasets.SlidingWindows(tf.range(30), 4, 8)
    count = collections.Counter(epoch_targets(windows))
    assert sum(count.values()) == 26 * 4
    assert count[1] == count[29] == 1 and count[10] == 4


def test_streams_rebuild_the_corpus():
    token_cache = np.random.default_rng(0).permutation(103).astype("int32")
    windows = datasets.Streams(tf.constant(token_cache), 10, 4)
    rows = [[] for _ in range(4)]
    for _, targets in batches(windows):
        for row, target in zip(rows, targets):
            row.extend(target[target >= 0])
    assert list(itertools.chain(*rows)) == token_cache[1:].tolist()


def test_later_epochs_begin_at_an_offset_of_less_than_a_window():
    windows = datasets.Streams(tf.range(1003), 10, 4, seed=3)
    firsts = [min(epoch_targets(windows, epoch)) for epoch in range(8)]
    assert firsts[0] == 1 and len({*firsts}) > 4 and max(firsts) <= 10
    for epoch, first in enumerate(firsts):
        targets = sorted(epoch_targets(windows, epoch))
        assert targets == [*range(first, 1003)]


@pytest.mark.parametrize("num_tokens", [6, 7, 8, 10, 11, 13, 21])
def test_no_batch_of_streams_is_empty_in_any_epoch(num_tokens):
    for batch_size in (1, 2, 4):
        windows = datasets.Streams(tf.range(num_tokens), 5, batch_size)
        for step in range(20 * windows.steps_per_epoch):
            _, targets = windows.batch(step, tf.constant(windows.page(step)))
            assert np.any(targets >= 0), (batch_size, step)


def test_row_i_of_a_batch_of_streams_continues_row_i_of_the_one_before():
    windows = datasets.Streams(tf.range(103), 5, 4)
    for step in range(windows.steps_per_epoch - 1):
        before, _ = batch(windows, step)
        after, targets = batch(windows, step + 1)
        goes_on = targets[:, 0] >= 0
        assert np.any(goes_on)
        assert np.array_equal(after[goes_on][:, 0], before[goes_on][:, -1] + 1)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_dataset_is_the_batches_from_any_step_on(kind):
    windows = kind(tf.range(103), 10, 4, seed=1)
    for first_step in (0, 5):
        for step, (inputs, targets) in enumerate(
            windows.dataset(first_step).take(6), first_step
        ):
            expected = batch(windows, step)
            assert np.array_equal(inputs, expected[0])
            assert np.array_equal(targets, expected[1])


def test_chosen_rows_of_a_batch_can_be_read():
    windows = datasets.RandomWindows(tf.range(203), 5, 8)
    whole = batch(windows, 3)
    for rows in ([0, 1], [6, 7], [5]):
        part = batch(windows, 3, tf.constant(rows, tf.int64))
        assert np.array_equal(part[0], whole[0].numpy()[rows])
        assert np.array_equal(part[1], whole[1].numpy()[rows])


def test_the_seed_decides_the_order():
    def order(seed):
        return epoch_targets(
            datasets.RandomWindows(tf.range(1003), 10, 4, seed)
        )

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("kind", WINDOWS)
def test_empty_rows_of_a_batch_have_no_targets(kind):
    """The last device may get fewer rows of a batch."""
    windows = kind(tf.range(100), 5, 3)
    inputs, targets = batch(windows, 1, tf.range(5, dtype=tf.int64))
    assert np.all(targets[3:] == -1)
    for got, expected in zip((inputs, targets), batch(windows, 1)):
        assert np.array_equal(got[:3], expected)


@pytest.mark.parametrize("piece", [1, 7, 10**6])
def test_many_texts_are_tokenized_in_chunks(piece, monkeypatch):
    texts = [b"ab", b"", b"a longer one", b"c", b""]
    tokenizer = tokenizers.build("char", b"\n".join(texts))
    monkeypatch.setattr(corpora, "PIECE", piece)
    cut = token_cache.tokenize_texts(tokenizer, texts)
    whole = tokenizer.tokenize(tf.constant(texts)).to_list()
    assert [ids.tolist() for ids in cut] == whole


# Half windows


def make_halved(kind, half_windows=0.2, num_tokens=303, length=9):
    return kind(
        tf.range(num_tokens), length, 4, seed=3, half_windows=half_windows
    )


@pytest.mark.parametrize("kind", WINDOWS)
def test_half_windows_read_the_same_tokens(kind):
    for epoch in (0, 1):
        expected, *halved = (
            sorted(epoch_targets(make_halved(kind, share), epoch))
            for share in (0.0, 0.4, 1.0)
        )
        assert halved == [expected] * 2


def test_the_streams_of_half_windows_go_on_in_order():
    windows = make_halved(datasets.Streams, num_tokens=503)
    streams, inputs, lengths = [[] for _ in range(4)], [], set()
    for tokens, targets in batches(windows):
        lengths.add(targets.shape[1])
        inputs.extend(tokens[0])
        for stream, target in zip(streams, targets):
            stream.extend(target[target >= 0])
    assert lengths == {9, 5, 4}
    assert [*itertools.chain(*streams)] == [*range(1, 503)]
    assert inputs == [*range(len(inputs))]


@pytest.mark.parametrize("kind", [datasets.RandomWindows, datasets.Streams])
def test_one_step_in_so_many_has_half_windows(kind, monkeypatch):
    monkeypatch.setattr(datasets.windows, "PAGE", 500)

    def lengths(epoch):
        windows = make_halved(kind, num_tokens=10_003)
        first = epoch * windows.steps_per_epoch
        last = first + windows.steps_per_epoch
        return [windows.length_of(step) for step in range(first, last)]

    plan = lengths(1)
    assert plan == lengths(1) != lengths(2)
    halves = [length for length in plan if length < 9]
    assert halves == [5, 4] * (len(plan) // 10)
    # One batch in nine, anywhere among them, and then its other halves.
    first = [step for step, length in enumerate(plan) if length == 5]
    assert [step // 10 for step in first] == [*range(len(first))]
    places = {step % 10 for step in first}
    assert len(places) > 5 and places <= {*range(9)}
    assert [plan[step + 1] for step in first] == [4] * len(first)


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("num_tokens", [10, 45, 74])
def test_each_step_of_half_windows_has_something_to_predict(kind, num_tokens):
    windows = make_halved(kind, 1.0, num_tokens)
    for _, targets in batches(windows):
        assert np.any(targets >= 0)
    assert make_halved(kind, 1.0, num_tokens, length=1).length_of(0) is None
