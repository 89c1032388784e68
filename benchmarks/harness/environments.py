"""Environments of their own for the servers that are compared, made once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
_BORROW = _REPOSITORY / "tests" / "conformance" / "borrow.py"
_INSTALL_TIMEOUT_S = 900


class CannotInstall(Exception):
    """An environment could not be made; the message says why, in one line."""


def prepare(folder: Path, requirements: Path) -> Path:
    """Return the Python of an environment that holds `requirements`; installs them if it must.

    What they don't bring, TensorFlow above all, it borrows from the environment that runs this.

    Raises:
        CannotInstall: pip failed, or took too long.
    """
    python = folder / "bin" / "python"
    stamp = folder / "made-of"
    content = hashlib.sha256(requirements.read_bytes() + sys.prefix.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == content:
        return python
    print(f"making the environment {folder}", flush=True)
    try:
        venv.create(folder, clear=True, with_pip=True)
        _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(requirements))
        _run(python, str(_BORROW), sys.prefix)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotInstall(_in_one_line(error)) from error
    stamp.write_text(content)
    return python


def _run(python: Path, *arguments: str) -> None:
    subprocess.run(
        [python, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_S,
        preexec_fn=lambda: os.nice(10),
    )


def _in_one_line(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
    errors = [line for line in said.splitlines() if line.startswith("ERROR")]
    return (errors or said.splitlines()[-1:] or [str(error)])[0]
