from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeServable, spec
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.serving_pb import PredictionLog
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.warmup.records import frame
from ladle.server.warmup.replay import WARMUP_PATH, WarmupOptions, resized, warm_up

ID = ServableId("m", 1)
EXAMPLES = {"inputs": TensorSpec(dtypes.STRING, (-1,), "examples:0")}
SIGNATURES = (
    DOUBLE,
    Signature("classes", EXAMPLES, {"scores": spec(-1, 1)}, "tensorflow/serving/classify"),
    Signature("value", EXAMPLES, {"outputs": spec(-1)}, "tensorflow/serving/regress"),
    Signature("fixed", {"x": spec(2)}, {"y": spec(2)}),
    Signature("counting", {"x": spec(-1, 2)}, {"y": spec(-1, 2)}, stateful="AssignAdd"),
)


def function(inputs: Arrays) -> dict[str, NDArray[Any]]:
    (values,) = inputs.values()
    if values.dtype != object:
        return {"y": values}
    ones = np.ones(len(values), np.float32)
    return {
        "scores": ones[:, None],
        "outputs": ones,
        "classes/scores": ones[:, None],
        "value/outputs": ones,
    }


@pytest.fixture
def servable() -> FakeServable:
    return FakeServable(function, SIGNATURES)


Replay = Callable[..., int]


@pytest.fixture
def replay(tmp_path: Path, servable: FakeServable) -> Replay:
    def replay(logs: Iterable[PredictionLog | bytes], **options: Any) -> int:
        file = tmp_path / WARMUP_PATH
        file.parent.mkdir()
        data = (log if isinstance(log, bytes) else log.SerializeToString() for log in logs)
        file.write_bytes(b"".join(map(frame, data)))
        return warm_up(ID, tmp_path, servable, WarmupOptions(**options))

    return replay


def predict(rows: int = 3, signature: str = "") -> PredictionLog:
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    x = np.ones((rows, 2) if not signature else (rows,), np.float32)
    log.predict_log.request.inputs["x"].CopyFrom(tensors.to_proto(x))
    return log


def classify() -> PredictionLog:
    log = PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classes"
    log.classify_log.request.input.example_list.examples.add()
    return log


def regress() -> PredictionLog:
    log = PredictionLog()
    log.regress_log.request.model_spec.signature_name = "value"
    log.regress_log.request.input.example_list_with_context.examples.add()
    return log


def multi_inference() -> PredictionLog:
    log = PredictionLog()
    request = log.multi_inference_log.request
    for name in ("classes", "value"):
        method = next(s.method_name for s in SIGNATURES if s.name == name)
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "of_old"
        task.model_spec.signature_name = name
    request.input.example_list.examples.add()
    return log


def test_a_version_without_warm_up_is_fine(tmp_path: Path, servable: FakeServable) -> None:
    assert warm_up(ID, tmp_path, servable, WarmupOptions()) == 0


def test_every_kind_of_request_is_replayed_in_order(replay: Replay, servable: FakeServable) -> None:
    logs = [predict(3), classify(), regress(), multi_inference(), PredictionLog(), predict(2)]

    assert replay(logs) == 6
    assert servable.batches == [3, 1, 1, 1, 2]


def test_each_request_runs_as_often_as_asked(replay: Replay, servable: FakeServable) -> None:
    replay([predict(3), predict(1)], iterations=2)
    assert servable.batches == [3, 3, 1, 1]


def test_each_signature_is_run_with_all_sizes_once(replay: Replay, servable: FakeServable) -> None:
    replay([predict(3), predict(3), classify()], batch_sizes=(1, 4, 8))
    assert servable.batches == [3, 1, 4, 8, 3, 1, 4, 8]


@pytest.mark.parametrize(("longest_s", "batches"), [(1e-9, [3]), (3600.0, [3, 2, 1])])
def test_a_warm_up_that_takes_too_long_begins_no_further_request(
    replay: Replay, servable: FakeServable, longest_s: float, batches: list[int]
) -> None:
    assert replay([predict(3), predict(2), classify()], longest_s=longest_s) == len(batches)
    assert servable.batches == batches


