"""Servers refuse some requests and die one after the other: a run ends, with every row once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch.conftest import answer, function_model
from numpy.typing import NDArray

from ladle.batch import cli
from ladle.client import Unavailable
from ladle.client.testing import FunctionServer

ROWS = 20_000
# A run that waits for nothing fails its test, and doesn't wait with it.
pytestmark = pytest.mark.timeout(120)


class RefusingModel:
    """Answers, but refuses one request in `one_in` at random, and stops servers along the way."""

    def __init__(self, one_in: int, seed: int) -> None:
        self.doomed: list[tuple[int, FunctionServer]] = []
        """After how many requests which server is stopped, in ascending order."""
        self._one_in = one_in
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._requests = 0

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._lock:
            self._requests += 1
            is_refused = self._random.random() * self._one_in < 1
            if self.doomed and self._requests >= self.doomed[0][0]:
                threading.Thread(target=self.doomed.pop(0)[1].stop).start()
        if is_refused:
            raise Unavailable("the queue is full")
        return answer(inputs["x"])


@pytest.fixture
def x() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 255, (ROWS, 4), dtype=np.uint8)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("one_in", [400, 200, 100, 50, 7])
@pytest.mark.parametrize("seed", range(2))
def test_every_row_is_there_once_though_requests_are_refused_and_servers_die(
    one_in: int, seed: int, npy: Path, x: NDArray[np.uint8], tmp_path: Path, servers: ExitStack
) -> None:
    chance, model = random.Random(seed), RefusingModel(one_in, seed)
    first, *others = [
        servers.enter_context(FunctionServer({"m": function_model(model)})) for _ in range(3)
    ]
    after = (chance.randrange(100, 250), chance.randrange(250, 400))
    model.doomed = list(zip(after, others, strict=True))
    out = tmp_path / "out"
    addresses = ",".join(server.address for server in (first, *others))
    arguments = ["--server", addresses, "--model", "m", "--input", str(npy), "--output", str(out)]
    arguments += ["--output-format", "npy", "--rows-per-request", "40", "--shard-rows", "7000"]
    assert cli.main(arguments) == 0
    assert not model.doomed
    found = {
        name: np.concatenate([np.load(part) for part in sorted(out.glob(f"part-*.{name}.npy"))])
        for name in ("row", "total")
    }
    assert found["row"].tolist() == list(range(ROWS))
    assert found["total"].tolist() == answer(x)["total"].tolist()
