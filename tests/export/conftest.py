"""What the export tests share: small valid data, and the command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def arrays() -> Arrays:
    """Twelve 4x4 training images of three classes, and six held out."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (12, 4, 4), np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 4), np.uint8),
        "y_test": np.arange(6) % 3,
    }


@pytest.fixture
def npz(tmp_path: Path, arrays: Arrays) -> Path:
    """The same as a file."""
    path = tmp_path / "small.npz"
    # To mypy one of the arrays could be allow_pickle.
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def ladle_export() -> Command:
    """Run `ladle export` with the given arguments, in a process of its own."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ladle.cli", "export", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run
