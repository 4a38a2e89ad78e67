"""Corpora larger than memory: pieces of text, token files, pages."""

import concurrent.futures
import gzip
import re
import subprocess
import sys

import numpy as np
import pytest

from stacked_rnn import configs, datasets, tokenizers
from stacked_rnn.datasets import corpora, splits, token_cache, windows
from stacked_rnn.utils import text_files
from tests.helpers.epochs import batch, batches, epoch_targets

WORDS = ["the", "Time", "traveller", "smiled", "round", "at", "us.", "It", "is"]
KINDS = ("byte", "char", "word", "subword")


@pytest.fixture
def small_pieces(monkeypatch):
    """Lowers the size from which a corpus counts as large."""
    monkeypatch.setattr(corpora, "PIECE", 2000)
    monkeypatch.setattr(text_files, "PIECE", 2000)
    monkeypatch.setattr(token_cache, "LARGE", 10_000)


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(windows, "PAGE", 640)


@pytest.fixture
def book(tmp_path):
    """A file of 30,000 characters, some of which take several bytes."""
    rng = np.random.default_rng(0)
    words = rng.choice(
        [*WORDS, "z\u00e4h", "\u4e2d\u6587", "\n\n ", "--"], 9000
    )
    path = tmp_path / "book.txt"
    path.write_text(" ".join(words)[:30_000], encoding="utf-8")
    return path


def load(path, cache_dir, trained=None, **changes):
    settings = {
        "corpus": str(path), "cache_dir": str(cache_dir), "batch_size": 4,
        "sequence_length": 10, "validation": "end",
    }  # fmt: skip
    config = configs.TrainConfig(**settings | changes)
    size = {"word": 50, "subword": 300}.get(config.tokenizer, 0)
    return datasets.load_language_data(config, size, trained)


# Pieces of text


def test_pieces_add_up_to_the_text_and_end_between_words(book, small_pieces):
    corpus = datasets.Corpus(str(book))
    pieces = [piece.decode() for piece in corpus.pieces()]
    assert len(pieces) > 10 and "".join(pieces) == book.read_text()
    assert all(re.search("[A-Za-z]$", piece) for piece in pieces[:-1])
    assert all(re.match(r"[ \n]\w", piece) for piece in pieces[1:])


@pytest.mark.parametrize("cut", [0, 1, 1999, 2000, 2001, 12_345, 30_000])
def test_pieces_of_a_part_are_counted_in_characters(book, small_pieces, cut):
    text = book.read_text(encoding="utf-8")
    corpus = datasets.Corpus(str(book))
    assert corpus.num_characters == 30_000
    for first, last in ((0, cut), (cut, 30_000)):
        part = splits.Spans(((first, last),))
        assert b"".join(corpus.pieces(part)).decode() == text[first:last]


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_any_script_stay_whole(kind, tmp_path, small_pieces):
    text = "\u043c\u0438\u0440 \u03bb\u03cc\u03b3\u03bf\u03c2 42\n" * 500
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    pieces = [*datasets.Corpus(str(path)).pieces()]
    assert len(pieces) > 3
    tokenizer = tokenizers.build(kind, text.encode())
    cut = tokenizer.tokenize(pieces).flat_values.numpy()
    whole = tokenizer.tokenize([text.encode()]).flat_values.numpy()
    assert np.array_equal(cut, whole)


def test_a_text_without_spaces_is_cut_anywhere(tmp_path, small_pieces):
    path = tmp_path / "a.txt"
    path.write_text("\u4e2d" * 5000, encoding="utf-8")
    pieces = [*datasets.Corpus(str(path)).pieces()]
    assert [len(piece.decode()) for piece in pieces] == [2000, 2000, 1000]


def test_any_bytes_can_be_read_as_bytes(tmp_path, small_pieces):
    content = np.random.default_rng(0).bytes(7001)
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    corpus = datasets.Corpus(str(path), binary=True)
    assert b"".join(corpus.pieces()) == content
    cut = corpus.num_characters // 3
    parts = [
        *corpus.pieces(splits.Spans(((0, cut),))),
        *corpus.pieces(splits.Spans(((cut, corpus.num_characters),))),
    ]
    assert b"".join(parts) == content


