r"""Reading text: all commands find, unpack and decode files with this module.

All accept the same files: UTF-8, with or without a byte-order mark, gzipped or
not, with line ends \n, \r\n or \r, which all become \n. A file that is not text
is rejected with one line that says what it is and how to convert it.
"""

import codecs
import collections
import contextlib
import dataclasses
import glob
import gzip
import io
import os
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator

from stacked_rnn.configs import UserError

PIECE = 2**20  # bytes read at a time
_HEAD = 2**12  # bytes that are examined to recognize a format
_GZIP = b"\x1f\x8b"
# Directories of tools, exports that were cut short, and cached tokens.
_LEFT_OUT = re.compile(r"\..*|.*\.partial|tokens-[0-9a-f]{16}")
_SAVE = "open it in its program and save it as plain text (UTF-8)"
# The first bytes of a file -> its format, and advice.
_FORMATS = {
    b"PK\x03\x04": (
        "a zip archive, as .docx, .odt, .xlsx and .epub are",
        _SAVE,
    ),
    b"\xd0\xcf\x11\xe0": ("an old Word or Excel file", _SAVE),
    b"{\\rtf": ("rich text (RTF)", _SAVE),
    b"%PDF-": ("a PDF", "convert it with `pdftotext FILE`"),
    b"\x89PNG": ("a picture", "leave it out"),
    b"\xff\xd8\xff": ("a picture", "leave it out"),
    b"GIF8": ("a picture", "leave it out"),
    b"RIFF": ("a picture or a sound", "leave it out"),
    b"BZh91AY&SY": ("a bzip2 file", "unpack it with `bunzip2`"),
    b"\xfd7zXZ": ("an xz file", "unpack it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it with `unzstd`"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"SQLite format 3": ("an SQLite database", "export it as .csv"),
    b"PAR1": ("a Parquet file", "convert it to .csv or .jsonl"),
}


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file, or the content of a pipe.

    Attributes:
        name: its name in errors.
        open_file: function that opens it in binary mode, at the beginning.
        is_stream: whether it is a pipe, whose name tells nothing of its format.
        warnings: set of warnings already given, shared by files found together.
    """

    name: str
    open_file: Callable
    is_stream: bool = False
    warnings: set = dataclasses.field(default_factory=set, compare=False)

    @contextlib.contextmanager
    def unpacked(self, binary=False):
        """Opens the file in binary mode, unpacked if it is gzipped.

        Args:
            binary: recognize gzip only by the name, .gz; else by the content
                as well.
        """
        with self.open_file() as file:
            is_gzip = self.name.endswith(".gz")
            if not binary:
                is_gzip |= file.read(len(_GZIP)) == _GZIP
                file.seek(0)
            if is_gzip:
                with gzip.open(file) as unpacked:
                    yield io.BufferedReader(unpacked)
            else:
                yield file


def parts(source) -> Iterator[str]:
    """Splits a list of paths and globs at its commas.

    A comma is part of a path if such a file exists.
    """
    pieces = source.split(",")
    if len(pieces) > 1 and expand(source):
        yield source
        return
    start = 0
    while start < len(pieces):
        end = start + 1
        if not expand(pieces[start].strip()):
            for longer in range(start + 2, min(start + 20, len(pieces) + 1)):
                if expand(",".join(pieces[start:longer]).strip()):
                    end = longer
        yield ",".join(pieces[start:end]).strip()
        start = end


def expand(source) -> list[str]:
    """Returns the existing paths that a path or a glob matches."""
    source = os.path.expanduser(source)
    # A path may contain wildcards of globs; an existing path takes precedence.
    return [source] if os.path.exists(source) else sorted(glob.glob(source))


def find(source, flag, names=()) -> list[TextFile]:
    """Returns the files of a path, a glob, a directory or "-".

    Args:
        source: an item of `parts`.
        flag: the flag that errors name.
        names: named corpora, for the error.

    Raises:
        UserError: there is no such file.
    """
    if source == "-":
        return [standard_input(flag)]
    paths = expand(source)
    if not paths:
        raise UserError(f"--{flag}={source}: {_why_missing(source, names)}")
    paths = [
        file
        for path in paths
        for file in (walk(path) if os.path.isdir(path) else [path])
    ]
    if not paths:
        raise UserError(
            f"--{flag}={source}: no files in this directory (hidden ones, runs "
            "and SavedModels are left out)"
        )
    warnings = set()  # shared, so that only one of many files is named
    return [
        dataclasses.replace(text_file(path), warnings=warnings)
        for path in paths
    ]


def _why_missing(source, names):
    if source.startswith(("http://", "https://")):
        return "not a file: download it first"
    if names:
        return (
            "no such file, and no corpus of that name (there are "
            f"{', '.join(names)})"
        )
    return "no such file"


def walk(directory) -> list[str]:
    """The files below a directory, in order; links are followed.

    What begins with a dot belongs to a tool, as .git does; runs, their locks,
    searches, SavedModels and cached tokens are what is made of texts. A
    directory that cannot be read and a link to nothing are among the files:
    whoever reads them finds out why.
    """
    found, seen = [], set()

    def add_unreadable(error):
        found.append(error.filename)

    for root, directories, files in os.walk(
        directory, onerror=add_unreadable, followlinks=True
    ):
        path = os.path.realpath(root)
        if path in seen:  # a link leads back to it
            directories.clear()
            continue
        seen.add(path)
        if (
            {"saved_model.pb", "config.flags"} & {*files}
            or ("search.json" in files and "trials" in directories)
            or os.path.exists(os.path.join(root, "checkpoints", "model.json"))
        ):
            directories.clear()
            continue
        locks = {f"{name}.lock" for name in directories}
        directories[:] = [
            name
            for name in sorted(directories)
            if not _LEFT_OUT.fullmatch(name)
        ]
        paths = (
            os.path.join(root, name)
            for name in files
            if not name.startswith(".") and name not in locks
        )
        found += [
            path
            for path in paths
            if os.path.isfile(path) or not os.path.exists(path)
        ]
    return sorted(found)


def text_file(path) -> TextFile:
    """Returns the file of a path; a pipe is copied, as it can be read once."""

    def open_path():
        return open(path, "rb")

    if _is_stream(path):
        return TextFile(str(path), _keep(open_path), is_stream=True)
    return TextFile(str(path), open_path)


def has_stream(source) -> bool:
    """Returns whether a list of paths and globs names what is read only once.

    That is standard input, a pipe or a device.
    """
    return any(
        part == "-" or any(map(_is_stream, expand(part)))
        for part in parts(source)
    )


def _is_stream(path) -> bool:
    return os.path.exists(path) and not (
        os.path.isfile(path) or os.path.isdir(path)
    )


def standard_input(flag) -> TextFile:
    """Returns a copy of standard input, which can be read only once."""
    if sys.stdin is None:
        raise UserError(f"--{flag}=-: standard input is closed")
    return TextFile(
        "standard input",
        _keep(lambda: contextlib.nullcontext(sys.stdin.buffer)),
        is_stream=True,
    )


def _keep(open_once):
    """Returns a function that opens a copy of a stream, at the beginning."""
    copies = collections.deque()  # of one file; a list has no finalizer

    def open_copy():
        if not copies:
            with open_once() as stream:
                copies.append(tempfile.TemporaryFile())  # noqa: SIM115
                weakref.finalize(copies, copies[0].close)
                shutil.copyfileobj(stream, copies[0])
        copies[0].seek(0)
        return contextlib.nullcontext(copies[0])

    return open_copy


def read(
    file, flag, binary=False, any_bytes="", leave_out="", keep_line_ends=False
) -> Iterator[str]:
    r"""Yields the text of a file, in strings of any length.

    Args:
        file: a `TextFile`.
        flag: the flag that errors name.
        binary: accept any bytes: those that are not UTF-8 become surrogates
            (`surrogateescape`), and line ends are kept.
        any_bytes: advice in errors of encoding, besides converting the file.
        leave_out: advice in errors of files that are not text at all.
        keep_line_ends: keep \r\n and \r as they are.

    Raises:
        UserError: naming the file, and the position that is not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(
        "surrogateescape" if binary else "strict"
    )
    line_ends = io.IncrementalNewlineDecoder(None, not keep_line_ends)
    position = 0  # bytes read before `content`
    line = 1
    with named_errors(file.name, flag), file.unpacked(binary) as stream:
        content = stream.read(PIECE)
        if binary:
            while content:
                yield decoder.decode(content)
                content = stream.read(PIECE)
            yield decoder.decode(b"", True)
            return
        _check_format(content[:_HEAD], file, flag, leave_out)
        position = len(content)
        content = content.removeprefix(codecs.BOM_UTF8)
        position -= len(content)
        while True:
            pending = len(decoder.getstate()[0])
            zero = content.find(b"\0")
            try:
                text = decoder.decode(
                    content if zero < 0 else content[:zero], not content
                )
            except UnicodeDecodeError as error:
                start = error.start - pending
                before = content[: max(start, 0)]
                raise UserError(
                    f"--{flag}: {file.name} is not UTF-8 text (byte "
                    f"{position + start}, line {line + before.count(10)}): "
                    f"{_how_to_convert(file.name, content)}{_or(any_bytes)}"
                ) from None
            if zero >= 0:
                raise UserError(
                    f"--{flag}: {file.name} is a binary file (zero byte at "
                    f"{position + zero}, line "
                    f"{line + content[:zero].count(10)}): convert it to UTF-8"
                    f"{_or(any_bytes)}"
                )
            text = line_ends.decode(text, not content)
            line += text.count("\n")
            yield text
            if not content:
                return
            position += len(content)
            content = stream.read(PIECE)


def read_text(file, flag) -> str:
    """Returns the whole text of a `TextFile`; see `read`."""
    return "".join(read(file, flag))


def read_lines(file, flag) -> Iterator[str]:
    r"""Yields the lines of a `TextFile`: split at \n alone, and without it."""
    rest = ""
    for text in read(file, flag):
        *lines, rest = (rest + text).split("\n")
        yield from lines
    if rest:
        yield rest


@contextlib.contextmanager
def named_errors(name, flag="corpus"):
    """Turns errors of reading into a `UserError` that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}: cannot read {name}: {reason}") from error


def _check_format(head, file, flag, leave_out):
    """Rejects known formats by the first bytes, and warns of HTML."""
    name = f"--{flag}: {file.name}"
    for signature, (file_format, advice) in _FORMATS.items():
        if head.startswith(signature):
            raise UserError(
                f"{name} is not plain text but {file_format}: {advice}"
                f"{_or(leave_out)}"
            )
    if head[257:262] == b"ustar":
        raise UserError(
            f"{name} is a tar archive: unpack it, and give its directory"
            f"{_or(leave_out)}"
        )
    if encoding := _utf_16(head):
        raise UserError(
            f"{name} is {encoding} text: convert it to UTF-8 with `iconv -f "
            f"{encoding} -t UTF-8 '{file.name}' > NEW`{_or(leave_out)}"
        )
    beginning = head.removeprefix(codecs.BOM_UTF8).lstrip()[:20].lower()
    if beginning.startswith((b"<!doctype html", b"<html")):
        if "html" not in file.warnings:
            print(
                f"warning: {name} is an HTML page, and its tags are read as "
                "text: save it as plain text to leave them out",
                file=sys.stderr,
            )
        file.warnings.add("html")


def _utf_16(head):
    """Recognizes UTF-16 or -32: a byte-order mark, or Latin letters' zeros."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= 8 and max(even, odd) > 0.15 * len(head):
        if even < odd / 10:
            return "UTF-16LE"
        if odd < even / 10:
            return "UTF-16BE"
    return ""


def _how_to_convert(name, content):
    """Returns advice on a file that is not UTF-8."""
    if any(byte < 9 or 13 < byte < 27 for byte in content[:_HEAD]):
        return "if it is text at all, convert it to UTF-8"
    return (
        "if it is Windows-1252, as older programs write, convert it with "
        f"`iconv -f CP1252 -t UTF-8 '{name}' > NEW`"
    )


def _or(advice):
    return f", or {advice}" if advice else ""
