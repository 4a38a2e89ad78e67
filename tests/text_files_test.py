"""Reading of text files, and the refusal of others."""

import gzip
import io
import os
import pathlib
import threading

import pytest

from stacked_rnn.configs import UserError
from stacked_rnn.utils import text_files

TEXT = "two\nlines, \u00e9\n"


def read(path):
    [file] = text_files.find(str(path), "corpus")
    return text_files.read_text(file, "corpus")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "gzipped.txt"])
def test_encodings_and_packing_give_the_same_text(tmp_path, end, begin, name):
    content = begin + TEXT.replace("\n", end).encode()
    if "gz" in name:
        content = gzip.compress(content)
    path = tmp_path / name
    path.write_bytes(content)
    assert read(path) == TEXT


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_line_ends_and_characters_may_lie_across_pieces(
    tmp_path, monkeypatch, size
):
    monkeypatch.setattr(text_files, "PIECE", size)
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\n\u00e9\r\r\nb\u4e2d\r".encode())
    assert read(path) == "a\n\u00e9\n\nb\u4e2d\n"


def test_bytes_are_read_unchanged(tmp_path):
    content = b"\xef\xbb\xbfa\r\n\0\xff" + gzip.compress(b"b")
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    [file] = text_files.find(str(path), "corpus")
    text = "".join(text_files.read(file, "corpus", binary=True))
    assert text.encode("utf-8", "surrogateescape") == content


