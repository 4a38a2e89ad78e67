"""Finds code, commands and links on the pages of the documentation."""

import dataclasses
import pathlib
import re
import shlex
import textwrap

from stacked_rnn import cli
from tests.helpers import ROOT

_BLOCK = re.compile(
    r"(?:<!-- (?P<name>\S+\.py) -->\n)?^ *```(?P<language>\w*)\n"
    r"(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?P<target>[^)\s]*)\)")
# Up to the end of the line, of code within a sentence, or of a table column.
_COMMAND = re.compile(
    r"(?:python (?P<script>\w+\.py)|stacked-rnn (?P<command>\w+))"
    r"(?P<rest>(?:(?!   |`|\n).)*)"
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page, a path below the project.
        line: number of the first line of the code.
        language: the word after the fence, such as `python`.
        code: the code.
        name: file name in a comment before the block: the block is a whole
            program. Empty: it continues the Python block before it.
    """

    page: str
    line: int
    language: str
    code: str
    name: str

    def run(self, namespace) -> None:
        """Runs the Python; a traceback has the line numbers of the page."""
        code = "\n" * (self.line - 1) + self.code
        exec(compile(code, ROOT / self.page, "exec"), namespace)


def paths() -> list[pathlib.Path]:
    """All pages, below the project."""
    return [
        path.relative_to(ROOT)
        for pattern in (
            "*.md", "docs/**/*.md", "deploy/*.md", "benchmarks/*.md",
            "experiments/*.md", "saved_models/*.md",
        )
        for path in sorted(ROOT.glob(pattern))
    ]  # fmt: skip


def blocks(page, language="python") -> list[Block]:
    """The blocks of one language on a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            str(page),
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            textwrap.dedent(match["code"]),
            match["name"] or "",
        )
        for match in _BLOCK.finditer(text)
        if match["language"] == language
    ]


def _prose(page) -> str:
    """The text of a page without its blocks and inline code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub("`[^`]*`", "", _BLOCK.sub("", text))


def links(page) -> list[str]:
    """The targets of all links and pictures of a page."""
    return _LINK.findall(_prose(page))


def anchors(page) -> set[str]:
    """What links to the headings of a page end with, as GitHub has them."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def commands(page) -> list[tuple[str, ...]]:
    """Lists the commands on a page, each a script and its arguments.

    A command without a script is in place of it, such as `stacked-rnn inspect`.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", text)  # continued in the next line
    text = re.sub('@echo "(.*)"', r"\1", text)  # of the Makefile
    found = []
    for match in _COMMAND.finditer(text):
        words = shlex.split(match["rest"], comments=True)
        ends = [i for i, word in enumerate(words) if word in (">", "<", "|")]
        arguments = words[: min(ends, default=None)]
        script = match["script"] or f"{match['command']}.py"
        if "--help" in arguments:
            continue
        if match["script"] and (ROOT / script).exists():
            found.append((script, *arguments))
        elif match["command"] in cli.COMMANDS and not (ROOT / script).exists():
            found.append((f"stacked-rnn {match['command']}", *arguments))
    return found
