"""The echo in C++, `echo.cc`: built where a compiler and Debian's libgrpc++-dev are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[1]
_SOURCE = _FOLDER / "echo.cc"
_PROGRAM = _FOLDER.parent / "build" / "benchmarks" / "echo"


def built() -> Path | None:
    """Return the program, compiled if it has to be; None, and a line that says why, without it."""
    if _PROGRAM.exists() and _PROGRAM.stat().st_mtime > _SOURCE.stat().st_mtime:
        return _PROGRAM
    if not (shutil.which("g++") and shutil.which("pkg-config")):
        print("no echo in C++: it needs g++, pkg-config and libgrpc++-dev")
        return None
    try:
        flags = _said("pkg-config", "--cflags", "--libs", "grpc++").split()
        _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        _said("g++", "-O2", "-std=c++17", "-o", str(_PROGRAM), str(_SOURCE), *flags)
    except subprocess.CalledProcessError as error:
        print(f"no echo in C++: {(error.stderr.splitlines() or [str(error)])[0]}")
        return None
    return _PROGRAM


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
