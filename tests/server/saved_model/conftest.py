from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

ID = ServableId("m", 1)


@pytest.fixture(scope="session")
def half_plus_two(written_models: Path) -> Iterator[Model]:
    servable = load_saved_model(ID, written_models / "half_plus_two" / "1", LoadOptions())
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def half_plus_two_tf2(written_models: Path) -> Iterator[Model]:
    servable = load_saved_model(ID, written_models / "half_plus_two_tf2" / "1", LoadOptions())
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def oddities(written_models: Path) -> Iterator[Model]:
    servable = load_saved_model(ID, written_models / "oddities" / "1", LoadOptions())
    yield servable
    servable.close()
