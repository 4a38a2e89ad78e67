"""Writes docs/commands.md: what the --help of each command prints.

`python docs/write_commands.py` writes the page. With `--check` it writes
nothing, and exits with 1 where the page is out of date.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/commands.md"
COMMANDS = (
    "train", "tune", "generate", "evaluate", "predict", "inspect", "export",
    "serve",
)  # fmt: skip
INTRODUCTION = """\
<!-- Written by docs/write_commands.py: do not edit. -->
# Commands

Every command and every flag, as `--help` prints them. The pages on
[training](train.md), [tuning](tune.md), [generating](generate.md),
[looking inside](inspect.md), [classifying](classify.md),
[rewriting](rewrite.md) and [serving](serve.md) explain how to use them.
"""


_PROGRAM = "from stacked_rnn import cli; cli.main()"


def help_of(command) -> str:
    """What the `--help` of a command prints, 80 columns wide."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, command, "--help"],
        env=os.environ | {"COLUMNS": "80"}, cwd=ROOT,
        capture_output=True, check=True, encoding="utf-8", timeout=60,
    ).stdout  # fmt: skip


def page() -> str:
    """The whole page."""
    sections = [
        f"## {_title(command)}\n\n```text\n{help_of(command)}```\n"
        for command in COMMANDS
    ]
    return "\n".join([INTRODUCTION, *sections])


def _title(command):
    script = f"{command}.py"
    return script if (ROOT / script).exists() else f"stacked-rnn {command}"


def main(arguments) -> int:
    """Writes or checks the page; returns the exit code."""
    text = page()
    if arguments == ["--check"]:
        is_current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not is_current:
            print(
                f"{PAGE.relative_to(ROOT)} is out of date: "
                "run python docs/write_commands.py",
                file=sys.stderr,
            )
        return int(not is_current)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
