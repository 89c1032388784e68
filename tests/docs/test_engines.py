"""The examples of docs/engines.md, each run by its engine, which has an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docs.blocks import blocks
from numpy.typing import NDArray

from ladle.client import InvalidInput
from ladle.client.testing import FunctionModel, FunctionServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {block.title: block for block in blocks(ROOT / "docs" / "engines.md") if block.title}
ROWS, BAD = 300, 123


def classify(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Give the first number of each image as its class; refuse 255."""
    first = inputs["images"][:, 0, 0].astype(np.int64)
    if np.any(first == 255):
        raise InvalidInput("too bright")
    return {"class_id": first, "probabilities": np.zeros((len(first), 10), np.float32)}


@pytest.fixture
def server() -> Iterator[FunctionServer]:
    model = FunctionModel(
        classify,
        inputs={"images": ("uint8", (-1, 8, 8))},
        outputs={"class_id": ("int64", (-1,)), "probabilities": ("float32", (-1, 10))},
    )
    with FunctionServer({"digits": model}) as server:
        yield server


def run(title: str, engine: str, server: FunctionServer, folder: Path) -> None:
    """Run an example, in a folder with its input."""
    python = ROOT / f".venv-{engine}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python}; `make engines-test` makes it")
    images = np.zeros((ROWS, 64), np.uint8)
    images[:, 0] = np.arange(ROWS) % 10
    images[BAD, 0] = 255
    table = pa.table({"id": range(ROWS), "images": pa.array(images.tolist(), pa.list_(pa.int64()))})
    pq.write_table(table, folder / "images.parquet")
    (folder / title).write_text(EXAMPLES[title].text.replace("localhost:8500", server.address))
    done = subprocess.run(
        [python, title],
        cwd=folder,
        env={**os.environ, "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def assert_predicted(found: list[dict[str, Any]]) -> None:
    """Each row is there once, and the bad one with its error."""
    by_id = {row["id"]: row for row in found}
    assert len(found) == len(by_id) == ROWS
    bad = by_id.pop(BAD)
    assert (bad["class_id"], bad["error"]) == (None, "INVALID_ARGUMENT: too bright")
    assert all((row["class_id"], row["error"]) == (n % 10, None) for n, row in by_id.items())


def test_ray_data_predicts_a_dataset(server: FunctionServer, tmp_path: Path) -> None:
    run("ray_data.py", "ray", server, tmp_path)
    found = pq.read_table(tmp_path / "ray-predictions")
    assert {"id", "class_id", "probabilities", "error"} <= set(found.column_names)
    assert_predicted(found.to_pylist())


def test_spark_predicts_a_data_frame(server: FunctionServer, tmp_path: Path) -> None:
    run("spark.py", "spark", server, tmp_path)
    assert_predicted(pq.read_table(tmp_path / "spark-predictions").to_pylist())


def test_beam_predicts_a_collection(server: FunctionServer, tmp_path: Path) -> None:
    run("beam_pipeline.py", "beam", server, tmp_path)
    parts = (tmp_path / "beam-predictions").iterdir()
    assert_predicted([json.loads(line) for part in parts for line in part.read_text().splitlines()])
