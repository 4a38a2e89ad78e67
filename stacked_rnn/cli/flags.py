"""Flags generated from the config dataclasses; the entry of every command.

TensorFlow is imported after the flags are checked, so that `--help` and a
mistyped flag answer at once.
"""

import contextlib
import errno
import gc
import os
import re
import shutil
import sys
import textwrap
import time

from absl import app, flags, logging

from stacked_rnn import configs
from stacked_rnn.configs import UserError
from stacked_rnn.utils import quiet_import, terminal

STARTED = time.monotonic()  # when the command began, from which limits count
# Flags without effect that earlier versions wrote to config.flags.
_RETIRED = ("end_of_text",)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(main, *config_classes) -> None:
    """Parses the flags and runs a command with the resulting configurations.

    A `UserError`, a full disk or a lack of memory becomes one line on standard
    error and exit code 2; Ctrl-C becomes exit code 130.

    Args:
        main: called with one instance of each of `config_classes`, in order.
            The docstring of its module begins the `--help`.
        *config_classes: the `Config` classes whose fields become flags.
    """
    terminal.prepare_streams()
    sys.argv = [
        os.fsencode(argument).decode("utf-8", "surrogateescape")
        for argument in sys.argv
    ]
    program = os.path.basename(sys.argv[0])
    description = main.__globals__["__doc__"] or ""
    sys.modules["__main__"].__doc__ = description  # for the --helpfull of absl
    for config_class in config_classes:
        for field in configs.user_settings(config_class):
            _define_flag(field)
    for name in _RETIRED:
        flags.DEFINE_bool(name, False, "Ignored.")

    def parse(arguments):
        with _errors_in_a_line(program):
            if {"-h", "-help", "--help"} & set(arguments[1:]):
                print(_help(description, config_classes), flush=True)
                sys.exit(0)
            try:
                return flags.FLAGS(arguments)
            except (flags.Error, ValueError) as error:
                raise UserError(_reworded(error)) from error

    def guarded(arguments):
        with _errors_in_a_line(program):
            values = [_from_flags(cls) for cls in config_classes]
            if len(arguments) > 1:
                raise UserError(
                    f"{arguments[1]!r} is not a flag: write --name=value (see "
                    "--help)"
                )
            quiet_import.import_tensorflow(with_extras=False)
            # The collector would look through modules and graphs again and
            # again.
            gc.freeze()
            gc.set_threshold(50_000, 10, 10)
            if not flags.FLAGS["verbosity"].present:  # absl says INFO
                logging.set_verbosity(logging.WARNING)
            main(*values)
            sys.stdout.flush()  # what fails at the exit ends in a traceback

    app.run(guarded, flags_parser=parse)


@contextlib.contextmanager
def _errors_in_a_line(program):
    """Turns errors that need no traceback into one line and an exit code."""
    try:
        yield
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the pipe has ended, as head does
        terminal.discard(sys.stdout)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        print(
            f"{program}: error: cannot write "
            f"{error.filename or 'the output'}: {error.strerror}: free some "
            "space, and run the same command again",
            file=sys.stderr,
        )
        if not error.filename:
            terminal.discard(sys.stdout)
        sys.exit(2)
    except Exception as error:
        # By name: an import of TensorFlow takes seconds.
        is_oom = type(error).__name__ == "ResourceExhaustedError"
        if not is_oom or "No space left on device" in str(error):
            raise
        print(
            f"{program}: error: out of memory: end what else uses it, or ask "
            "for less at once; CUDA_VISIBLE_DEVICES=-1 leaves the GPU out",
            file=sys.stderr,
        )
        sys.exit(2)


def _help(description, config_classes) -> str:
    """The text of `--help`: the command's description, then groups of flags."""
    width = min(shutil.get_terminal_size().columns, 100)

    def wrapped(text, indent):
        return textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent
        )

    lines = [description.strip()]
    for config_class in config_classes:
        lines += ["", wrapped(config_class.__doc__.split("\n\n")[0], "")]
        for field in configs.user_settings(config_class):
            rules, default = field.metadata, field.default
            if configs.is_switch(field):
                name, shown = f"--[no]{field.name}", str(default).lower()
            else:
                values = "|".join(rules["choices"] or ["..."])
                name, shown = f"--{field.name}={values}", str(default)
            if default not in ("", (), None):
                name += f"  ({shown})"
            lines += [f"  {name}", wrapped(rules["help"], " " * 6)]
    footer = (
        "--flagfile=FILE reads flags from a file, one per line. --helpfull "
        "lists those of the libraries, too."
    )
    return "\n".join([*lines, "", wrapped(footer, "")])


def _reworded(error) -> str:
    """An error of absl in the style of the commands' own messages."""
    message = " ".join(str(error).replace("ERROR::", "").split())
    flag = r"^flag (--\w+=.*): "
    for pattern, replacement in (
        (r"^Unknown command line flag '(\w+)'", r"--\1: there is no such flag"),
        (r"Did you mean: (\w+) \?$", r"Did you mean --\1?"),
        (flag + "invalid literal for int.*", r"\1: not a whole number"),
        (flag + "could not convert .*", r"\1: not a number"),
        (flag + ".*Non-boolean.*", r"\1: neither true nor false"),
        (flag + "value should be one of <(.*)>", r"\1: choose from \2"),
        (r"^Unable to open flagfile: .*\] (.*): '(.*)'", r"--flagfile=\2: \1"),
    ):
        message = re.sub(pattern, replacement, message)
    return message


def _define_flag(field) -> None:
    """Defines the absl flag of a field."""
    name, default, rules = field.name, field.default, field.metadata
    if rules["choices"]:
        flags.DEFINE_enum(name, default, rules["choices"], rules["help"])
    elif configs.is_switch(field):
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
            for field in configs.user_settings(config_class)
        }
    )


def given_flags() -> set[str]:
    """Names of the flags on the command line and in its flag files."""
    return {
        name
        for name in flags.FLAGS
        if flags.FLAGS[name].present and name not in _RETIRED
    }


def refuse_given(names, why) -> None:
    """Raises a `UserError` where the user has given one of these flags."""
    given = sorted(given_flags() & set(names))
    if given:
        raise UserError(", ".join(f"--{name}" for name in given) + f": {why}")
