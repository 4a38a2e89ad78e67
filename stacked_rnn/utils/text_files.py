r"""Reading text: every command finds, unpacks and decodes its files here.

A file means the same to all of them: UTF-8, with or without a byte-order mark,
gzipped or not, its lines ended by \n, \r\n or \r, which all become \n. What is
no text is refused in one line that says what it is and how to make text of it.
"""

import codecs
import contextlib
import dataclasses
import glob
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator

from stacked_rnn.configs import UserError

PIECE = 2**20  # bytes read at a time
_HEAD = 2**12  # bytes that tell what a file is
_GZIP = b"\x1f\x8b"
_SAVE = "open it with its program and save it as plain text (UTF-8)"
# How a file begins -> what it is, and the way to a text.
_FORMATS = {
    b"PK\x03\x04": (
        "a zip archive, as .docx, .odt, .xlsx and .epub are",
        _SAVE,
    ),
    b"\xd0\xcf\x11\xe0": ("an old Word or Excel file", _SAVE),
    b"{\\rtf": ("rich text (RTF)", _SAVE),
    b"%PDF-": ("a PDF", "`pdftotext FILE` makes text of it"),
    b"\x89PNG": ("a picture", "leave it out"),
    b"\xff\xd8\xff": ("a picture", "leave it out"),
    b"GIF8": ("a picture", "leave it out"),
    b"RIFF": ("a picture or a sound", "leave it out"),
    b"BZh91AY&SY": ("packed by bzip2", "unpack it with `bunzip2`"),
    b"\xfd7zXZ": ("packed by xz", "unpack it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it with `unzstd`"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"SQLite format 3": ("an SQLite database", "export it as .csv"),
    b"PAR1": ("a Parquet file", "convert it to .csv or .jsonl"),
}


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file, or what comes through a pipe.

    Attributes:
        name: what errors call it.
        open_file: opens its bytes, each time from the beginning.
        is_stream: whether it is a pipe, so that its name says nothing.
        warnings: what was warned of already, in any of the files found with it.
    """

    name: str
    open_file: Callable
    is_stream: bool = False
    warnings: set = dataclasses.field(default_factory=set, compare=False)

    @contextlib.contextmanager
    def unpacked(self, binary=False):
        """Opens the bytes of the text.

        Args:
            binary: unpack only what is named .gz; else all that is gzipped.
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
    """The paths and globs of a list with commas.

    A comma belongs to a path where such a file exists.
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
    """The paths that a path or a glob stands for, none where there are none."""
    source = os.path.expanduser(source)
    # A path may hold the signs of a glob; as a path it comes first.
    return [source] if os.path.exists(source) else sorted(glob.glob(source))


def find(source, flag, names=()) -> list[TextFile]:
    """The files that a path, a glob, a directory or "-" stands for.

    Args:
        source: one of `parts`.
        flag: what an error calls it.
        names: what else could have been meant, for the error.

    Raises:
        UserError: there is none.
    """
    if source == "-":
        return [standard_input(flag)]
    paths = expand(source)
    if not paths:
        raise UserError(f"--{flag}={source}: {_why_missing(source, names)}")
    paths = [
        below
        for path in paths
        for below in (walk(path) if os.path.isdir(path) else [path])
    ]
    if not paths:
        raise UserError(
            f"--{flag}={source}: no files in this directory (hidden ones, runs "
            "and SavedModels are left out)"
        )
    warnings = set()  # of many pages one is named
    return [
        dataclasses.replace(text_file(path), warnings=warnings)
        for path in paths
    ]


def _why_missing(source, names):
    if source.startswith(("http://", "https://")):
        return "a file is needed: download it first"
    if names:
        return (
            "no such file, and no corpus of that name (there are "
            f"{', '.join(names)})"
        )
    return "no such file"


def walk(directory) -> list[str]:
    """The files below a directory, in order.

    What begins with a dot belongs to a tool, as .git does; runs and SavedModels
    are what is made of texts.
    """
    found = []
    for root, directories, files in os.walk(directory):
        if "saved_model.pb" in files or "config.flags" in files:
            directories.clear()
            continue
        if os.path.exists(os.path.join(root, "checkpoints", "model.json")):
            directories.clear()
            continue
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".") and not name.endswith(".partial")
        ]
        paths = (
            os.path.join(root, name)
            for name in files
            if not name.startswith(".")
        )
        found += [path for path in paths if os.path.isfile(path)]
    return sorted(found)


def text_file(path) -> TextFile:
    """A file; what a pipe gives is kept, since it comes only once."""

    def open_path():
        return open(path, "rb")

    try:
        is_stream = not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        is_stream = False
    if is_stream and not os.path.isdir(path):
        return TextFile(str(path), _keep(open_path), is_stream)
    return TextFile(str(path), open_path)


def standard_input(flag) -> TextFile:
    """Standard input, kept, since it comes only once."""
    if sys.stdin is None:
        raise UserError(f"--{flag}=-: standard input is closed")
    return TextFile(
        "standard input",
        _keep(lambda: contextlib.nullcontext(sys.stdin.buffer)),
        is_stream=True,
    )


def _keep(open_once):
    """A function that opens a copy of what can be read only once."""
    copies = []

    def open_copy():
        if not copies:
            with open_once() as stream:
                copies.append(tempfile.TemporaryFile())  # noqa: SIM115
                shutil.copyfileobj(stream, copies[0])
        copies[0].seek(0)
        return contextlib.nullcontext(copies[0])

    return open_copy


def read(
    file,
    flag,
    binary=False,
    any_bytes="",
    leave_out="",
    keep_line_ends=False,
) -> Iterator[str]:
    r"""The text of a `TextFile`, some of it at a time.

    Args:
        file: a `TextFile`.
        flag: what an error calls it.
        binary: take any bytes, as they are: those that are not UTF-8 become
            surrogates (`surrogateescape`), and a line may end as it likes.
        any_bytes: what an error advises for any bytes, besides converting them.
        leave_out: what it advises for what can never be a text.
        keep_line_ends: leave \r\n and \r as they are.

    Raises:
        UserError: naming the file, and where in it there is what is no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(
        "surrogateescape" if binary else "strict"
    )
    line_ends = io.IncrementalNewlineDecoder(None, not keep_line_ends)
    position = 0  # of the first byte that was not read yet
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
            bad = content.find(b"\0")
            try:
                text = decoder.decode(
                    content if bad < 0 else content[:bad], not content
                )
            except UnicodeDecodeError as error:
                start = error.start - pending
                before = content[: max(start, 0)]
                raise UserError(
                    f"--{flag}: {file.name} is not UTF-8 text (byte "
                    f"{position + start}, line {line + before.count(10)}): "
                    f"{_how_to_convert(file.name, content)}{_or(any_bytes)}"
                ) from None
            if bad >= 0:
                raise UserError(
                    f"--{flag}: {file.name} is a binary file (zero byte at "
                    f"{position + bad}, line "
                    f"{line + content[:bad].count(10)}): convert it to UTF-8"
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
    """All the text of a `TextFile`."""
    return "".join(read(file, flag))


def read_lines(file, flag) -> Iterator[str]:
    r"""Its lines: parts between \n, not all that `splitlines` cuts at."""
    rest = ""
    for text in read(file, flag):
        *lines, rest = (rest + text).split("\n")
        yield from lines
    if rest:
        yield rest


@contextlib.contextmanager
def named_errors(name, flag="corpus"):
    """Errors of reading name the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--{flag}: cannot read {name}: {reason}") from error


def _check_format(head, file, flag, leave_out):
    """Refuses what is known by its first bytes, and warns of HTML."""
    name = f"--{flag}: {file.name}"
    for begin, (what, way) in _FORMATS.items():
        if head.startswith(begin):
            raise UserError(
                f"{name} is no plain text but {what}: {way}{_or(leave_out)}"
            )
    if head[257:262] == b"ustar":
        raise UserError(
            f"{name} is a tar archive: unpack it, and give its directory"
            f"{_or(leave_out)}"
        )
    if encoding := _utf_16(head):
        raise UserError(
            f"{name} is {encoding} text: `iconv -f {encoding} -t UTF-8 "
            f"'{file.name}' > NEW` makes UTF-8 of it{_or(leave_out)}"
        )
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:20].lower()
    if begin.startswith((b"<!doctype html", b"<html")):
        if "html" not in file.warnings:
            print(
                f"warning: {name} is an HTML page, and tags are read as text: "
                "save pages as plain text to leave them out",
                file=sys.stderr,
            )
        file.warnings.add("html")


def _utf_16(head):
    """UTF-16 by its mark, or by the zero bytes of its Latin letters."""
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
    """Advice on bytes that are not UTF-8."""
    if any(byte < 9 or 13 < byte < 27 for byte in content[:_HEAD]):
        return "if it is text at all, convert it to UTF-8"
    return (
        "if it is Windows-1252, as older programs write, "
        f"`iconv -f CP1252 -t UTF-8 '{name}' > NEW` makes UTF-8 of it"
    )


def _or(advice):
    return f", or {advice}" if advice else ""
