"""Streams, warnings, progress bars, and paths that flags name."""

import contextlib
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

from stacked_rnn.configs import UserError

_UNKNOWN_PARTS_SHOWN = 20
# The share of unknown tokens from which a warning is due. In English prose, up
# to a twelfth of the words were not in the training text.
_UNKNOWN_SHARE = 0.1


def prepare_streams() -> None:
    """Makes standard streams that no character and no closed one stops.

    Output to a file or a pipe is UTF-8, unless PYTHONIOENCODING says otherwise;
    what an encoding lacks is written as an escape.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            is_asked_for = stream.isatty() or "PYTHONIOENCODING" in os.environ
            stream.reconfigure(
                encoding=None if is_asked_for else "utf-8",
                errors="backslashreplace",
            )


class SurvivingOutput:
    """A standard output whose reader may leave, as `head` does.

    Once it fails, all that is written is dropped, and standard error says so.

    Args:
        stream: the standard output.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """As of a stream."""
        return self._survive(self._stream.write, text)

    def flush(self):
        """As of a stream."""
        self._survive(self._stream.flush)

    def _survive(self, write, *arguments):
        try:
            return write(*arguments)
        except OSError as error:  # a broken pipe, a terminal that is closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            with contextlib.suppress(OSError):
                print(
                    f"note: the output cannot be written ({error.strerror}); "
                    "the work goes on",
                    file=sys.stderr,
                )
            return 0


def script(name) -> str:
    """What a shell calls another command by, as this one was called.

    Args:
        name: of the command, such as `generate`.
    """
    program = pathlib.Path(sys.argv[0])
    if program.suffix != ".py":  # it is installed
        return f"{tool('stacked-rnn')} {name}"
    path = shlex.quote(str(program.with_name(f"{name}.py")))
    return f"{tool(pathlib.Path(sys.executable).name)} {path}"


def tool(name) -> str:
    """What a shell calls a program beside this Python by."""
    path = pathlib.Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if not path.exists() or (found and pathlib.Path(found) == path):
        return name
    if path.is_relative_to(pathlib.Path.cwd()):
        path = path.relative_to(pathlib.Path.cwd())
    return shlex.quote(str(path))


def writable_directory(flag, path) -> pathlib.Path:
    """The directory that a flag names, made where it is missing.

    Raises:
        UserError: nothing can be written there.
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


def read_file(flag, path) -> bytes:
    """The file that a flag names.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--{flag}={path}: {error.strerror}") from error


def warn_of_unknown_parts(parts) -> None:
    """Says on standard error, in one line, what a vocabulary lacks.

    Args:
        parts: what `Tokenizer.unknown_parts` found; where it is empty, nothing
            is said.
    """
    if not parts:
        return
    shown = " ".join(map(repr, parts[:_UNKNOWN_PARTS_SHOWN]))
    if len(parts) > _UNKNOWN_PARTS_SHOWN:
        shown += f" and {len(parts) - _UNKNOWN_PARTS_SHOWN:,} more"
    print(
        f"warning: not in the model's vocabulary, read as unknown: {shown}",
        file=sys.stderr,
    )


def warn_of_unknown_share(share, tokenizer) -> None:
    """Says, where it is more than a few per cent, how much is unknown.

    Args:
        share: of the tokens of a text.
        tokenizer: that cut it.
    """
    if share <= _UNKNOWN_SHARE:
        return
    print(
        f"warning: {share:.0%} of the tokens are unknown to the vocabulary of "
        f"{tokenizer.vocabulary_size():,}: try a larger --vocabulary_size, "
        "or --tokenizer=subword, which knows all",
        file=sys.stderr,
    )


@contextlib.contextmanager
def progress_bar(total, unit_name):
    """A function that shows how many are done, on standard error.

    Shows nothing where that is no terminal.
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
