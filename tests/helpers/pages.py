"""Finds blocks of Python and commands on the pages of the documentation."""

import dataclasses
import re
import shlex
import textwrap

from tests.helpers import ROOT

_BLOCK = re.compile(
    r"(?:<!-- (?P<name>\S+\.py) -->\n)?^(?P<indent> *)```python\n"
    r"(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# Up to the end of the line, of the code within a sentence, or of the columns.
_COMMAND = re.compile(r"python (?P<script>\w+\.py)(?P<rest>(?:(?!   |`|\n).)*)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of Python.

    Attributes:
        page: where it stands, a path below the project.
        line: its first one there.
        code: as it stands there.
        name: of the file that it is, in a comment before it; "": it goes on
            where the block before it on the page ended.
    """

    page: str
    line: int
    code: str
    name: str

    def run(self, namespace) -> None:
        """Runs it; a traceback has the lines of the page."""
        code = "\n" * (self.line - 1) + self.code
        exec(compile(code, ROOT / self.page, "exec"), namespace)


def blocks(page) -> list[Block]:
    """All blocks of a page, a path below the project, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            str(page),
            text.count("\n", 0, match.start("code")) + 1,
            textwrap.dedent(match["code"]),
            match["name"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]


def commands(page) -> list[tuple[str, ...]]:
    """The commands of this project on a page: a script and its arguments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", text)  # goes on in the next line
    text = re.sub('@echo "(.*)"', r"\1", text)  # of the Makefile
    found = []
    for match in _COMMAND.finditer(text):
        words = shlex.split(match["rest"], comments=True)
        ends = [i for i, word in enumerate(words) if word in (">", "<", "|")]
        arguments = words[: min(ends, default=None)]
        if (ROOT / match["script"]).exists() and "--help" not in arguments:
            found.append((match["script"], *arguments))
    return found
