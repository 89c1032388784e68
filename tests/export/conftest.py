"""What the export tests share: small valid data, and a version to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checking import run_in_this_process
from exporting import TF1Session
from numpy.typing import NDArray

from ladle.export import Dataset, load_data

if TYPE_CHECKING:
    from ladle.export import Exported  # brings TensorFlow, which few tests here need

Arrays = dict[str, NDArray[Any]]


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


@pytest.fixture
def small(arrays: Arrays) -> Dataset:
    """The same as a data set."""
    return Dataset.from_arrays("small", arrays)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Scikit-learn's handwritten digits."""
    return load_data("digits")


@pytest.fixture(scope="session")
def exported(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Published once for all tests that only read it; checked in a fresh process."""
    from ladle.export import export_model

    return export_model(tmp_path_factory.mktemp("models") / "digits", digits)


@pytest.fixture(scope="session")
def session(exported: Exported) -> Iterator[TF1Session]:
    """That version, loaded."""
    session = TF1Session(exported.path)
    yield session
    session.close()


@pytest.fixture
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check exports in this process: importing TensorFlow for each takes long.

    The version `exported`, of the whole session, is made before, and checked as it is for real.
    """
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
