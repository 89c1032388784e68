"""The fenced blocks of a page of Markdown, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^(`{3,})(\w*)\s*(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


class Block(NamedTuple):
    """What stands between two fences."""

    page: str
    line: int
    language: str
    title: str
    """The file that the block is the content of; empty if it is none."""
    not_run: str
    """Why the tests don't run it: what a comment before it says. Empty if they do."""
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    found: list[Block] = []
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        ticks, language, more = fence.groups()
        end = lines.index(ticks, number + 1)
        said = next((line for line in reversed(lines[:number]) if line.strip()), "")
        not_run = _NOT_RUN.fullmatch(said.strip())
        title = _TITLE.search(more)
        found.append(
            Block(
                path.name,
                number + 1,
                language,
                title[1] if title else "",
                not_run[1] if not_run else "",
                "\n".join(lines[number + 1 : end]) + "\n",
            )
        )
        number = end + 1
    return found


def commands(text: str) -> list[str]:
    """Return the commands of a shell block; a line goes on after a backslash or an open quote."""
    found: list[str] = []
    begun = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not begun and (not line.strip() or line.startswith("#")):
            continue
        begun = f"{begun}\n{line}" if begun else line
        if _is_whole(begun):
            found.append(begun)
            begun = ""
    if begun:
        raise ValueError(f"no closing quotation: {begun}")
    return found


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
