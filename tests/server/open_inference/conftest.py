from __future__ import annotations

from collections.abc import Iterator

import pytest
from server.open_inference.harness import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of a module share."""
    with serving(tmp_path_factory.mktemp("open_inference")) as served:
        yield served
