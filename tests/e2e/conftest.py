from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checking import run_in_this_process
from e2e.serving import ServerProcess
from transports import TRANSPORTS, require

from ladle.export import TrainingOptions, export_model, load_data

SHARED = Path(__file__).resolve().parents[3] / "shared"


class Digits(NamedTuple):
    """A digits classifier, trained for a moment: published, and as Keras has it."""

    base_path: Path
    classifier: Any


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    from ladle.export.training import fitting as training

    trained: list[Any] = []

    def train(*args: Any, **kwargs: Any) -> Any:
        trained.append(training.train(*args, **kwargs))
        return trained[-1]

    base_path = tmp_path_factory.mktemp("models") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ladle.export.single_io.export.train", train)
        # A server in a process of its own loads it soon.
        patch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
        export_model(base_path, load_data("digits"), options=TrainingOptions(epochs=3))
    return Digits(base_path, trained[0])


@pytest.fixture(scope="session")
def digits(trained_digits: Digits) -> Path:
    """The base path of the digits classifier."""
    return trained_digits.base_path


@pytest.fixture(scope="session", params=sorted(TRANSPORTS))
def digits_server(digits: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server on the digits classifier, by each transport, for tests that leave it alone."""
    require(request.param)
    with ServerProcess("digits", digits, f"--transport={request.param}") as server:
        yield server


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """SavedModels that other programs wrote."""
    models = SHARED / "models"
    if not models.is_dir():
        pytest.skip(f"no SavedModels of other programs in {models}")
    return models
