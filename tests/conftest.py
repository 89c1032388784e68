from __future__ import annotations

import os
from pathlib import Path

import pytest

_PYTHON = Path(__file__).resolve().parents[1] / ".venv-conformance/bin/python"


@pytest.fixture(scope="session")
def conformance_python() -> str:
    """The Python that has tensorflow-serving-api installed, for use in a process of its own."""
    if not _PYTHON.exists():
        reason = f"no {_PYTHON}; `make e2e` makes it"
        if os.environ.get("CI"):
            pytest.fail(reason)  # CI that skips this would guard nothing
        pytest.skip(reason)
    return str(_PYTHON)
