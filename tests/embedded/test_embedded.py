"""Models in this process, without ports, with a loader that needs no TensorFlow."""

from __future__ import annotations

import copy
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeLoader, FakeServable, until

from ladle.client import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
)
from ladle.client.models import VersionState
from ladle.embedded import Embedded
from ladle.embedded.calls import MAX_BLOCKING_CALLS, LocalCalls
from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server import Config, StartupError
from ladle.server.call import Call
from ladle.server.core.errors import ResourceExhausted, ServingError
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable_id import ServableId

X = np.ones((3, 2), np.float32)


class Loader(FakeLoader):
    """Makes servables that say their signature to clients."""

    def __call__(self, servable_id: ServableId, path: Path) -> FakeServable:
        servable = super().__call__(servable_id, path)
        told = SignatureDef(method_name="tensorflow/serving/predict")
        for specs, infos in ((DOUBLE.inputs, told.inputs), (DOUBLE.outputs, told.outputs)):
            for alias, spec in specs.items():
                infos[alias].dtype = spec.data_type
                for size in spec.shape or ():
                    infos[alias].tensor_shape.dim.add(size=size)
        servable.signature_defs = {DOUBLE.name: told.SerializeToString()}
        return servable


class Harness:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "m"
        self.loader = Loader()
        self.publish(1)

    def publish(self, version: int) -> None:
        (self.folder / str(version)).mkdir(parents=True)

    def embedded(self, observer: Observer | None = None, **settings: Any) -> Embedded:
        given = {
            "model_name": "m",
            "model_base_path": str(self.folder),
            "file_system_poll_wait_seconds": 0.01,
            "drain_grace_seconds": 0,
            "enable_batching": True,
        }
        return Embedded(Config(**{**given, **settings}), load=self.loader, observer=observer)

    @property
    def servable(self) -> FakeServable:
        return self.loader.loaded[ServableId("m", 1)]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture
def embedded(harness: Harness) -> Iterator[Embedded]:
    with harness.embedded() as embedded:
        yield embedded
        harness.servable.release()


def test_arrays_come_back(embedded: Embedded) -> None:
    prediction = embedded.client.predict("m", X.tolist())
    assert prediction.version == 1
    assert prediction["y"].dtype == np.float32
    assert prediction["y"].tolist() == (2 * X).tolist()
    assert embedded.is_healthy()
    # What an autoscaler goes by is there while nothing is under way.
    assert b'ladle_requests_in_flight{model="m",version="1"} 0' in embedded.metrics()


