from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import saved_models

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


@pytest.fixture(scope="session")
def written_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base paths of the models that saved_models.py writes, version 1 each."""
    folder = tmp_path_factory.mktemp("written_models")
    saved_models.write_half_plus_two(folder / "half_plus_two" / "1")
    saved_models.write_half_plus_two_tf2(folder / "half_plus_two_tf2" / "1")
    tf2 = folder / "half_plus_two_tf2" / "1"
    saved_models.write_tflite(folder / "half_plus_two_tflite" / "1", tf2)
    saved_models.write_oddities(folder / "oddities" / "1")
    saved_models.write_misfits(folder / "misfits" / "1")
    saved_models.write_oddities(folder / "tagged" / "1", "serve", "odd")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, which asks nobody on the network for anything by itself."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "no chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)  # CI that skips this would guard nothing
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",  # as root it has none
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()
