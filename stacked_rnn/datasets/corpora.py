"""Reading corpora, named or from files, that may be larger than memory.

They are read in pieces: byte strings, as TensorFlow's string ops take them.
"""

import copy
import dataclasses
import hashlib
import io
import itertools
import os
import pydoc_data.topics
import re
import sys
import uuid
from collections.abc import Iterator

import keras

from stacked_rnn.configs import UserError
from stacked_rnn.utils import text_files

PIECE = 2**20  # characters per piece
# Of a list: characters of the longest line, mean of all, number of lines.
_LONGEST_ENTRY, _MEAN_ENTRY, _FEWEST_ENTRIES = 60, 25, 50
_LEAVE_OUT = "use --skip_bad_files to leave such files out"
_ANY_BYTES = f"use --tokenizer=byte, which reads any file, or {_LEAVE_OUT}"
# Every tokenizer begins a new token before this white space. With
# `letters_only`, only the first kind does, as other letters become spaces.
_BOUNDARIES = (
    re.compile(r"(?<=[A-Za-z])[ \n](?=\w)"),
    re.compile(r"(?<=\w)[ \n](?=\w)"),
)


@dataclasses.dataclass(frozen=True)
class Download:
    """A text to download: its address and the expected hash of its content."""

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
    r"""The text of `--corpus`, which may consist of several files.

    Creating it reads and checks all files once; `pieces`, `texts` and
    `documents` read them again.

    Between two files stands one document separator, whether the first ends with
    it, the second begins with it, both or neither; or a line break if there is
    no separator. If the separator consists of line breaks, a longer run of line
    breaks is reduced to one separator.

    Args:
        corpus: "pydoc", a name in `DOWNLOADS`, a path, a directory (all files
            below it), a glob, "-" for standard input, or several of these
            separated by commas, whose texts are joined in order. See
            `text_files`.
        binary: read any bytes as they are; else only UTF-8 text is accepted,
            and all line ends become \n.
        skip_bad_files: leave out files that cannot be read, are empty or not
            text, with a warning for each.
        document_separator: the string between documents, without escapes;
            empty: the text is one document.
        flag: the flag that errors name.
        keep_line_ends: keep \r\n and \r as they are.

    Attributes:
        num_characters: characters of the text; a byte that is not UTF-8 counts
            as one.
        has_separator: whether the separator occurs in the text.
        is_list: whether it looks like a list, of names or words, one per line:
            many short lines, none blank.
        digest: SHA-256 of the text, hexadecimal.

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
        self._files = []  # (file, what stands before its text)
        self.num_characters = 0
        self.has_separator = False
        digest, lines = hashlib.sha256(), _Lines()
        end = ""  # the last characters so far
        for file in _find(corpus, flag):
            joint = self._joint(end) if self._files else ""
            new_digest, new_lines = digest.copy(), copy.copy(lines)
            has_separator, num_characters, new_end = False, 0, end
            try:
                for text in self._read(file, joint, not self._files):
                    new_digest.update(_encode(text))
                    new_lines.add(text)
                    num_characters += len(text)
                    last = new_end + text
                    has_separator = has_separator or self._separator in last
                    new_end = last[-max(64, len(self._separator)) :]
                if num_characters == len(joint):
                    raise UserError(f"--{flag}: {file.name} is empty")
            except UserError as error:
                if not skip_bad_files:
                    raise
                print(f"warning: skipped: {error}", file=sys.stderr)
            else:
                self._files.append((file, joint))
                self.num_characters += num_characters
                self.has_separator |= has_separator and bool(self._separator)
                digest, lines, end = new_digest, new_lines, new_end
        if not self._files:
            raise UserError(f"--{flag}={corpus}: none of its files can be read")
        self.digest = digest.hexdigest()
        self.is_list = lines.are_a_list()

    def pieces(self, part=None) -> Iterator[bytes]:
        """Yields the text, or a part of it, in pieces for a tokenizer.

        A piece ends between two words if possible, and never within a
        separator, so that the pieces have the same tokens as the whole text.

        Args:
            part: a `splits.Spans` or `splits.Documents`; None: all the text.
        """
        text = ""
        for more in part.texts(self) if part else self.texts():
            text += more
            # Read far enough that a separator at the cut is complete.
            while len(text) > PIECE + len(self._separator):
                cut = _find_boundary(text, self._separator)
                yield _encode(text[:cut])
                text = text[cut:]
        if text:
            yield _encode(text)

    def texts(self) -> Iterator[str]:
        """Yields all the text, in strings of any length."""
        for index, (file, joint) in enumerate(self._files):
            yield from self._read(file, joint, index == 0)

    def documents(self) -> Iterator[tuple[bool, list[str], str]]:
        """Yields the documents, several at a time, and a long one in parts.

        Yields:
            (is_new, documents, separator): whether the first document begins
            here or continues the one before; the documents, without
            separators; and the separator that follows each of them, "" if none
            does. A part of a document comes alone; a first part has `PIECE`
            characters.
        """
        is_new, text = True, ""
        for more in self.texts():
            *documents, text = (text + more).split(self._separator)
            if documents:
                yield is_new, documents, self._separator
                is_new = True
            # The text may end with the beginning of a separator.
            while len(text) >= PIECE + len(self._separator):
                yield is_new, [text[:PIECE]], ""
                is_new, text = False, text[PIECE:]
        if text:
            yield is_new, [text], ""

    def as_lines(self) -> "Corpus":
        """Returns the same text with each line as a document."""
        lines = copy.copy(self)
        lines._separator, lines.has_separator = "\n", True
        return lines

    def _joint(self, end) -> str:
        """Returns what to insert between the end of a text and a file."""
        separator = self._separator or "\n"
        if not separator.strip("\n"):
            num_present = len(end) - len(end.rstrip("\n"))
            return separator[min(num_present, len(separator)) :]
        core, text = separator.rstrip(), end.rstrip()
        if not text.endswith(core):
            return separator
        space = separator[len(core) :]
        return "" if end[len(text) :].startswith(space) else space

    def _read(self, file, joint, is_first) -> Iterator[str]:
        """Yields what stands before a file, and its text, in strings."""
        parts = text_files.read(file, self._flag, self._binary, **self._options)
        if self._separator and not self._separator.strip("\n"):
            parts = _limit_line_breaks(parts, len(self._separator))
        elif not is_first:
            parts = _without_first(parts, self._separator)
        return itertools.chain([joint], parts)


class _Lines:
    """Finds out whether a text is a list, while it is read."""

    def __init__(self):
        self._longest = self._count = self._characters = 0
        self._open = ""  # the line that has not ended

    def add(self, text):
        if self._longest > _LONGEST_ENTRY:
            return  # a text of long lines is not looked at further
        text = text.replace("\r", "")  # bytes keep their line ends
        *lines, self._open = (self._open + text).split("\n")
        lengths = [*map(len, lines)]
        has_blank = 0 in lengths
        self._longest = max(
            self._longest,
            len(self._open),
            *lengths,
            _LONGEST_ENTRY + 1 if has_blank else 0,
        )
        self._count += len(lines)
        self._characters += sum(lengths)

    def are_a_list(self) -> bool:
        return (
            self._longest <= _LONGEST_ENTRY
            and self._count >= _FEWEST_ENTRIES
            and self._characters <= _MEAN_ENTRY * self._count
        )


def _without_first(parts, separator) -> Iterator[str]:
    """Yields a text without the separator that it may begin with.

    White space before the separator may be missing.
    """
    parts, head = iter(parts), ""
    for part in parts:
        head += part
        if len(head) > len(separator):
            break
    if not head.startswith(separator):
        separator = separator.lstrip()
    yield head.removeprefix(separator) or head
    yield from parts


def _limit_line_breaks(parts, max_run) -> Iterator[str]:
    """Yields a text with at most `max_run` line breaks in a row."""
    held = None  # line breaks at the end, perhaps more to come; None: at first
    for part in parts:
        if held is None:
            part = part.lstrip("\n")
            if not part:
                continue
        text = (held or "") + part
        kept = text.rstrip("\n")
        held = text[len(kept) :]
        yield re.sub(f"\n{{{max_run + 1},}}", "\n" * max_run, kept)
    yield (held or "")[:max_run]


def _encode(text) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _find_boundary(text, separator="") -> int:
    """Returns the length of the first piece of a text."""
    cut = PIECE
    for boundary in _BOUNDARIES:
        *_, last = [None, *boundary.finditer(text, PIECE - 2**10, PIECE + 1)]
        if last:
            cut = last.start()
            break
    # Do not cut through a separator.
    start = text.find(
        separator, max(1, cut - len(separator) + 1), cut + len(separator) - 1
    )
    return start if len(separator) > 1 and start > 0 else cut


def _find(corpus, flag):
    """Yields the `TextFile`s of a corpus."""
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
    """Returns the path of a corpus in the Keras cache; downloads it if missing.

    An existing file is used as it is, with a note if it is not the published
    one: the user may have put it there.
    """
    download = DOWNLOADS[name]
    path = os.path.join(keras_cache(), "datasets", f"{name}.txt")
    if os.path.exists(path):
        if _digest(path, download.algorithm) != download.digest:
            print(f"note: {path} differs from {download.url}", file=sys.stderr)
        return path
    # Another process may fetch it too, and either may be killed.
    partial = f"{name}-{uuid.uuid4().hex}.partial"
    try:
        fetched = keras.utils.get_file(
            partial, download.url, cache_dir=keras_cache()
        )
    except Exception as error:  # get_file documents no narrower type
        raise UserError(
            f"--corpus={name}: cannot download {download.url}: download it by "
            f"hand and put it at {path}"
        ) from error
    if _digest(fetched, download.algorithm) != download.digest:
        os.remove(fetched)
        raise UserError(
            f"--corpus={name}: the text at {download.url} has changed: put a "
            f"copy that you trust at {path}"
        )
    # Keras chooses another directory if it cannot write into its cache.
    path = os.path.join(os.path.dirname(fetched), os.path.basename(path))
    os.replace(fetched, path)
    return path


def keras_cache() -> str:
    """Returns the directory in which Keras keeps its downloads."""
    return os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")


def _digest(path, algorithm) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
