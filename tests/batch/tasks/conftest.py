"""Workers in this process, whose model is a function without a server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import FakeStore

from ladle.batch.dispatch.options import Options
from ladle.batch.job import Job, TaskSummary
from ladle.batch.output.folder import OnStep
from ladle.batch.tasks.execute import execute_tasks
from ladle.batch.tasks.worker import Worker
from ladle.client import Client, InvalidInput, NotFound
from ladle.client.models import ModelMetadata, Signature, TensorSpec
from ladle.client.prediction import Prediction
from ladle.store.url import StoreUrl, parse_url

FLOAT, INT64 = 1, 9
BAD = -1.0
"""A row with this fails."""
OUT = parse_url("s3://bucket/out")


class FakeClient:
    """Answers each number with its double; has what `ladle predict` asks of a Client."""

    def __init__(self, versions: set[int]) -> None:
        self.versions = versions
        self.rows: list[float] = []
        self.priorities: set[str] = set()

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> ModelMetadata:
        self._check(version)
        numbers = Signature({"x": TensorSpec(FLOAT, (-1,))}, {"twice": TensorSpec(FLOAT, (-1,))})
        return ModelMetadata(model, version or max(self.versions), {"serving_default": numbers})

    def predict(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: int | None,
        metadata: Mapping[str, str],
        **_: object,
    ) -> Prediction:
        self._check(version)
        self.priorities.add(metadata["ladle-priority"])
        x = inputs["x"]
        if np.any(x == BAD):
            raise InvalidInput("the row is bad")
        self.rows += x.tolist()
        return Prediction({"twice": 2 * x}, model, version or max(self.versions), "serving_default")

    def _check(self, version: int | None) -> None:
        if version is not None and version not in self.versions:
            raise NotFound(f"version {version} is not served")


@dataclass
class Workers:
    """Starts workers on one input and one output, and reads what they have written."""

    inputs: tuple[str, ...]
    output: Path | StoreUrl
    store: FakeStore
    client: FakeClient = field(default_factory=lambda: FakeClient({1}))
    settings: dict[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=lambda: Options(shard_rows=7, max_in_flight=1))

    def run(
        self,
        index: int = 0,
        count: int = 1,
        on_step: OnStep = lambda step: None,
        **settings: Any,
    ) -> TaskSummary:
        given = {"output_format": "jsonl", **self.settings, **settings}
        job = Job(model="m", inputs=self.inputs, output=self.output, options=self.options, **given)
        return execute_tasks(
            job, Worker(index, count), lambda _: cast(Client, self.client), on_step=on_step
        )

    def files(self) -> dict[str, bytes]:
        """All files of the output, by name."""
        if isinstance(self.output, Path):
            found = self.output.rglob("*")
            return {
                path.relative_to(self.output).as_posix(): path.read_bytes()
                for path in found
                if path.is_file()
            }
        start = f"{self.output.path}/"
        objects = self.store.objects
        return {k.removeprefix(start): v[0] for k, v in objects.items() if k.startswith(start)}

    def lines(self, prefix: str = "part-") -> list[dict[str, Any]]:
        """The lines of all parts, in the order of their names."""
        return [
            json.loads(line)
            for name, data in sorted(self.files().items())
            if name.startswith(prefix)
            for line in data.splitlines()
        ]

    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.files()["_manifest.json"])
        return loaded

    def assert_whole(self, rows: int, bad: frozenset[int] = frozenset()) -> None:
        """Each row is there once, and nothing else than what the manifest counts."""
        lines = self.lines()
        assert sorted(line["row"] for line in lines) == [n for n in range(rows) if n not in bad]
        assert all(line["twice"] == 2 * line["row"] for line in lines)
        assert sorted(line["row"] for line in self.lines("_failed-")) == sorted(bad)
        told = self.manifest()
        assert (told["rows"], told["failed"], told["is_complete"]) == (rows, len(bad), True)
        counted = {file["name"] for task in told["tasks"] for file in task["files"]}
        own = {f"_tasks/{n:06}.json" for n in range(len(told["tasks"]))}
        assert set(self.files()) == counted | own | {"_plan.json", "_manifest.json", "_SUCCESS"}


def numbers(rows: int, bad: frozenset[int] = frozenset()) -> NDArray[np.float32]:
    """Each row is its own number, but for those that fail."""
    x = np.arange(rows, dtype=np.float32)
    x[sorted(bad)] = BAD
    return x


def as_npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


MakeWorkers = Callable[..., Workers]


@pytest.fixture(params=["folder", "store"])
def make_workers(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeWorkers:
    """Makes workers on files of these names and contents, in a folder or in a store."""
    store = FakeStore()
    for module in ("execute", "inputs"):
        monkeypatch.setattr(f"ladle.batch.tasks.{module}.open_store", lambda _: store)
    is_store = request.param == "store"

    def make(files: Mapping[str, bytes], name: str = "out", **more: Any) -> Workers:
        for path, data in files.items():
            if is_store:
                store.write(f"in-{name}/{path}", data)
            else:
                place = tmp_path / f"in-{name}" / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        more.setdefault("settings", {})
        if is_store:
            given, output = f"s3://bucket/in-{name}", parse_url(f"s3://bucket/{name}")
            return Workers((given,), output, store, **more)
        return Workers((str(tmp_path / f"in-{name}"),), tmp_path / name, store, **more)

    return make
