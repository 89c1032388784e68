"""A notebook of TensorFlow's as docs/export.md has it: its cells, and what stands for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
_CODE = re.compile("`([^`]+)`")


class Notebook:
    """One section of the page: commands, and a table from cells to what is done here.

    A test takes the cells one by one, by the beginning of their text, and tries what stands for
    each; `left` are those that it has not taken.
    """

    def __init__(self, title: str) -> None:
        _, heading, rest = PAGE.partition(f"### {title}\n")
        assert heading, title
        section = re.split("^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
        self.commands = [
            shlex.split(line) for line in section.splitlines() if line.startswith("ladle ")
        ]
        rows = [line.strip("| ") for line in section.splitlines() if line.startswith("| ")]
        self._cells = dict(row.split(" | ", 1) for row in rows[1:])
        self._taken: set[str] = set()

    def cell(self, start: str) -> str:
        """Take the cell whose text begins so; return what stands for it."""
        (found,) = [cell for cell in self._cells if cell.startswith(start)]
        self._taken.add(found)
        return self._cells[found]

    def code(self, start: str) -> list[str]:
        """Take a cell; return the pieces of code that stand for it."""
        return _CODE.findall(self.cell(start))

    def options(self, start: str, command: Sequence[str]) -> list[str]:
        """Take a cell that options stand for; return the words of those not in `command`."""
        given = [shlex.split(code) for code in self.code(start) if code.startswith("--")]
        assert given, start
        there = " ".join(command)
        return [word for words in given if " ".join(words) not in there for word in words]

    @property
    def left(self) -> list[str]:
        """The cells that nobody has taken."""
        return [cell for cell in self._cells if cell not in self._taken]
