"""Tables for engines: each row comes back once, in order, with its outputs or its error."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from batch.conftest import POISON, Model, answer, function_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.batch.errors import BatchError, ModelLost
from ladle.batch.output.in_table import beside
from ladle.batch.tables import TablePredictor
from ladle.client import Unavailable
from ladle.client.testing import FunctionModel, FunctionServer


def table_of(x: np.ndarray, **more: Any) -> pa.Table:
    columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4)}
    return pa.table({**columns, **more})


def rows(count: int, bad: Collection[int] = ()) -> np.ndarray:
    x = np.random.default_rng(count).integers(0, POISON, (count, 4), dtype=np.uint8)
    x[sorted(row for row in bad if row < count), 0] = POISON
    return x


def test_rows_come_back_in_order_beside_what_is_kept(server: FunctionServer) -> None:
    x = rows(1000)
    ids = pa.array(range(1000))
    with TablePredictor(server=server.address, model="m", keep=["id*", "row"]) as predictor:
        found = predictor(table_of(x, id=ids, row=ids, other=ids))
    assert found.column_names == ["id", "row", "scores", "total", "error"]
    assert found.column("id").to_pylist() == list(range(1000))
    assert found.column("total").to_pylist() == answer(x)["total"].tolist()
    assert found.column("scores").to_pylist() == answer(x)["scores"].tolist()
    assert found.column("error").null_count == 1000


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(0, 40), bad=st.sets(st.integers(0, 39), max_size=40))
def test_whichever_rows_are_bad_the_others_are_predicted(
    server: FunctionServer, count: int, bad: set[int]
) -> None:
    x = rows(count, bad)
    with TablePredictor(server=server.address, model="m") as predictor:
        found = predictor(table_of(x))
        schema = predictor(table_of(rows(3))).schema
    assert found.schema == schema  # also where nothing was answered
    total = answer(x)["total"].tolist()
    for row in range(count):
        if row in bad:
            assert found.column("total")[row].as_py() is None
            assert found.column("scores")[row].as_py() is None
            assert found.column("error")[row].as_py() == "INVALID_ARGUMENT: the poison is in it"
        else:
            assert found.column("total")[row].as_py() == total[row]
            assert found.column("error")[row].as_py() is None


def test_columns_are_mapped_and_outputs_chosen(server: FunctionServer) -> None:
    x = rows(5)
    columns = {f"p{n}": pa.array(x[:, n].tolist()) for n in range(4)}
    with TablePredictor(
        server=server.address, model="m", map={"x": "p*:uint8"}, outputs=["total"]
    ) as predictor:
        found = predictor(pa.table(columns))
    assert found.column_names == ["total", "error"]
    assert found.column("total").to_pylist() == answer(x)["total"].tolist()


def test_all_tables_are_answered_by_one_version(model: Model) -> None:
    with (
        FunctionServer({"m": function_model(model, version=3)}) as server,
        TablePredictor(server=server.address, model="m", patience_s=0.1) as predictor,
    ):
        predictor(table_of(rows(2)))
        server.models["m"] = function_model(model, version=4)
        with pytest.raises(ModelLost):
            predictor(table_of(rows(2)))


def test_what_is_wrong_is_said(server: FunctionServer) -> None:
    for path in None, "/m":
        address = None if path is None else server.address
        with pytest.raises(ValueError, match="expected either server or model_path"):
            TablePredictor(model="m", server=address, model_path=path)
    with pytest.raises(ValueError, match="expected TENSOR=COLUMN"):
        TablePredictor(server=server.address, model="m", map={"x": ""})
    with pytest.raises(BatchError, match='has no signature "other"'):
        TablePredictor(server=server.address, model="m", signature="other")
    predictor = TablePredictor(server=server.address, model="m", keep=["total*"])
    with pytest.raises(BatchError, match='"x"'):
        predictor(pa.table({"total": [1], "z": [2]}))
    with pytest.raises(BatchError, match='two columns "total"'):
        predictor(table_of(rows(2), total=pa.array([1, 2])))


def test_a_server_that_is_gone_ends_a_table(model: Model) -> None:
    def refuse(_rows: int) -> None:
        raise Unavailable("no")

    with (
        FunctionServer({"m": function_model(model)}) as server,
        TablePredictor(server=server.address, model="m", patience_s=0.1) as predictor,
    ):
        model.before = refuse
        with pytest.raises(ModelLost):
            predictor(table_of(rows(3)))


def test_requests_that_are_answered_in_different_forms_are_refused() -> None:
    one, other = pa.table({"row": [0], "y": [1]}), pa.table({"row": [1], "y": ["a"]})
    with pytest.raises(BatchError, match="answered in different forms"):
        beside(pa.table({"x": [0, 1]}), (), [one, other], {})


def test_text_is_an_output_like_others() -> None:
    model = FunctionModel(
        lambda inputs: {"y": np.array([b"a"] * len(inputs["x"]), object)},
        inputs={"x": ("float32", (-1,))},
        outputs={"y": (object, (-1,))},
    )
    with (
        FunctionServer({"m": model}) as server,
        TablePredictor(server=server.address, model="m") as predictor,
    ):
        found = predictor(pa.table({"x": pa.array([1.0, 2.0], pa.float32())}))
        assert found.column("y").to_pylist() == [b"a", b"a"]
        assert predictor(pa.table({"x": pa.array([], pa.float32())})).schema == found.schema


def test_a_model_may_be_in_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from embedded.test_embedded import Harness

    harness = Harness(tmp_path)
    monkeypatch.setattr("ladle.batch.tables.load_embedded", lambda *_: started(harness))
    with TablePredictor(model="m", model_path=str(harness.folder)) as predictor:
        x = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6, np.float32)), 2)
        for _ in range(2):
            assert predictor(pa.table({"x": x})).column("y").to_pylist() == [[2.0, 2.0]] * 3
    assert harness.servable.closed.is_set()


def started(harness: Any) -> Any:
    embedded = harness.embedded()
    embedded.start()
    return embedded
