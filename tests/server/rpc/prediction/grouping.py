"""A method that has requests that are alike, over a transport, on a model that a test can hold."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from fakes import DOUBLE, TIMEOUT_S, FakeServable, double, spec, until
from numpy.typing import NDArray
from transports import TRANSPORTS, require

from ladle.protos import dtypes
from ladle.server.call import Alike, Call, Group, Handler, NonBlocking
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.limits import ByteBudget, Limits
from ladle.server.monitoring.metrics import Metrics
from ladle.server.rpc.services import methods

HOLD = "/test/Hold"
Outcome = tuple[str, bytes | str]

_NUMBER = {name: dtypes.from_numpy(np.dtype(name)) for name in ("float64", "bool", "int32", "O")}
PAIR = Signature(
    "pair",
    {"x": spec(-1, 2), "k": spec(-1, data_type=_NUMBER["float64"])},
    {"y": spec(-1, 2), "name": spec(-1, data_type=_NUMBER["O"])},
)
FLAGS = Signature(
    "flags", {"b": spec(-1, data_type=_NUMBER["bool"])}, {"c": spec(-1, data_type=_NUMBER["bool"])}
)
COUNTS = Signature(
    "counts",
    {"n": spec(-1, data_type=_NUMBER["int32"])},
    {"m": spec(-1, data_type=_NUMBER["int32"])},
)
# The default signature of one of the versions takes inputs of another dtype.
OF_OTHER_INPUTS = 9
TWICE = replace(DOUBLE, inputs={"x": spec(-1, 2, data_type=_NUMBER["float64"])})
ONE = Signature("one", {"x": spec(1, 2)}, {"y": spec(1, 2)})


def run(inputs: Arrays) -> Mapping[str, NDArray[Any]]:
    if "b" in inputs:
        return {"c": ~inputs["b"]}
    if "n" in inputs:
        return {"m": inputs["n"] + 1}
    if "k" in inputs:
        y = inputs["x"] * inputs["k"][:, None].astype(np.float32)
        names = [b"large" if k > 1 else b"small one" for k in inputs["k"]]
        return {"y": y, "name": np.array(names, object)}
    return double(inputs)


def inputs_of(signature: str, rows: int, value: float, wrong: str = "") -> dict[str, NDArray[Any]]:
    """Return the inputs of a request to one of the signatures, wrong in one way or right."""
    x = np.full((rows, 2), value, np.float32)
    inputs: dict[str, NDArray[Any]] = {"x": x}
    if signature == "pair":
        inputs["k"] = np.full(rows, value, np.float64)
    elif signature == "flags":
        inputs = {"b": np.full(rows, value > 0)}
    elif signature == "counts":
        inputs = {"n": np.full(rows, int(value) if np.isfinite(value) else 7, np.int32)}
    first = next(iter(inputs))
    match wrong:
        case "shape":
            inputs[first] = np.full((rows, 3), value, np.float32)
        case "dtype":
            inputs[first] = np.full((rows, 2), value, np.float16)
        case "missing":
            del inputs[first]
        case "extra":
            inputs["more"] = x
        case "empty":
            inputs[first] = inputs[first][:0]
        case "strings":
            inputs[first] = np.full((rows, 2), b"1", object)
        case "order":
            inputs = dict(reversed(inputs.items()))
    return inputs


class Served:
    """One method over a transport, on versions of the model `m` that a test can hold."""

    def __init__(
        self,
        transport: str,
        method: str,
        read: Callable[[bytes], bytes] = bytes,
        *,
        options: BatchOptions | None = None,
        said_by: str = "the test",
        observer: Observer | None = None,
        **limits: Any,
    ) -> None:
        self.metrics = Metrics(lambda: {"m"})
        self.models: dict[int, FakeServable] = {}
        self._as_one: list[bool] = []
        self._options = options or BatchOptions()
        self._said_by = said_by
        self._entered = threading.Semaphore(0)
        self._gates: dict[int, threading.Event] = {}
        self._numbers = itertools.count()
        self.manager = Manager(self._load)
        self.aspire(1)
        served = methods(self.manager, tensor_content=False, observer=observer or self.metrics)
        self.transport = TRANSPORTS[transport](
            {path: self._noted(method) for path, method in served.items()}
            | {HOLD: NonBlocking(self._hold)},
            max_threads=4,
            limits=Limits(
                limits.get("max_request_bytes", 1 << 20),
                ByteBudget(1 << 30),
                lambda error, n: Observation("", "GRPC", b"").end_alike(n, error, self.metrics),
            ),
        )
        port = self.transport.listen("127.0.0.1:0")
        self.transport.start()
        self._is_native = transport == "native"
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._read = read
        self.call: Any = self._channel.unary_unary(method, None, None)

    @property
    def as_one(self) -> list[bool]:
        """Of each group that has come, whether it was taken as one."""
        with self.held():  # what came before is handled by then
            return list(self._as_one)

    def aspire(self, *versions: int, name: str = "m") -> None:
        """Have these versions served, and wait until the last of them is."""
        self.manager.aspire(name, {version: Path(f"/m/{version}") for version in versions})
        last = versions[-1]
        assert self.manager.wait_until(lambda: self.manager.is_available(name, last), TIMEOUT_S)

    def begin(
        self,
        requests: list[bytes],
        metadata: list[tuple[tuple[str, str], ...]] | None = None,
        timeouts: list[float] | None = None,
    ) -> list[Any]:
        """Send requests that all have come before the first of them is looked at."""
        with self.held():
            used = self.transport.limits.budget.used
            futures = [
                self.call.future(
                    request,
                    metadata=metadata[at] if metadata else None,
                    timeout=timeouts[at] if timeouts else TIMEOUT_S,
                )
                for at, request in enumerate(requests)
            ]
            if self._is_native:
                most = self.transport.limits.max_request_bytes
                come = used + sum(len(request) for request in requests if len(request) <= most)
                until(lambda: self.transport.limits.budget.used == come)
        return futures

    def outcomes(self, requests: list[bytes], **options: Any) -> list[Outcome]:
        return [self.outcome(future) for future in self.begin(requests, **options)]

    def outcome(self, future: Any) -> Outcome:
        """Return the answer, or the status."""
        try:
            return "OK", self._read(future.result())
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        except grpc.FutureCancelledError:
            return "CANCELLED", ""

    def held(self) -> _Held:
        """Keep the native transport's thread from taking what comes."""
        return _Held(self) if self._is_native else _Held(None)

    def hold(self) -> tuple[threading.Event, Any]:
        """Return what ends a hold that has been asked for, and the call that asks."""
        call: Any = self._channel.unary_unary(HOLD, None, None)
        gate = threading.Event()
        number = next(self._numbers) % 256  # of holds that are asked for at a time, there are few
        self._gates[number] = gate
        return gate, call.future(bytes([number]), timeout=TIMEOUT_S)

    def wait_until_held(self) -> None:
        assert self._entered.acquire(timeout=TIMEOUT_S)

    def stop(self) -> None:
        for model in self.models.values():
            model.release()
        self._channel.close()
        self.transport.stop(TIMEOUT_S)
        assert self.manager.stop(TIMEOUT_S)

    def _load(self, servable_id: ServableId, _path: Path) -> BatchingServable:
        default = TWICE if servable_id.version == OF_OTHER_INPUTS else DOUBLE
        model = FakeServable(run, (default, PAIR, FLAGS, COUNTS, ONE))
        self.models[servable_id.version] = model
        return BatchingServable(
            model,
            self._options,
            observer=self.metrics,
            servable_id=servable_id,
            said_by=self._said_by,
        )

    def _noted(self, method: Any) -> Any:
        if not isinstance(method, NonBlocking) or method.alike is None:
            return method
        alike: Alike = method.alike

        def handle(group: Group) -> bool:
            taken = alike.handle(group)
            self._as_one.append(taken)
            return taken

        return replace(method, alike=replace(alike, handle=handle))

    def _hold(self, call: Call) -> Handler | None:
        self._entered.release()
        assert self._gates[call.request[0]].wait(TIMEOUT_S)
        call.respond(b"")
        return None


