"""A server with a model, and the command that asks it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
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


def function_model(
    model: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]], version: int = 1
) -> FunctionModel:
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


@dataclass
class Batch:
    """The thousand rows of `x.npy`, the folder that they are predicted into, and what is there."""

    predict: Predict
    npy: Path
    x: NDArray[np.uint8]
    out: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: object) -> int:
        """Run `ladle predict` from the file into the folder, and return the exit status."""
        return self.predict("--input", self.npy, "--output", self.out, *arguments)

    def change(self, x: NDArray[np.uint8]) -> None:
        """Put other rows into the file."""
        self.x = x
        np.save(self.npy, x)

    def poison(self, *rows: int) -> None:
        """Make rows of the file fail."""
        self.x[list(rows), 0] = POISON
        np.save(self.npy, self.x)

    @property
    def printed(self) -> str:
        """What has been printed since the last look."""
        return self.capsys.readouterr().out

    @property
    def error(self) -> str:
        """The one line that has been told of an error since the last look."""
        told = self.capsys.readouterr().err
        assert len(told.splitlines()) == 1
        return told

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "_manifest.json").read_text())
        return loaded

    @property
    def rows(self) -> dict[str, list[Any]]:
        """All parts of the Parquet output, one below the other."""
        rows: dict[str, list[Any]] = {"row": [], "scores": [], "total": []}
        for part in sorted(self.out.glob("part-*.parquet")):
            for name, values in pq.read_table(part).to_pydict().items():
                rows.setdefault(name, []).extend(values)
        return rows

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for part in sorted(self.out.glob("_failed-*.jsonl"))
            for line in part.read_text().splitlines()
        ]

    def assert_whole(self, without: Collection[int] = ()) -> None:
        """Every row is there once, in order, with the answer to it."""
        numbers = [row for row in range(len(self.x)) if row not in without]
        found, expected = self.rows, answer(self.x[numbers])
        assert found["row"] == numbers
        assert found["total"] == expected["total"].tolist()
        assert found["scores"] == expected["scores"].tolist()
        assert self.manifest["is_complete"]


@pytest.fixture
def batch(
    predict: Predict,
    npy: Path,
    x: NDArray[np.uint8],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Batch:
    return Batch(predict, npy, x, tmp_path / "out", capsys)