@pytest.mark.parametrize(("signature", "rows"), [("fixed", 2), ("", 0)])
def test_what_batches_never_take_keeps_its_size(
    replay: Replay, servable: FakeServable, signature: str, rows: int
) -> None:
    replay([predict(rows, signature)], batch_sizes=(1, 4))
    assert servable.batches == [rows]


def test_what_counts_requests_counts_those_of_the_file_alone(
    replay: Replay, servable: FakeServable
) -> None:
    replay([predict(3, "counting"), predict(2, "counting")], batch_sizes=(1, 4), iterations=2)
    assert servable.batches == [3, 3, 2, 2]


def test_rows_are_filled_up_with_the_first() -> None:
    x = np.array([[1], [2]])
    assert resized({"x": x}, 1)["x"].tolist() == [[1]]
    assert resized({"x": x}, 4)["x"].tolist() == [[1], [2], [1], [1]]


def session_run() -> PredictionLog:
    log = PredictionLog()
    log.session_run_log.request.fetch.append("y")
    return log


def streamed() -> PredictionLog:
    log = PredictionLog()
    log.predict_streamed_log.request.add()
    return log


@pytest.mark.parametrize(
    ("log", "code", "says"),
    [
        (session_run(), Code.UNIMPLEMENTED, "a session_run_log can't be replayed"),
        (streamed(), Code.UNIMPLEMENTED, "a predict_streamed_log can't be replayed"),
        (predict(1, "nope"), Code.FAILED_PRECONDITION, 'key "nope" not found'),
        (b"\xff\xff\xff", Code.INVALID_ARGUMENT, "expected a tensorflow.serving.PredictionLog"),
    ],
    ids=["session_run", "streamed", "unknown signature", "no log"],
)
def test_a_request_that_fails_says_which(
    replay: Replay, log: PredictionLog | bytes, code: Code, says: str
) -> None:
    with pytest.raises(ServingError, match="warm-up failed at record 2 of ") as caught:
        replay([predict(), log])
    assert caught.value.code is code
    assert says in caught.value.message


def test_outputs_that_are_no_result_fail(replay: Replay, servable: FakeServable) -> None:
    servable.function = lambda _: {"scores": np.ones((2, 1), np.float32)}
    with pytest.raises(ServingError, match=r"expected float32 \[1, number of classes\]"):
        replay([classify()])


def test_a_thousand_records_are_taken_and_no_more(replay: Replay, servable: FakeServable) -> None:
    with pytest.raises(ServingError, match="at most 1000 warm-up records") as caught:
        replay([predict(1)] * 1001)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert len(servable.batches) == 1000


def test_a_damaged_file_is_data_loss(tmp_path: Path, servable: FakeServable) -> None:
    (tmp_path / WARMUP_PATH).parent.mkdir()
    (tmp_path / WARMUP_PATH).write_bytes(b"no records at all")
    with pytest.raises(ServingError, match="TFRecord format") as caught:
        warm_up(ID, tmp_path, servable, WarmupOptions())
    assert caught.value.code is Code.DATA_LOSS


def test_a_warmup_without_end_is_told(replay: Replay, servable: FakeServable) -> None:
    """Its version stays LOADING: the log says why."""
    lines: SimpleQueue[str] = SimpleQueue()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.put(record.getMessage())

    handler = Heard(logging.WARNING)
    logger = logging.getLogger("ladle.server.warmup.replay")
    logger.addHandler(handler)
    servable.hold()
    loading = threading.Thread(target=replay, args=([predict()],), kwargs={"slow_after_s": 0.0})
    loading.start()
    line = lines.get(timeout=TIMEOUT_S)
    assert loading.is_alive()
    servable.release()
    loading.join()
    logger.removeHandler(handler)
    assert line.startswith("the warm-up still runs, and the version is not served before its end")