class _Held:
    def __init__(self, served: Served | None) -> None:
        self._served = served

    def __enter__(self) -> None:
        if self._served:
            self._gate, self._future = self._served.hold()
            self._served.wait_until_held()

    def __exit__(self, *_: object) -> None:
        if self._served:
            self._gate.set()
            self._future.result()


@contextmanager
def making(method: str, read: Callable[[bytes], bytes] = bytes) -> Iterator[Callable[..., Served]]:
    """Give what makes a Served of one method, over the native transport unless it is told."""
    made: list[Served] = []

    def make(transport: str = "native", **options: Any) -> Served:
        require(transport)
        made.append(Served(transport, method, read, **options))
        return made[-1]

    try:
        yield make
    finally:
        for served in made:
            served.stop()


def counted(metrics: Metrics) -> dict[str, Any]:
    """Return what is counted of requests and does not depend on time or on what ran together."""
    with metrics.lock:
        metrics.count()
        own = metrics.own
        sizes = {
            f"{family.name} {labels}": (histogram.counts, histogram.sum)
            for family in (own.request_bytes, own.response_bytes, own.request_rows)
            for labels, histogram in family.values.items()
        }
        counts = {
            f"{family.name} {labels}": sum(histogram.counts)
            for family in (own.latency, own.decode, own.queue, own.encode)
            for labels, histogram in family.values.items()
        }
        requests = {
            f"{family.name} {labels}": count
            for family in (own.requests, metrics.upstream.request_count)
            for labels, count in family.values.items()
        }
        return {**sizes, **counts, **requests}


def statuses(served: Served) -> dict[str, int]:
    """Return how many requests have ended with each status."""
    with served.metrics.lock:
        served.metrics.count()
        counts = served.metrics.own.requests.values.items()
        return {labels[-1]: int(count) for labels, count in counts}
