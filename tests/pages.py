"""The blocks of Python on the pages of the documentation, to be run."""

import dataclasses
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
_BLOCK = re.compile(
    r"(?:<!-- (?P<name>\S+\.py) -->\n)?^(?P<indent> *)```python\n"
    r"(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


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
