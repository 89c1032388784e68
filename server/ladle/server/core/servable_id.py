"""The name of one version of one model."""

from __future__ import annotations

from typing import NamedTuple


class ServableId(NamedTuple):
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"
