"""Workers on a store over HTTP, by the library that all stores are reached by."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch.tasks.conftest import Workers
from http_store import HttpStore
from stores import FakeStore

from ladle.batch.errors import BatchError
from ladle.batch.tasks.checking import check
from ladle.store.url import parse_url

pytest.importorskip("obstore", reason="`make install` brings it")


def test_workers_share_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(40, dtype=np.float32)
    out = parse_url("s3://bucket/out")
    with HttpStore().running() as http:
        for name, value in http.environment.items():
            monkeypatch.setenv(name, value)
        for name, rows in {"a": x[:30], "b": x[30:]}.items():
            file = io.BytesIO()
            pq.write_table(pa.table({"x": rows}), file, row_group_size=10)
            http.objects[f"bucket/in/{name}.parquet"] = file.getvalue()
        workers = Workers(("s3://bucket/in",), out, FakeStore())
        inner: list[int] = []

        def other(step: str) -> None:
            if step == "part in place" and not inner:
                inner.append(0)
                inner[0] = workers.run(1, 2).tasks_now

        # Before the first one has committed anything, the second has done all.
        assert workers.run(0, 2, other).tasks_now == 0
        assert inner == [8]
        found = check(out)
        assert (found.is_complete, found.rows, found.tasks) == (True, 40, 8)
        before = dict(http.objects)
        assert workers.run().rows_now == 0
        assert http.objects == before
        http.objects["bucket/in/b.parquet"] += b"x"
        with pytest.raises(BatchError, match="the input has changed since s3://bucket/out was"):
            workers.run()


def test_an_input_in_a_store_may_go_to_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(20, dtype=np.float32))
    with HttpStore().running() as http:
        for name, value in http.environment.items():
            monkeypatch.setenv(name, value)
        http.objects["bucket/in/a.npz"] = file.getvalue()
        workers = Workers(("s3://bucket/in/a.npz",), tmp_path / "out", FakeStore())
        workers.run()
    workers.assert_whole(20)