def test_nothing_listens(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was bound")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with harness.embedded(rest_api_port=8501) as embedded:
        embedded.client.predict("m", X)


def test_requests_of_several_threads_share_a_batch(harness: Harness, embedded: Embedded) -> None:
    servable = harness.servable
    servable.hold()
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(embedded.client.predict, "m", X)
        servable.wait_until_running()
        others = [threads.submit(embedded.client.predict, "m", n * X) for n in range(4)]
        until(lambda: waiting(embedded) == 4)
        servable.release()
        assert first.result(TIMEOUT_S).version == 1
        for n, other in enumerate(others):
            assert other.result(TIMEOUT_S)["y"].tolist() == (2 * n * X).tolist()
    assert servable.batches == [3, 12]


def waiting(embedded: Embedded) -> float:
    """How many requests are in the queue, by the metrics."""
    found = re.search(rb"^ladle_queue_requests\{[^}]*\} (\S+)$", embedded.metrics(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_versions_swap_under_requests(harness: Harness, embedded: Embedded) -> None:
    client = embedded.client
    stop = threading.Event()

    def ask() -> set[int | None]:
        seen = set()
        while not stop.is_set():
            seen.add(client.predict("m", X).version)
        return seen

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        harness.publish(2)
        until(lambda: client.predict("m", X).version == 2)
        stop.set()
        assert all({*asked.result(TIMEOUT_S)} <= {1, 2} for asked in asking)
    until(lambda: client.status("m", version=1)[0].state == VersionState.END)
    with pytest.raises(NotFound):
        client.predict("m", X, version=1)


def test_errors_are_those_of_a_client(embedded: Embedded) -> None:
    client = embedded.client
    with pytest.raises(NotFound, match="Servable not found for request: Latest"):
        client.predict("other", X)
    with pytest.raises(InvalidInput, match="x"):
        client.predict("m", np.ones((3, 2), np.complex64))
    with pytest.raises(FailedPrecondition):
        client.predict("m", X, signature="none")
    with pytest.raises(NotFound, match="this process"):
        client.health("none")


class Callers(Unobserved):
    """Remembers what callers said beside their inputs."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []

    def request_ended(self, request: Observation) -> None:
        if request.api == "Predict" and request.metadata is not None:
            self.keys.append(request.metadata("x-user"))


def test_what_a_caller_says_beside_the_inputs_arrives(harness: Harness) -> None:
    callers = Callers()
    with harness.embedded(observer=callers) as embedded:
        embedded.client.predict("m", X, metadata={"x-user": "7"})
        embedded.client.predict("m", X, metadata={"ladle-priority": "low"})
    assert callers.keys == ["7", None]


def test_a_stream_keeps_its_order(embedded: Embedded) -> None:
    inputs = [n * X for n in range(20)]
    answers = list(embedded.client.stream("m", inputs, window=4))
    assert [int(answer["y"][0, 0]) for answer in answers] == [2 * n for n in range(20)]


def test_chunks_and_status_and_models(embedded: Embedded) -> None:
    client = embedded.client
    (chunk,) = client.predict_chunks("m", X)
    assert chunk["y"].tolist() == (2 * X).tolist()
    assert [status.state for status in client.status("m")] == [VersionState.AVAILABLE]
    assert [model.name for model in client.models()] == ["m"]
    assert client.health()
    client.wait_until_ready("m", timeout=TIMEOUT_S)
    assert client.metadata("m").signatures["serving_default"].inputs.keys() == {"x"}


def test_models_come_and_go_as_on_a_server(harness: Harness, embedded: Embedded) -> None:
    client = embedded.client
    other = harness.folder.parent / "other"
    (other / "7").mkdir(parents=True)
    client.load("other", other, timeout=TIMEOUT_S)
    assert client.predict("other", X).version == 7
    client.unload("other")
    with pytest.raises(NotFound):
        client.predict("other", X)


def test_a_timeout_takes_the_request_out_of_its_queue(harness: Harness, embedded: Embedded) -> None:
    servable = harness.servable
    servable.hold()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(embedded.client.predict, "m", X)
        servable.wait_until_running()
        with pytest.raises(DeadlineExceeded):
            embedded.client.predict("m", X, timeout=0.01)
        servable.release()
        first.result(TIMEOUT_S)
    embedded.client.predict("m", X)
    assert sum(servable.batches) == 6


def test_a_stop_waits_for_what_runs_and_refuses_the_rest(harness: Harness) -> None:
    embedded = harness.embedded(drain_grace_seconds=TIMEOUT_S)
    embedded.start()
    servable = harness.servable
    servable.hold()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(embedded.client.predict, "m", X)
        servable.wait_until_running()
        stopping = threads.submit(embedded.stop)
        until(lambda: not embedded.is_healthy())
        until(lambda: refused(embedded))
        servable.release()
        assert running.result(TIMEOUT_S).version == 1
        assert stopping.result(TIMEOUT_S)
    assert servable.closed.is_set()
    assert embedded.stop()


def refused(embedded: Embedded) -> bool:
    path = "/grpc.health.v1.Health/Check"
    error = embedded.calls.call(path, b"").exception(TIMEOUT_S)
    return isinstance(error, ServingError) and error.message == "the server was stopped"


def test_a_closed_client_makes_no_calls(embedded: Embedded) -> None:
    embedded.client.close()
    with pytest.raises(ValueError, match="a closed client makes no calls"):
        embedded.client.predict("m", X)


def test_the_client_stays_in_its_process(embedded: Embedded) -> None:
    with pytest.raises(TypeError, match="its models are in this process"):
        copy.copy(embedded.client)


def test_a_model_that_does_not_load_fails_the_start(harness: Harness) -> None:
    harness.loader.failures[ServableId("m", 1)] = ValueError("damaged")
    embedded = harness.embedded(max_num_load_retries=0)
    with pytest.raises(StartupError, match="damaged"):
        embedded.start()
    with pytest.raises(StartupError, match="expected a folder of numbered versions"):
        harness.embedded(model_base_path="/nowhere").start()


def test_streams_and_unknown_methods_are_refused(embedded: Embedded) -> None:
    for path in "/ladle.v1.StreamingPrediction/PredictStream", "/a.B/C":
        error = embedded.calls.call(path, b"").exception(TIMEOUT_S)
        assert isinstance(error, ServingError)
        assert error.message.startswith((path, "streams"))


def test_calls_that_wait_are_bounded() -> None:
    go_on = threading.Event()

    def wait(call: Call) -> None:
        assert go_on.wait(TIMEOUT_S)
        call.respond(b"done")

    calls = LocalCalls({"/a.B/C": wait})
    waiting = [calls.call("/a.B/C", b"") for _ in range(MAX_BLOCKING_CALLS)]
    assert isinstance(calls.call("/a.B/C", b"").exception(TIMEOUT_S), ResourceExhausted)
    go_on.set()
    assert {answer.result(TIMEOUT_S) for answer in waiting} == {b"done"}
    assert calls.call("/a.B/C", b"").result(TIMEOUT_S) == b"done"
    calls.stop()
