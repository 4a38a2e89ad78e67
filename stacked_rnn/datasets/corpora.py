"""Corpora by name or path, read piece by piece: they may exceed the memory.

Pieces are byte strings, as TensorFlow's string ops want them.
"""

import dataclasses
import hashlib
import io
import os
import pydoc_data.topics
import re
import sys
from collections.abc import Iterator

import keras

from stacked_rnn.configs import UserError
from stacked_rnn.utils import text_files

PIECE = 2**20  # characters of a piece
_LEAVE_OUT = "take --skip_bad_files, which leaves such files out"
_ANY_BYTES = f"take --tokenizer=byte, which reads any file, or {_LEAVE_OUT}"
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
    r"""The text that `--corpus` names.

    It is read once to the end here, and checked, and again for its pieces.

    Files are ended before the next one is joined to them: by the separator of
    documents where there is one, else by a line break. Where line breaks alone
    separate documents, more of them in a row do so once.

    Args:
        corpus: "pydoc", a name in `DOWNLOADS`, a path, a directory with all
            that is below it, a glob, "-" for standard input, or several of
            these separated by commas, whose texts are joined in order. See
            `text_files`.
        binary: take files of any bytes, as they are; otherwise only UTF-8 text,
            each of whose lines ends in a line break alone.
        skip_bad_files: leave those out, with a warning each, that cannot be
            read, are empty or not text.
        document_separator: what stands between the documents, itself; empty:
            the text is one.
        flag: what an error calls the corpus.
        keep_line_ends: leave \r\n and \r as they are.

    Attributes:
        num_characters: of the text; a byte that is not UTF-8 counts as one.
        has_separator: whether the separator is in the text.
        digest: of the text, hexadecimal.

    Raises:
        UserError: naming the file that is missing, empty or not text.
    """

    def __init__(
        self,
        corpus,
        binary=False,
        skip_bad_files=False,
        document_separator="",
        flag="corpus",
        keep_line_ends=False,
    ):
        self._binary, self._flag = binary, flag
        self._options = {"keep_line_ends": keep_line_ends}
        self._separator = document_separator
        if flag == "corpus":
            self._options |= {"any_bytes": _ANY_BYTES, "leave_out": _LEAVE_OUT}
        self._files = []  # and what stands before the text of each
        self.num_characters = 0
        self.has_separator = False
        digest = hashlib.sha256()
        end = ""  # of the text so far
        for file in _find(corpus, flag):
            joint = self._joint(end) if self._files else ""
            with_file, new_end = digest.copy(), end + joint
            with_file.update(_encoded(joint))
            has_separator, count = False, 0
            try:
                for text in self._read(file):
                    with_file.update(_encoded(text))
                    count += len(text)
                    last = new_end + text
                    has_separator = has_separator or self._separator in last
                    new_end = last[-max(64, len(self._separator)) :]
                if not count:
                    raise UserError(f"--{flag}: {file.name} is empty")
            except UserError as error:
                if not skip_bad_files:
                    raise
                print(f"warning: skipped: {error}", file=sys.stderr)
            else:
                self._files.append((file, joint))
                self.num_characters += len(joint) + count
                self.has_separator |= has_separator and bool(self._separator)
                digest, end = with_file, new_end
        if not self._files:
            raise UserError(f"--{flag}={corpus}: none of its files can be read")
        self.digest = digest.hexdigest()

    def pieces(self, part=None) -> Iterator[bytes]:
        """The text, or a part of it, a piece at a time.

        A piece ends between two words where it can, and never in a separator,
        so that its tokens are those of the whole text.

        Args:
            part: of `splits`; None: all the text.
        """
        text = ""
        for more in part.texts(self) if part else self.texts():
            text += more
            # So far beyond that a separator at the cut is seen whole.
            while len(text) > PIECE + len(self._separator):
                cut = _find_boundary(text, self._separator)
                yield _encoded(text[:cut])
                text = text[cut:]
        if text:
            yield _encoded(text)

    def texts(self) -> Iterator[str]:
        """All the text, some of it at a time."""
        for file, joint in self._files:
            yield joint
            yield from self._read(file)

    def documents(self) -> Iterator[tuple[bool, list[str], str]]:
        """The documents, some at a time, and a long one in parts.

        Yields:
            Whether the first of them begins, or goes on; what stands between
            the separators; and the separator, where it comes after each. A part
            of a document comes alone, and the first one has `PIECE` characters.
        """
        begins, text = True, ""
        for more in self.texts():
            *documents, text = (text + more).split(self._separator)
            if documents:
                yield begins, documents, self._separator
                begins = True
            # What comes next may be the rest of a separator.
            while len(text) >= PIECE + len(self._separator):
                yield begins, [text[:PIECE]], ""
                begins, text = False, text[PIECE:]
        if text:
            yield begins, [text], ""

    def _joint(self, end) -> str:
        """What is to stand between a text and the next file."""
        separator = self._separator or "\n"
        if not separator.strip("\n"):
            there = len(end) - len(end.rstrip("\n"))
            return separator[min(there, len(separator)) :]
        core, text = separator.rstrip(), end.rstrip()
        if not text.endswith(core):
            return separator
        space = separator[len(core) :]
        return "" if end[len(text) :].startswith(space) else space

    def _read(self, file) -> Iterator[str]:
        """The text of a file, some of it at a time."""
        parts = text_files.read(file, self._flag, self._binary, **self._options)
        if self._separator and not self._separator.strip("\n"):
            return _with_short_runs(parts, len(self._separator))
        return parts


def _with_short_runs(parts, length) -> Iterator[str]:
    """A text in parts, with at most so many line breaks in a row."""
    held = None  # line breaks at the end, which may go on; None: the beginning
    for part in parts:
        if held is None:
            part = part.lstrip("\n")
            if not part:
                continue
        text = (held or "") + part
        kept = text.rstrip("\n")
        held = text[len(kept) :]
        yield re.sub(f"\n{{{length + 1},}}", "\n" * length, kept)
    yield (held or "")[:length]


def _encoded(text) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _find_boundary(text, separator="") -> int:
    """Where a piece at the beginning of a text ends."""
    boundaries = [
        match.start()
        for match in _BOUNDARY.finditer(text, PIECE - 2**10, PIECE + 1)
    ]
    cut = boundaries[-1] if boundaries else PIECE
    # A separator that begins before the cut and ends behind it stays whole.
    within = text.find(
        separator, max(1, cut - len(separator) + 1), cut + len(separator) - 1
    )
    return within if len(separator) > 1 and within > 0 else cut


def _find(corpus, flag):
    """Yields the `TextFile`s that a corpus consists of."""
    names = ("pydoc", *DOWNLOADS)
    for source in text_files.parts(corpus):
        if source == "pydoc":
            yield text_files.TextFile(source, lambda: io.BytesIO(_pydoc_text()))
        elif source in DOWNLOADS:
            yield text_files.text_file(_download(source))
        else:
            yield from text_files.find(source, flag, names)


def _pydoc_text() -> bytes:
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip() for name in sorted(topics)).encode()


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
