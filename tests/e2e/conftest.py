from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.serving import ServerProcess

from ladle.export import TrainingOptions, export_classifier, load_data

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of a digits classifier, trained for a moment."""
    base_path = tmp_path_factory.mktemp("models") / "digits"
    export_classifier(base_path, load_data("digits"), options=TrainingOptions(epochs=3))
    return base_path


@pytest.fixture(scope="session")
def digits_server(digits: Path) -> Iterator[ServerProcess]:
    """A server on the digits classifier, for all tests that leave it alone."""
    with ServerProcess("digits", digits) as server:
        yield server


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """SavedModels that other programs wrote."""
    models = SHARED / "models"
    if not models.is_dir():
        pytest.skip(f"no SavedModels of other programs in {models}")
    return models
