"""From the fields of the configurations to flags and back, and the way in.

Imports no TensorFlow before the flags are checked: `--help` and a mistyped flag
answer at once.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile
import textwrap

from absl import app, flags, logging

from stacked_rnn.configs import UserError

_UNKNOWN_PARTS_SHOWN = 20
# Of the tokens, from which on it is said. Words of English prose that were not
# in the training text are up to a twelfth.
_UNKNOWN_SHARE = 0.1
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(main, *config_classes) -> None:
    """Runs a command: flags in, one configuration of each class to `main`.

    Called from the script that holds `main`. A `UserError` becomes one line on
    standard error and exit code 2, as does a full disk; Ctrl-C, exit code 130.

    Args:
        main: called with one instance of each of `config_classes`, in order.
        *config_classes: the `Config` classes whose fields become flags.
    """
    _prepare_streams()
    sys.argv = [
        os.fsencode(argument).decode("utf-8", "surrogateescape")
        for argument in sys.argv
    ]
    program = os.path.basename(sys.argv[0])
    script = sys.modules["__main__"]
    if not script.__doc__:  # an installed entry point has no text of its own
        script.__doc__ = main.__globals__["__doc__"]
    for config_class in config_classes:
        for field in dataclasses.fields(config_class):
            _define_flag(field)

    def parse(arguments):
        with _errors_in_a_line(program):
            if {"-h", "-help", "--help"} & set(arguments[1:]):
                print(_help(script.__doc__, config_classes), flush=True)
                sys.exit(0)
            try:
                return flags.FLAGS(arguments)
            except (flags.Error, ValueError) as error:
                raise UserError(_in_words(error)) from error

    def guarded(arguments):
        with _errors_in_a_line(program):
            values = [_from_flags(kind) for kind in config_classes]
            if len(arguments) > 1:
                raise UserError(
                    f"{arguments[1]!r} is not a flag: every option is one, "
                    "such as --name=value (see --help)"
                )
            _import_tensorflow_quietly()
            if not flags.FLAGS["verbosity"].present:  # absl says INFO
                logging.set_verbosity(logging.WARNING)
            main(*values)

    app.run(guarded, flags_parser=parse)


@contextlib.contextmanager
def _errors_in_a_line(program):
    """Ends the process in one line where that is all there is to say."""
    try:
        yield
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        print(
            f"{program}: error: cannot write "
            f"{error.filename or 'a file'}: {error.strerror}: free some "
            "space, and give the same command again",
            file=sys.stderr,
        )
        sys.exit(2)


def _help(text, config_classes) -> str:
    """What `--help` says: the script's own text, then its flags in groups."""
    width = min(shutil.get_terminal_size().columns, 100)

    def wrapped(text, indent):
        return textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent
        )

    lines = [text.strip()]
    for config_class in config_classes:
        lines += ["", wrapped(config_class.__doc__.split("\n\n")[0], "")]
        for field in dataclasses.fields(config_class):
            rules, default = field.metadata, field.default
            if rules["is_internal"]:
                continue
            if _is_switch(field):
                name, shown = f"--[no]{field.name}", str(default).lower()
            else:
                values = "|".join(rules["choices"] or ["..."])
                name, shown = f"--{field.name}={values}", default
            if default not in ("", (), None):
                name += f"  ({shown})"
            lines += [f"  {name}", wrapped(rules["help"], " " * 6)]
    lines += [
        "",
        "--flagfile=FILE reads flags from a file, one a line. --helpfull lists "
        "those of the libraries, too.",
    ]
    return "\n".join(lines)


def _in_words(error) -> str:
    """A mistake that absl found, as the commands' own messages are."""
    message = " ".join(str(error).replace("ERROR::", "").split())
    flag = r"^flag (--\w+=.*): "
    for found, meant in (
        (r"^Unknown command line flag '(\w+)'", r"--\1: there is no such flag"),
        (r"Did you mean: (\w+) \?$", r"Did you mean --\1?"),
        (flag + "invalid literal for int.*", r"\1: not a whole number"),
        (flag + "could not convert .*", r"\1: not a number"),
        (flag + ".*Non-boolean.*", r"\1: true or false?"),
        (flag + "value should be one of <(.*)>", r"\1: choose from \2"),
        (r"^Unable to open flagfile: .*\] (.*): '(.*)'", r"--flagfile=\2: \1"),
    ):
        message = re.sub(found, meant, message)
    return message


def _is_switch(field) -> bool:
    return field.type in (bool, bool | None)


def _prepare_streams() -> None:
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


def _define_flag(field) -> None:
    """Defines the absl flag of one field, listed in the script's `--help`."""
    name, default, rules = field.name, field.default, field.metadata
    if rules["choices"]:
        flags.DEFINE_enum(name, default, rules["choices"], rules["help"])
    elif _is_switch(field):
        flags.DEFINE_bool(name, default, rules["help"])
    elif field.type is int:
        flags.DEFINE_integer(name, default, rules["help"])
    elif field.type is float:
        flags.DEFINE_float(name, default, rules["help"])
    elif field.type is str:
        flags.DEFINE_string(name, default, rules["help"])
    else:  # tuple[str, ...]: a flag that may be repeated
        flags.DEFINE_multi_string(name, list(default), rules["help"])
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _from_flags(config_class):
    """The configuration that the parsed flags describe."""
    values = flags.FLAGS.flag_values_dict()
    return config_class.from_dict(
        {
            field.name: values[field.name]
            for field in dataclasses.fields(config_class)
        }
    )


def given_flags() -> set[str]:
    """Names of the flags that stood on the command line or in a flag file."""
    return {name for name in flags.FLAGS if flags.FLAGS[name].present}


def refuse_given(names, why) -> None:
    """Raises a `UserError` where somebody gave one of some flags."""
    given = sorted(given_flags() & set(names))
    if given:
        raise UserError(", ".join(f"--{name}" for name in given) + f": {why}")


def to_flags(*values) -> str:
    """Configurations as a text for `--flagfile`: one flag a line."""
    lines = []
    for config in values:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if isinstance(value, bool):
                lines.append(
                    f"--{field.name}" if value else f"--no{field.name}"
                )
            elif value is not None:
                lines.append(f"--{field.name}={value}")
    return "\n".join(lines) + "\n"


def script(name) -> str:
    """What a shell calls another script by, as this one was called.

    Args:
        name: as `generate`.
    """
    program = pathlib.Path(sys.argv[0])
    if program.suffix != ".py":  # it is installed
        return tool(f"stacked-rnn-{name}")
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


def _import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its native start-up notices.

    They are written before any log level takes effect. If the import fails,
    all that it wrote is shown. Of a GPU's memory it takes what it needs, not
    all there is: another process may want the same GPU.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # Whatever other work in this account has Keras set to.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    with tempfile.TemporaryFile() as notices, contextlib.ExitStack() as stack:
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for a CUDA driver
        except BaseException:
            os.dup2(stderr, 2)
            notices.seek(0)
            sys.stderr.write(notices.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(stderr, 2)
