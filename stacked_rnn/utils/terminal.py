"""Standard streams, warnings, progress bars, and paths given by flags."""

import contextlib
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

from stacked_rnn.configs import UserError

_PARTS_SHOWN = 20
# The fraction of unknown tokens above which to warn. In English prose, up to a
# twelfth of the words were not in the training text.
_MAX_UNKNOWN_SHARE = 0.1


def prepare_streams() -> None:
    """Lets standard output and error accept any character, even when closed.

    Output to a file or a pipe is UTF-8, unless PYTHONIOENCODING says otherwise;
    a character that the encoding lacks is written as an escape.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            keep_encoding = stream.isatty() or "PYTHONIOENCODING" in os.environ
            stream.reconfigure(
                encoding=None if keep_encoding else "utf-8",
                errors="backslashreplace",
            )


def discard(stream) -> None:
    """Discards what a stream has yet to write, and all further output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class SurvivingOutput:
    """A standard output that survives when its reader exits, as `head` does.

    After a failed write, standard error gets a note, and all further output is
    discarded.

    Args:
        stream: the standard output.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Writes a string, as `io.TextIOBase.write` does."""
        return self._survive(self._stream.write, text)

    def flush(self):
        """Flushes the stream, as `io.TextIOBase.flush` does."""
        self._survive(self._stream.flush)

    def _survive(self, write, *arguments):
        try:
            return write(*arguments)
        except OSError as error:  # a broken pipe, a terminal that is closed
            discard(self._stream)
            with contextlib.suppress(OSError):
                print(
                    f"note: cannot write the output ({error.strerror}); "
                    "the program continues",
                    file=sys.stderr,
                )
            return 0


def script(name) -> str:
    """Returns how to call another command in a shell, as this one was called.

    Args:
        name: name of the command, such as `generate`.
    """
    program = pathlib.Path(sys.argv[0])
    if program.suffix != ".py":  # the installed console command
        return f"{tool('stacked-rnn')} {name}"
    path = shlex.quote(str(program.with_name(f"{name}.py")))
    return f"{tool(pathlib.Path(sys.executable).name)} {path}"


def tool(name) -> str:
    """Returns how to call a program from this Python's directory in a shell."""
    path = pathlib.Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not path.exists() or (found and pathlib.Path(found) == path):
        return name
    if path.is_relative_to(pathlib.Path.cwd()):
        path = path.relative_to(pathlib.Path.cwd())
    return shlex.quote(str(path))


def duration(seconds) -> str:
    """Formats a number of seconds as minutes and seconds, such as 1:05."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"


def writable_directory(flag, path) -> pathlib.Path:
    """Returns the directory of a flag as a path; creates it if missing.

    Raises:
        UserError: no file can be written there.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(
            f"--{flag}={path}: cannot write there: {error.strerror}"
        ) from error


def writable_file(flag, path) -> pathlib.Path:
    """Returns the file of a flag as a path; creates its directory if missing.

    Raises:
        UserError: it cannot be written.
    """
    path = pathlib.Path(path)
    writable_directory(flag, path.parent)
    if path.is_dir():
        raise UserError(
            f"--{flag}={path}: cannot write it, a directory: name a file"
        )
    return path


@contextlib.contextmanager
def writing(flag, path):
    """Raises a `UserError` where the block cannot write the file of a flag."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--{flag}={path}: cannot write it: {error.strerror}"
        ) from error


def read_file(flag, path) -> bytes:
    """Reads the file of a flag.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--{flag}={path}: {error.strerror}") from error


def warn_of(count, problem) -> None:
    """Warns of a problem that some texts or pairs have, if any do."""
    if count:
        print(f"warning: {count:,} {problem}", file=sys.stderr)


def warn_of_unknown_parts(parts) -> None:
    """Warns of characters or words that a vocabulary lacks, if there are any.

    Args:
        parts: list of strings, from `Tokenizer.unknown_parts`.
    """
    if parts:
        print(
            "warning: not in the model's vocabulary, read as unknown: "
            + first_of(parts),
            file=sys.stderr,
        )


def first_of(parts) -> str:
    """Names the first of many characters or words, and how many follow."""
    shown = " ".join(map(repr, parts[:_PARTS_SHOWN]))
    if len(parts) > _PARTS_SHOWN:
        shown += f" and {len(parts) - _PARTS_SHOWN:,} more"
    return shown


def warn_of_unknown_share(share, tokenizer) -> None:
    """Warns if more than a tenth of the tokens of a text are unknown.

    Args:
        share: fraction of the tokens that are unknown.
        tokenizer: the tokenizer of the text.
    """
    if share <= _MAX_UNKNOWN_SHARE:
        return
    print(
        f"warning: {share:.0%} of the tokens are not in the vocabulary of "
        f"{tokenizer.vocabulary_size():,}: try a larger --vocabulary_size, "
        "or --tokenizer=subword, which has no unknown tokens",
        file=sys.stderr,
    )


@contextlib.contextmanager
def progress_bar(total, unit_name):
    """Shows a progress bar on standard error, if that is a terminal.

    Yields:
        A function to call with the number of units that are done.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    import keras

    bar = keras.utils.Progbar(total, unit_name=unit_name)

    def update(done):
        with contextlib.redirect_stdout(sys.stderr):  # Keras writes to stdout
            bar.update(done)

    yield update