@pytest.mark.parametrize("position", [1999, 2000, 2001, 6500])
def test_errors_far_into_a_file_are_found(tmp_path, small_pieces, position):
    path = tmp_path / "bad.txt"
    for bad, message in (
        (b"\xff", f"not UTF-8 text .byte {position}"),
        (b"\0", f"zero byte at {position}"),
    ):
        content = bytearray("\u00e4".encode() * 3500)[: position // 2 * 2]
        content += b"." * (position % 2) + bad + b"the end"
        path.write_bytes(content)
        with pytest.raises(configs.UserError, match=message):
            datasets.Corpus(str(path))
    path.write_bytes(b"a" * position + "\u00e4".encode()[:1])
    with pytest.raises(configs.UserError, match=f"byte {position}"):
        datasets.Corpus(str(path))


def test_a_damaged_gzip_file_is_named(tmp_path):
    content = bytearray(gzip.compress(np.random.default_rng(0).bytes(5000)))
    content[2000:2100] = bytes(100)
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(configs.UserError, match=r"cannot read .*damaged\.gz"):
        datasets.Corpus(str(path), binary=True)


def test_the_digest_is_of_the_text(tmp_path):
    for name, content in (("a", b"one\ntwo"), ("b", b"one\n"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)

    def digest(names):
        paths = ",".join(str(tmp_path / name) for name in names)
        return datasets.Corpus(paths).digest

    assert digest("a") == digest("bc") != digest("cb")


@pytest.mark.parametrize("lead", range(12))
@pytest.mark.parametrize("read_at_once", [7, 2000])
def test_pieces_never_cut_a_separator(
    tmp_path, small_pieces, monkeypatch, lead, read_at_once
):
    """Even a separator with a space within."""
    monkeypatch.setattr(text_files, "PIECE", read_at_once)
    path = tmp_path / "a.txt"
    text = "x" * lead + "END OF DOC".join(f"{n} word" for n in range(999))
    path.write_text(text)
    corpus = datasets.Corpus(str(path), document_separator="END OF DOC")
    pieces = [piece.decode() for piece in corpus.pieces()]
    assert "".join(pieces) == text and len(pieces) > 5
    documents = [d for piece in pieces for d in piece.split("END OF DOC")]
    assert not [d for d in documents if "END" in d or "DOC" in d]


@pytest.mark.parametrize("separator", ["\n", "<|end|>", "END OF DOC"])
def test_the_split_does_not_depend_on_the_size_of_pieces(
    tmp_path, monkeypatch, small_pieces, separator
):
    """Even for documents about as long as a piece, or longer."""
    rng = np.random.default_rng(0)
    documents = [
        "".join(rng.choice([*"abc <|END"], length))
        for length in (*range(1990, 2011), *[7] * 400, 5000, 4000, 1, 30_000)
    ]
    path = tmp_path / "a.txt"
    path.write_text(separator.join([*documents, documents[0]]))
    found = []
    for piece in (100, 777, 10**6):
        monkeypatch.setattr(text_files, "PIECE", piece)
        corpus = datasets.Corpus(str(path), document_separator=separator)
        parts = datasets.split(corpus, 0.3, 7)
        texts = []
        for part in parts.values():
            pieces = [*corpus.pieces(part)]
            assert max(map(len, pieces)) <= 2000 < len(b"".join(pieces))
            texts.append(b"".join(pieces).decode())
            assert len(texts[-1]) == part.num_characters
        counts = [part.num_documents for part in parts.values()]
        assert sum(counts) == len(documents) + 1
        found.append(texts)
    assert found[0] == found[1] == found[2]
    training, validation = (text.split(separator) for text in found[0])
    assert sorted([*training, *validation, *[""]]) == sorted(
        [*documents, documents[0], "", ""]
    )
    assert not set(training) & set(validation) - {""}


# Token files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("separator", ["", "us. "])
@pytest.mark.parametrize("letters_only", [False, True])
def test_a_large_corpus_has_the_tokens_of_the_whole_text(
    book, tmp_path, monkeypatch, small_pieces, kind, separator, letters_only
):
    """Whether cut by several threads, into files, or whole in memory."""
    settings = {
        "tokenizer": kind, "document_separator": separator,
        "letters_only": letters_only,
    }  # fmt: skip
    from_files = load(book, tmp_path, **settings)
    assert isinstance(from_files.training.token_ids, token_cache.TokenFile)
    monkeypatch.setattr(corpora, "PIECE", 10**6)
    monkeypatch.setattr(token_cache, "LARGE", 10**6)
    in_memory = load(book, tmp_path, **settings)
    if kind != "subword":  # whose vocabulary may depend on where pieces end
        assert from_files.tokenizer == in_memory.tokenizer
    expected = load(book, tmp_path, from_files.tokenizer, **settings)
    assert from_files.digest == expected.digest
    for name in ("training", "validation"):
        read, held = getattr(from_files, name), getattr(expected, name)
        assert read.num_tokens == held.num_tokens
        assert np.array_equal(read.token_ids[:], held.token_ids)
        assert read.characters == held.characters


def test_a_second_run_reads_the_tokens_of_the_first(
    book, tmp_path, monkeypatch, capsys, small_pieces
):
    first = load(book, tmp_path)
    assert "building the vocabulary: 0 M char" in capsys.readouterr().err
    monkeypatch.setattr(tokenizers, "build", None)
    monkeypatch.setattr(token_cache, "_tokenize_piece", None)
    second = load(book, tmp_path)
    assert second.tokenizer == first.tokenizer
    assert np.array_equal(
        second.training.token_ids[5:50], first.training.token_ids[5:50]
    )
    assert capsys.readouterr().err == ""


def test_other_settings_have_other_token_files(book, tmp_path, small_pieces):
    for settings in (
        {}, {"letters_only": True}, {"validation_fraction": 0.2},
        {"tokenizer": "byte"}, {"train_windows": 100}, {"seed": 5},
        {"document_separator": "us. "},
        {"document_separator": "us. ", "seed": 5},
    ):  # fmt: skip
        load(book, tmp_path, **settings)
    book.write_text(book.read_text().replace("smiled", "cried"))
    load(book, tmp_path)
    # The seed does not change the tokens of a running text.
    assert len([*tmp_path.glob("tokens-*")]) == 8


def test_interrupted_tokenizing_resumes(
    book, tmp_path, monkeypatch, small_pieces
):
    """Also where the cache lies in the directory of the corpus."""
    cut, done = token_cache._tokenize_piece, []

    def interrupted(*arguments):
        if len(done) == 8:
            raise KeyboardInterrupt
        done.append(arguments)
        return cut(*arguments)

    monkeypatch.setattr(token_cache, "_tokenize_piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, tmp_path)
    [directory] = tmp_path.glob("tokens-*")
    assert not (directory / "index.json").exists()
    parts = len([*directory.glob("parts/*.npz")])
    assert parts == 8

    monkeypatch.setattr(tokenizers, "build", None)
    done.clear()
    monkeypatch.setattr(
        token_cache,
        "_tokenize_piece",
        lambda *args: (done.append(args), cut(*args))[1],
    )
    data = load(tmp_path, tmp_path)
    assert len(done) == 16 - parts
    text = book.read_text(encoding="utf-8")[:27_000]
    expected = data.tokenizer.tokenize([text]).flat_values
    assert np.array_equal(data.training.token_ids[:], expected)
    assert not (directory / "parts").exists()


@pytest.mark.parametrize("damage", ["index", "short", "missing", "odd"])
def test_damaged_token_files_are_rebuilt(
    book, tmp_path, capsys, small_pieces, damage
):
    expected = load(book, tmp_path).training.token_ids[:]
    [directory] = tmp_path.glob("tokens-*")
    capsys.readouterr()
    if damage == "index":
        (directory / "index.json").write_text('{"lengths": {"tra')
    elif damage == "missing":
        (directory / "validation.tokens").unlink()
    else:
        path = directory / "training.tokens"
        path.write_bytes(path.read_bytes()[: 100 if damage == "short" else -1])
    assert np.array_equal(load(book, tmp_path).training.token_ids[:], expected)
    error = capsys.readouterr().err
    assert error.count("note: ") == 1 and "damaged: rebuilding" in error


def test_a_cache_that_cannot_be_used_is_named(book, tmp_path, small_pieces):
    with pytest.raises(configs.UserError, match=r"--cache_dir=.*book\.txt.*: "):
        load(book, book)


def test_a_file_that_was_cut_short_meanwhile_is_named(
    book, tmp_path, small_pieces
):
    data = load(book, tmp_path)
    [path] = tmp_path.glob("tokens-*/training.tokens")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(configs.UserError, match=r"training\.tokens was cut"):
        data.training.page(0)
    path.unlink()
    data = load(book, tmp_path)
    path.unlink()
    with pytest.raises(configs.UserError, match=r"cannot read .*\.tokens"):
        data.training.page(0)


def test_only_one_of_two_processes_tokenizes(
    book, tmp_path, monkeypatch, small_pieces
):
    built, build = [], tokenizers.build
    monkeypatch.setattr(
        tokenizers, "build", lambda **a: (built.append(a), build(**a))[1]
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(load, book, tmp_path) for _ in range(4)]
        lengths = {run.result().training.num_tokens for run in runs}
    assert lengths == {27_000} and len(built) == 1


def test_cached_tokens_know_the_unknown_characters(
    book, tmp_path, small_pieces
):
    tokenizer = tokenizers.build("char", b"abcdefghijklmnopqrstuvwxyz \n-.")
    for _ in range(2):
        data = load(book, tmp_path, tokenizer)
        assert sorted(data.unknown_parts) == [*"IT\u00e4\u4e2d\u6587"]
        assert 0 < data.unknown_share < 0.2


@pytest.mark.parametrize("kind", ["char", "word"])
def test_the_vocabulary_is_widened_by_all_pieces(
    book, tmp_path, small_pieces, kind
):
    """And a resumed run, which has that vocabulary, finds the same tokens."""
    config = configs.TrainConfig(
        corpus=str(book), cache_dir=str(tmp_path), tokenizer=kind
    )
    old = tokenizers.build(kind, b"the time ")
    data = datasets.load_language_data(config, 50, old, widen=True)
    built = tokenizers.build(kind, book.read_bytes()).to_dict()["vocabulary"]
    assert {*data.tokenizer.to_dict()["vocabulary"]} >= {*built}
    assert "new" in data.notes[0] and not data.unknown_parts
    again = datasets.load_language_data(config, 50, data.tokenizer)
    assert len([*tmp_path.glob("tokens-*")]) == 1
    assert again.tokenizer == data.tokenizer


# Pages


def stream(length):
    """A stream in which each token is its position."""
    return np.arange(length, dtype=np.int32)


@pytest.mark.parametrize(
    ("length", "batch_size"), [(700, 4), (5000, 4), (5003, 7), (1500, 1)]
)
def test_every_window_comes_once_an_epoch_page_by_page(
    small_pages, length, batch_size
):
    random = datasets.RandomWindows(stream(length), 10, batch_size, seed=3)
    assert (random.num_pages > 1) == (length > 2 * 640)
    for epoch in range(2):
        starts = sorted(
            int(row[0]) for inputs, targets in batches(random, epoch)
            for row, target in zip(inputs, targets) if target[0] >= 0
        )  # fmt: skip
        assert len(starts) == random.num_windows
        assert np.all(np.diff(starts) == 10)
        seen = epoch_targets(random, epoch)
        assert len(seen) == len(set(seen)) == 10 * random.num_windows
    left_over = length // 10 - 1 - random.num_windows
    assert 0 <= left_over < (random.num_pages > 1) * 16 * random.num_pages + 1
    assert sorted(seen) != sorted(epoch_targets(random, 2))
    sizes = {
        len(random.page(step)) for step in range(2 * random.steps_per_epoch)
    }
    assert len(sizes) == 1 and sizes.pop() <= 2 * 640 + 16


def test_pages_have_windows_from_all_over_the_text(small_pages):
    random = datasets.RandomWindows(stream(64_000), 10, 4)
    for step in (0, random.batches_per_page):
        page = random.page(step)
        assert page.min() < 16_000 and page.max() > 48_000
    assert set(random.page(0)) != set(random.page(random.steps_per_epoch))


def test_windows_may_be_longer_than_a_page(small_pages):
    random = datasets.RandomWindows(stream(60_000), 700, 2)
    targets = epoch_targets(random)
    assert len(targets) == len(set(targets)) > 55_000


@pytest.mark.parametrize("length", [641, 5000, 5001])
def test_streams_by_page_are_streams_of_one_page(
    monkeypatch, small_pages, length
):
    streams = datasets.Streams(stream(length), 10, 4)
    by_page = [*batches(streams)]
    assert streams.batches_per_page == 16 <= streams.steps_per_epoch
    monkeypatch.setattr(windows, "PAGE", 10**6)
    assert streams.batches_per_page == streams.steps_per_epoch
    for got, expected in zip(by_page, batches(streams), strict=True):
        counts = expected[1] >= 0
        assert np.array_equal(got[1], expected[1])
        assert np.array_equal(got[0][counts], expected[0][counts])


@pytest.mark.parametrize("kind", [datasets.RandomWindows, datasets.Streams])
def test_a_dataset_reads_page_after_page(small_pages, kind):
    paged = kind(stream(5000), 10, 4)
    first = paged.batches_per_page - 2
    for step, got in enumerate(paged.dataset(first).take(5), first):
        for one, other in zip(got, batch(paged, step)):
            assert np.array_equal(one, other)


# Training


PROGRAM = """
import sys, time
sys.argv = ["train.py", *sys.argv[1:]]
start = time.time()
from stacked_rnn import datasets
load = datasets.load_language_data
def timed(*arguments, **options):
    data = load(*arguments, **options)
    print("LOADED", time.time() - start)
    return data
datasets.load_language_data = timed
from stacked_rnn.cli import train
try:
    train.run()
finally:
    [peak] = [line for line in open("/proc/self/status") if "VmHWM" in line]
    print("PEAK", int(peak.split()[1]) / 1024)
"""


@pytest.mark.drill
def test_two_gigabytes_take_the_memory_of_two_megabytes(tmp_path):
    """And the second run begins within seconds."""
    rng = np.random.default_rng(0)
    line = " ".join(rng.choice(WORDS, 300)).encode() + b"\n"
    peaks = []
    for size in (2 * 10**6, 2 * 10**9):
        corpus = tmp_path / f"{size}.txt"
        with open(corpus, "wb") as file:
            for number in range(size // 10**6):
                file.write(b"%d " % number + line * (10**6 // len(line)))
        for _ in range(2):
            output = subprocess.run(
                [
                    sys.executable, "-c", PROGRAM, f"--corpus={corpus}",
                    f"--cache_dir={tmp_path}", f"--model_dir={tmp_path}/run",
                    "--noresume", f"--export_dir={tmp_path}/saved",
                    "--max_minutes=0.1", "--validation_fraction=0.0001",
                    "--units=64",
                ],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            peaks.append(float(re.search("PEAK (.*)", output)[1]))
            loaded = float(re.search("LOADED (.*)", output)[1])
        corpus.unlink()
    assert max(peaks) - peaks[1] < 500
    assert loaded < 30
