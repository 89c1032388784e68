"""The conformance table has 88 rows, and each is held by a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]


def test_every_row_is_held() -> None:
    rows: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for numbers in re.findall(r"^@row\(([\d, ]+)\)$", path.read_text(), re.MULTILINE):
            rows.update(map(int, numbers.split(",")))
    assert rows == set(range(1, 89))
