"""Corpora by name or path, and their split.

Text is a byte string, as TensorFlow's string ops want it.
"""

import dataclasses
import functools
import glob
import gzip
import hashlib
import os
import pathlib
import pydoc_data.topics
import sys

import keras

from stacked_rnn.configs import UserError


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


def read_corpus(corpus, binary=False, skip_bad_files=False) -> bytes:
    """The text that `--corpus` names.

    Args:
        corpus: "pydoc", a name in `DOWNLOADS`, a path, a directory with all
            that is below it, a glob, "-" for standard input, or several of
            these separated by commas, whose texts are joined in order. Files
            that end in .gz are unpacked.
        binary: take files of any bytes; otherwise only UTF-8 text.
        skip_bad_files: leave those out, with a warning each, that cannot be
            read, are empty or not text.

    Raises:
        UserError: naming the file that is missing, empty or not text.
    """
    texts = []
    for source in corpus.split(","):
        for name, read in _find(source.strip()):
            try:
                content = read()
                if not content:
                    raise UserError(f"--corpus: {name} is empty")
                if not binary:
                    content = _checked_text(name, content)
            except UserError as error:
                if not skip_bad_files:
                    raise
                print(f"warning: skipped: {error}", file=sys.stderr)
            else:
                texts.append(content)
    if not texts:
        raise UserError(f"--corpus={corpus}: none of its files can be read")
    return b"".join(texts)


def _find(source):
    """Yields (name, function that reads) of each file that a source names."""
    if source == "pydoc":
        yield source, _read_pydoc
    elif source in DOWNLOADS:
        yield source, lambda: _read_file(_download(source))
    elif source == "-":
        yield "standard input", sys.stdin.buffer.read
    else:
        for path in _find_paths(source):
            yield path, functools.partial(_read_file, path)


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
    # A path may hold the signs of a glob; as a path it comes first.
    paths = [source] if os.path.exists(source) else sorted(glob.glob(source))
    if not paths:
        raise UserError(
            f"--corpus={source}: no such file, and no corpus of that name "
            f"(there are pydoc, {', '.join(DOWNLOADS)})"
        )
    return paths


def _read_pydoc() -> bytes:
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip() for name in sorted(topics)).encode()


def _read_file(path) -> bytes:
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            return file.read()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--corpus: cannot read {path}: {reason}") from error


def _checked_text(name, content) -> bytes:
    """The content without a byte-order mark; raises where it is not text."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    remedy = "convert it to UTF-8, or take --tokenizer=byte for any file"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--corpus: {name} is not UTF-8 text (byte {error.start}): {remedy}"
        ) from None
    if b"\0" in content:
        raise UserError(
            f"--corpus: {name} is a binary file (zero byte at "
            f"{content.index(0)}): {remedy}"
        )
    return content


def _download(name) -> str:
    """Path of a corpus in the Keras cache; fetched where it is not there.

    A file that is there already is taken as it is, with a note where it is not
    the published one: somebody put it there.
    """
    download = DOWNLOADS[name]
    cache = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    path = os.path.join(cache, "datasets", f"{name}.txt")
    if os.path.exists(path):
        if _digest(path, download.algorithm) != download.digest:
            print(f"note: {path} differs from {download.url}", file=sys.stderr)
        return path
    try:
        fetched = keras.utils.get_file(
            os.path.basename(path), download.url, cache_dir=cache
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


def _digest(path, algorithm) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def split_text(text, validation_fraction) -> tuple[bytes, bytes]:
    """Cuts the last part of a text off: (training text, validation text).

    The cut is counted in characters and never falls inside one.
    """
    characters = text.decode("utf-8", "surrogateescape")
    cut = int(len(characters) * (1 - validation_fraction))
    return tuple(
        part.encode("utf-8", "surrogateescape")
        for part in (characters[:cut], characters[cut:])
    )
