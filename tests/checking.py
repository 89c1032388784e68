"""Checks of versions in the tests' own process: importing TensorFlow for each takes long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ladle.export.saved_model import subprocess_check
from ladle.export.saved_model.subprocess_check import Answer, Checked, Loading, Request
from ladle.server.wiring.checking import program


def check_in_this_process(
    folder: Path,
    requests: Sequence[Request] = (),
    loading: Loading | None = None,
    *,
    every_signature: bool = False,
) -> Checked:
    """Stand in for `subprocess_check.check`."""
    return subprocess_check.check(
        folder, requests, loading, every_signature=every_signature, program=_report
    )


def run_in_this_process(
    folder: Path, requests: Sequence[Request], loading: Loading | None = None
) -> list[Answer]:
    """Stand in for `subprocess_check.run_in_subprocess`."""
    return check_in_this_process(folder, requests, loading).answers


def _report(order: Mapping[str, Any]) -> Mapping[str, Any]:
    return asdict(program.check(program.Order(**order)))
