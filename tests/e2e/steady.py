"""A steady, bounded load of Predict requests, and what came of each."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import NamedTuple

import grpc
import numpy as np
from fakes import TIMEOUT_S

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse


class Answer(NamedTuple):
    """What came of one request."""

    sent_s: float
    """Monotonic time."""
    took_s: float
    version: int
    """0 if it failed."""
    failure: str


class SteadyLoad:
    """Threads that each send one request every `interval_s`, while the `with` block runs.

    One request must not wait for another to be sent, or a stall would hide the requests that it
    kept from being sent; with several threads, and a stall shorter than the interval, few are.
    """

    def __init__(
        self, address: str, model: str, *, threads: int = 4, interval_s: float = 0.01
    ) -> None:
        self._address = address
        self._interval_s = interval_s
        request = PredictRequest()
        request.model_spec.name = model
        request.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 1), np.float32)))
        self._request = request.SerializeToString()
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    @property
    def answers(self) -> list[Answer]:
        """What has come so far."""
        with self._changed:
            return list(self._answers)

    @property
    def failures(self) -> list[str]:
        """The failures so far."""
        return [answer.failure for answer in self.answers if answer.failure]

    def wait_for_more(self, count: int) -> None:
        """Block until so many more requests have been answered."""
        with self._changed:
            wanted = len(self._answers) + count
            assert self._changed.wait_for(lambda: len(self._answers) >= wanted, TIMEOUT_S)

    def wait_for_version(self, version: int) -> None:
        """Block until this version answers, or one fails."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: (
                    self._answers
                    and (self._answers[-1].version == version or self._answers[-1].failure)
                ),
                2 * TIMEOUT_S,
            )

    def stop(self) -> None:
        """Send no more, and wait for the answers that are still to come."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def __enter__(self) -> SteadyLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _send(self) -> None:
        # A channel for each thread: otherwise they share one connection, and its fate.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, options) as channel:
            path = "/tensorflow.serving.PredictionService/Predict"
            predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            due = time.monotonic()
            while not self._stopped.wait(max(0.0, due - time.monotonic())):
                due = max(due + self._interval_s, time.monotonic() - self._interval_s)
                answer = self._ask(predict)
                with self._changed:
                    self._answers.append(answer)
                    self._changed.notify_all()

    def _ask(self, predict: grpc.UnaryUnaryMultiCallable[bytes, bytes]) -> Answer:
        sent_s = time.monotonic()
        version, failure = 0, ""
        try:
            response = PredictResponse.FromString(predict(self._request, timeout=TIMEOUT_S))
            version = response.model_spec.version.value
        except grpc.RpcError as error:
            failure = f"{error.code().name}: {error.details()}"
        return Answer(sent_s, time.monotonic() - sent_s, version, failure)


def p99_ms(answers: list[Answer]) -> float:
    """Return the latency that 99 of 100 requests stayed below."""
    return 1000 * float(np.percentile([answer.took_s for answer in answers], 99))
