"""TensorFlow Lite models, where an interpreter is installed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.tflite import TFLiteServable, load_tflite

pytestmark = pytest.mark.e2e

ID = ServableId("m", 1)


@pytest.fixture(scope="module")
def path(written_models: Path) -> Path:
    return written_models / "half_plus_two_tflite" / "1"


@pytest.fixture(scope="module")
def servable(path: Path) -> Iterator[TFLiteServable]:
    loaded = load_tflite(ID, path, interpreters=2)
    yield loaded
    loaded.close()


def half_plus_two(servable: TFLiteServable, x: Any, deadline: float | None = None) -> Any:
    signature = servable.signatures["serving_default"]
    return servable.run(signature, {"x": np.asarray(x, np.float32)}, ("y",), deadline)["y"].tolist()


def test_it_declares_what_the_savedmodel_did(servable: TFLiteServable) -> None:
    signature = servable.signatures["serving_default"]
    assert str(signature.inputs["x"]) == str(signature.outputs["y"]) == "float32 [-1, 1]"
    assert signature.batchable
    definition = SignatureDef.FromString(servable.signature_defs["serving_default"])
    assert definition.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in definition.inputs["x"].tensor_shape.dim] == [-1, 1]


def test_batches_of_any_size_run(servable: TFLiteServable) -> None:
    assert half_plus_two(servable, [[2]]) == [[3]]
    assert half_plus_two(servable, [[2], [4], [6]]) == [[3], [4], [5]]
    assert half_plus_two(servable, np.zeros((0, 1))) == []


def test_many_threads_share_the_interpreters(servable: TFLiteServable) -> None:
    wrong = []

    def ask(number: int) -> None:
        for rows in (1, 3, 2):
            x = np.full((rows, 1), number)
            if half_plus_two(servable, x) != (x / 2 + 2).tolist():
                wrong.append((number, rows))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_failed_run_spoils_no_later_one(servable: TFLiteServable) -> None:
    signature = servable.signatures["serving_default"]
    for _ in range(4):
        with pytest.raises(ServingError, match="the model refused the inputs") as caught:
            servable.run(signature, {"x": np.ones((1, 1))}, ("y",))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "\n" not in caught.value.message
    assert half_plus_two(servable, [[2]]) == [[3]]


def test_a_deadline_ends_the_wait_for_an_interpreter(path: Path) -> None:
    servable = load_tflite(ID, path, interpreters=1)
    held = servable._free.get()
    with pytest.raises(ServingError, match="before an interpreter was free") as caught:
        half_plus_two(servable, [[2]], deadline=time.monotonic())
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    servable._free.put(held)
    assert half_plus_two(servable, [[2]], deadline=time.monotonic() + 60) == [[3]]


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"junk")
    with pytest.raises(ServingError, match="can't be loaded") as caught:
        load_tflite(ID, tmp_path, interpreters=1)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_without_an_interpreter_it_is_refused_with_a_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ai_edge_litert.interpreter", "tensorflow.lite.python.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ServingError, match="install the package ai-edge-litert") as caught:
        load_tflite(ID, path, interpreters=1)
    assert caught.value.code is Code.FAILED_PRECONDITION
