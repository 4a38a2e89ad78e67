"""The commands: `stacked-rnn COMMAND`, most of them also COMMAND.py."""

import importlib
import sys

COMMANDS = (
    "train", "tune", "generate", "evaluate", "predict", "inspect", "export",
    "serve",
)  # fmt: skip


def main() -> None:
    """Runs the command that the first argument names: `stacked-rnn`."""
    name, arguments = (sys.argv[1:] or ["--help"])[0], sys.argv[2:]
    if name in ("-h", "-help", "--help"):
        print("stacked-rnn COMMAND --flag=value ...\n")
        for command in COMMANDS:
            first_line = _module(command).__doc__.splitlines()[0]
            print(f"  {command:<10}{first_line}")
        print("\nstacked-rnn COMMAND --help lists the flags of a command.")
    elif name in COMMANDS:
        sys.argv = [f"{sys.argv[0]} {name}", *arguments]
        _module(name).run()
    else:
        print(
            f"stacked-rnn: error: {name!r}: no such command: choose from "
            + ", ".join(COMMANDS),
            file=sys.stderr,
        )
        sys.exit(2)


def _module(command):
    return importlib.import_module(f"stacked_rnn.cli.{command}")
