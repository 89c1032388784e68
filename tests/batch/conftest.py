"""A server with a model, and the command that asks it, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.batch import cli
from ladle.client import InvalidInput
from ladle.client.testing import FunctionModel, FunctionServer

POISON = 255
"""A request with a row that begins with this fails."""


@dataclass
class Model:
    """Answers each row of four numbers with two scores; remembers what it was asked."""

    rows: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda rows: None
    """Called with the number of rows before each answer; may raise."""

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        x = inputs["x"]
        self.rows.append(len(x))
        self.before(len(x))
        if np.any(x[:, 0] == POISON):
            raise InvalidInput("the poison is in it")
        return answer(x)


def answer(x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what the model answers."""
    total = x.astype(np.float32).sum(axis=1)
    return {"scores": np.stack([total, -total], axis=1), "total": total.astype(np.int64)}


def function_model(model: Model, version: int = 1) -> FunctionModel:
    return FunctionModel(
        model,
        inputs={"x": ("uint8", (-1, 4))},
        outputs={"scores": ("float32", (-1, 2)), "total": ("int64", (-1,))},
        version=version,
    )


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def server(model: Model) -> Iterator[FunctionServer]:
    with FunctionServer({"m": function_model(model)}) as server:
        yield server


Predict = Callable[..., int]


@pytest.fixture
def predict(server: FunctionServer) -> Predict:
    """Runs `ladle predict` with further arguments, and returns the exit status."""

    def run(*arguments: object) -> int:
        fixed = ["--server", server.address, "--model", "m", "--patience", "2"]
        return cli.main([*fixed, *map(str, arguments)])

    return run


@pytest.fixture
def x() -> NDArray[np.uint8]:
    """A thousand rows, none of which is poison."""
    return np.random.default_rng(1).integers(0, POISON, (1000, 4), dtype=np.uint8)


@pytest.fixture
def npy(tmp_path: Path, x: NDArray[np.uint8]) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, x)
    return path
