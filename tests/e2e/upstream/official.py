"""Runs what tests/conformance has in the environment of the package tensorflow-serving-api."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]


def told_by(python: str, module: str, *arguments: str | Path) -> Any:
    """Run a module of the package `conformance`, and return what it tells, in JSON."""
    ended = subprocess.run(
        [python, "-m", f"conformance.{module}", *arguments],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
