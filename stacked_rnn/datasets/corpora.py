"""Corpora by name or path, read piece by piece: they may exceed the memory.

Pieces are byte strings, as TensorFlow's string ops want them.
"""

import codecs
import contextlib
import dataclasses
import functools
import glob
import gzip
import hashlib
import io
import os
import pathlib
import pydoc_data.topics
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator

import keras

from stacked_rnn.configs import UserError

PIECE = 2**20  # characters of a piece
_REMEDY = "convert it to UTF-8, or take --tokenizer=byte for any file"
# Before this white space every tokenizer begins a new token.
_BOUNDARY = re.compile(r"(?<=[A-Za-z])[ \n](?=\w)")


@dataclasses.dataclass(frozen=True)
class Download:
    """A text on the web: its address, and the digest of its content."""

    url: str
    algorithm: str
    digest: str


DOWNLOADS = {
    "timemachine": Download(
        "https://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
        "sha1",
        "090b5e7e70c295757f55df93cb0a180b9691891a",
    ),
    "shakespeare": Download(
        "https://storage.googleapis.com/download.tensorflow.org/data/"
        "shakespeare.txt",
        "sha256",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


class Corpus:
    """The text that `--corpus` names.

    It is read once to the end here, and checked, and again for its pieces.

    Args:
        corpus: "pydoc", a name in `DOWNLOADS`, a path, a directory with all
            that is below it, a glob, "-" for standard input, or several of
            these separated by commas, whose texts are joined in order. Files
            that end in .gz are unpacked.
        binary: take files of any bytes; otherwise only UTF-8 text.
        skip_bad_files: leave those out, with a warning each, that cannot be
            read, are empty or not text.

    Attributes:
        num_characters: of the text; a byte that is not UTF-8 counts as one.
        digest: of the text, hexadecimal.

    Raises:
        UserError: naming the file that is missing, empty or not text.
    """

    def __init__(self, corpus, binary=False, skip_bad_files=False):
        self._binary = binary
        self._files = []
        self.num_characters = 0
        digest = hashlib.sha256()
        for source in corpus.split(","):
            for name, open_file in _find(source.strip()):
                with_file, count = digest.copy(), 0
                try:
                    for text in self._read(name, open_file):
                        with_file.update(_encoded(text))
                        count += len(text)
                    if not count:
                        raise UserError(f"--corpus: {name} is empty")
                except UserError as error:
                    if not skip_bad_files:
                        raise
                    print(f"warning: skipped: {error}", file=sys.stderr)
                else:
                    self._files.append((name, open_file))
                    self.num_characters += count
                    digest = with_file
        if not self._files:
            raise UserError(f"--corpus={corpus}: none of its files can be read")
        self.digest = digest.hexdigest()

    def pieces(self, first=0, last=None) -> Iterator[bytes]:
        """The characters from `first` to before `last`, a piece at a time.

        A piece ends between two words where it can, so that its tokens are
        those of the whole text.
        """
        last = self.num_characters if last is None else last
        position, text = 0, ""
        for name, open_file in self._files:
            for part in self._read(name, open_file):
                text += part[max(0, first - position) : max(0, last - position)]
                position += len(part)
                while len(text) > PIECE:
                    cut = _find_boundary(text)
                    yield _encoded(text[:cut])
                    text = text[cut:]
                if position >= last:
                    break
            if position >= last:
                break
        if text:
            yield _encoded(text)

    def _read(self, name, open_file) -> Iterator[str]:
        """The text of a file, some of it at a time."""
        decoder = codecs.getincrementaldecoder("utf-8")(
            "surrogateescape" if self._binary else "strict"
        )
        position = 0  # of the first byte that is not decoded yet
        with named_errors(name), open_file() as file:
            content = file.read(PIECE)
            if not self._binary:
                content = content.removeprefix(codecs.BOM_UTF8)
            while content:
                text = _decoded(decoder, content, name, position)
                if b"\0" in content and not self._binary:
                    raise UserError(
                        f"--corpus: {name} is a binary file (zero byte at "
                        f"{position + content.index(0)}): {_REMEDY}"
                    )
                yield text
                position += len(content)
                content = file.read(PIECE)
            yield _decoded(decoder, b"", name, position, final=True)


def _decoded(decoder, content, name, position, final=False) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(content, final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"--corpus: {name} is not UTF-8 text (byte "
            f"{position - pending + error.start}): {_REMEDY}"
        ) from None


def _encoded(text) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _find_boundary(text) -> int:
    """Where a piece at the beginning of a text ends."""
    boundaries = [
        match.start()
        for match in _BOUNDARY.finditer(text, PIECE - 2**10, PIECE + 1)
    ]
    return boundaries[-1] if boundaries else PIECE


@contextlib.contextmanager
def named_errors(name, flag="corpus"):
    """Errors of reading name the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}: cannot read {name}: {reason}") from error


def _find(source):
    """Yields (name, function that opens) of each file that a source names."""
    if source == "pydoc":
        yield source, lambda: io.BytesIO(_pydoc_text())
    elif source in DOWNLOADS:
        yield source, functools.partial(open, _download(source), "rb")
    elif source == "-":
        yield "standard input", _keep_standard_input()
    else:
        for path in _find_paths(source):
            open_file = gzip.open if path.endswith(".gz") else open
            yield path, functools.partial(open_file, path, "rb")


def _find_paths(source) -> list[str]:
    if os.path.isdir(source):
        below = pathlib.Path(source).rglob("*")
        # What begins with a dot is of a tool, as .git is.
        paths = sorted(
            str(path)
            for path in below
            if path.is_file()
            and not any(
                part.startswith(".") for part in path.relative_to(source).parts
            )
        )
        if not paths:
            raise UserError(f"--corpus={source}: no files in this directory")
        return paths
    paths = expand(source)
    if not paths:
        raise UserError(
            f"--corpus={source}: no such file, and no corpus of that name "
            f"(there are pydoc, {', '.join(DOWNLOADS)})"
        )
    return paths


def expand(source) -> list[str]:
    """The paths that a path or a glob stands for, none where there are none."""
    # A path may hold the signs of a glob; as a path it comes first.
    return [source] if os.path.exists(source) else sorted(glob.glob(source))


def _pydoc_text() -> bytes:
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip() for name in sorted(topics)).encode()


def _keep_standard_input():
    """A function that opens a copy of standard input: that ends only once."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as its opener
    shutil.copyfileobj(sys.stdin.buffer, copy)

    def open_copy():
        copy.seek(0)
        return contextlib.nullcontext(copy)

    return open_copy


def _download(name) -> str:
    """Path of a corpus in the Keras cache; fetched where it is not there.

    A file that is there already is taken as it is, with a note where it is not
    the published one: somebody put it there.
    """
    download = DOWNLOADS[name]
    path = os.path.join(keras_cache(), "datasets", f"{name}.txt")
    if os.path.exists(path):
        if _digest(path, download.algorithm) != download.digest:
            print(f"note: {path} differs from {download.url}", file=sys.stderr)
        return path
    try:
        fetched = keras.utils.get_file(
            os.path.basename(path), download.url, cache_dir=keras_cache()
        )
    except Exception as error:  # the only type that get_file promises
        raise UserError(
            f"--corpus={name}: cannot download {download.url}: fetch it by "
            f"hand and put it at {path}"
        ) from error
    if _digest(fetched, download.algorithm) != download.digest:
        os.remove(fetched)
        raise UserError(
            f"--corpus={name}: {download.url} holds another text than it used "
            f"to: put a copy that you trust at {path}"
        )
    return fetched


def keras_cache() -> str:
    """The directory in which Keras keeps what it has fetched."""
    return os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")


def _digest(path, algorithm) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