def test_a_pipe_is_read_twice(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    writer = threading.Thread(
        target=lambda: pathlib.Path(path).write_bytes(b"piped\r\n")
    )
    writer.start()
    [file] = text_files.find(path, "corpus")
    assert [text_files.read_text(file, "corpus") for _ in range(2)] == [
        "piped\n",
        "piped\n",
    ]
    writer.join()


def test_what_can_be_read_once_is_recognized(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    os.mkfifo("pipe")
    for source in ("-", "a.txt,-", "pipe", "a.txt, pipe", "p*", "/dev/null"):
        assert text_files.has_stream(source)
    for source in ("a.txt", "*.txt,pydoc", ".", "nowhere"):
        assert not text_files.has_stream(source)


def test_standard_input_may_be_gzipped_and_is_read_twice(monkeypatch):
    content = io.BytesIO(gzip.compress(b"piped"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content))
    [file] = text_files.find("-", "corpus")
    assert text_files.read_text(file, "corpus") == "piped"
    assert text_files.read_text(file, "corpus") == "piped"
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        text_files.find("-", "corpus")


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("here")
    assert read("~/a.txt") == "here"
    assert read("~/*.txt") == "here"


def test_paths_are_separated_by_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Romeo, Juliet.txt", "a,b,c", "d"):
        (tmp_path / name).write_text(name)
    for source, expected in (
        ("Romeo, Juliet.txt", ["Romeo, Juliet.txt"]),
        ("d, Romeo, Juliet.txt,a,b,c", ["d", "Romeo, Juliet.txt", "a,b,c"]),
        ("d,nowhere,d", ["d", "nowhere", "d"]),
        ("d", ["d"]),
        ("-", ["-"]),
    ):
        assert list(text_files.parts(source)) == expected


def test_hidden_and_generated_files_are_skipped(tmp_path):
    for name in (
        "b.txt", "a/z.txt", "a.txt", ".git/config", "a/.hidden",
        "runs/x/config.flags", "runs/x/history.csv",
        "runs/y/checkpoints/model.json", "runs/y/checkpoints/last/ckpt-1",
        "saved_models/x/1/saved_model.pb", "saved_models/x/1/assets/a.json",
        "saved_models/x/export-1.partial/fingerprint.pb",
        "cache/tokens-0123456789abcdef/lock", "tokens-of-love/a.txt",
        "config.json", "checkpoints/notes.txt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = text_files.find(str(tmp_path), "corpus")
    assert [os.path.relpath(file.name, tmp_path) for file in found] == [
        "a.txt", "a/z.txt", "b.txt", "checkpoints/notes.txt", "config.json",
        "tokens-of-love/a.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "what", "way"),
    [
        (b"PK\x03\x04\x14\0", "zip archive", "save it as plain text"),
        (b"%PDF-1.4\nabc", "a PDF", "pdftotext"),
        (rb"{\rtf1\ansi hello}", "RTF", "save it as plain text"),
        (b"\x89PNG\r\n\x1a\n\0", "a picture", "leave it out"),
        (b"\xff\xd8\xff\xe0\0", "a picture", "leave it out"),
        (b"GIF89a\1\0", "a picture", "leave it out"),
        (b"BZh91AY&SY\xff", "bzip2", "bunzip2"),
        ("a text".encode("utf-16"), "UTF-16", "iconv"),
        ("a text".encode("utf-16-le"), "UTF-16LE", "iconv"),
        ("a text".encode("utf-16-be"), "UTF-16BE", "iconv"),
        ("a text".encode("utf-32"), "UTF-32", "iconv"),
        ("l\u00e0 bas\n".encode("cp1252"), "Windows-1252", "iconv"),
        (b"ELF\0\xff\1", "binary file .zero byte at 3, line 1", "UTF-8"),
        (b"a\r\nb\xe9", "not UTF-8 text .byte 4, line 2", "iconv"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_files_that_are_not_text_are_refused_with_a_way_out(
    tmp_path, content, what, way, pack
):
    path = tmp_path / "a.file"
    path.write_bytes(pack(content))
    with pytest.raises(
        UserError, match=rf"--corpus: .*a\.file .*{what}.*{way}"
    ):
        read(path)


def test_a_web_page_is_read_with_a_warning(tmp_path, capsys):
    (tmp_path / "a.html").write_text("\n<!DOCTYPE html>\n<p>a")
    [file] = text_files.find(f"{tmp_path}/a.html", "corpus")
    for _ in range(2):  # one line only
        assert text_files.read_text(file, "corpus").endswith("<p>a")
    warnings = capsys.readouterr().err
    assert "a.html is an HTML page" in warnings and warnings.count("\n") == 1


def test_of_many_web_pages_one_is_named(tmp_path, capsys):
    for name in "abc":
        (tmp_path / name).write_text("<html>")
    for file in text_files.find(f"{tmp_path}/*", "corpus"):
        text_files.read_text(file, "corpus")
    assert capsys.readouterr().err.count("warning") == 1


def test_a_glob_may_match_directories(tmp_path):
    for name in ("a/1", "a/.git/2", "b"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    found = text_files.find(f"{tmp_path}/*", "corpus")
    assert [os.path.relpath(file.name, tmp_path) for file in found] == [
        "a/1", "b",
    ]  # fmt: skip


def test_a_url_is_refused_with_a_way_out():
    with pytest.raises(UserError, match="download it first"):
        text_files.find("https://example.org/a.txt", "corpus")


@pytest.mark.parametrize("size", [2, 100])
def test_lines_end_at_line_breaks_alone(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text_files, "PIECE", size)
    path = tmp_path / "a.txt"
    path.write_text("one\u2028\r\n\r\ntw\u0085o\n\nthree", newline="")
    [file] = text_files.find(str(path), "corpus")
    assert list(text_files.read_lines(file, "corpus")) == [
        "one\u2028", "", "tw\u0085o", "", "three",
    ]  # fmt: skip


def test_nothing_in_a_directory_vanishes(tmp_path, monkeypatch):
    """Links to directories are followed, each directory once."""
    for name in ("corpus/a/b", "corpus/locked", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "corpus/a/b/one.txt").write_text("1")
    (tmp_path / "elsewhere/two.txt").write_text("2")
    (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus/a/b/back").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus/gone.txt").symlink_to(tmp_path / "nowhere")
    scan = os.scandir

    def refuse_locked(path):  # root may read anything
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    files = text_files.find(str(tmp_path / "corpus"), "corpus")
    found = {os.path.relpath(file.name, tmp_path): file for file in files}
    assert [*found] == [
        "corpus/a/b/one.txt", "corpus/gone.txt", "corpus/linked/two.txt",
        "corpus/locked",
    ]  # fmt: skip
    for name in ("gone.txt", "locked"):
        with pytest.raises(UserError, match=f"--corpus: cannot read .*/{name}"):
            text_files.read_text(found[f"corpus/{name}"], "corpus")
