"""What goes wrong beneath the queue reaches the callers it concerns, and leaves nothing behind."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, spec
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth
from ladle.server.core.errors import Unavailable
from ladle.server.core.observation import Run, Unobserved
from ladle.server.core.servable import Signature

WIDE = Signature(name="wide", inputs={"x": spec(-1, 2)}, outputs={"y": spec(-1, -1)})
CUT = BatchOptions(max_batch_size=2, enable_large_batch_splitting=True)

Answer = Future[dict[str, NDArray[Any]]]


def send(batching: BatchingServable, count: int, first: float = 0) -> Answer:
    """Send a request of so many rows."""
    future: Answer = Future()

    def done(outcome: dict[str, NDArray[Any]] | Exception) -> None:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    x = np.arange(first, first + 2 * count, dtype=np.float32).reshape(count, 2)
    batching.submit(WIDE, {"x": x}, ("y",), done)
    return future


class Starting:
    """Lets threads that run batches start, or not, as on a machine that has no room for more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        start = threading.Thread.start

        def start_or_fail(thread: threading.Thread) -> None:
            if self.fails and thread.name == "batch":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)


def test_pieces_that_do_not_fit_together_fail_their_request_and_no_other() -> None:
    """How wide an output is may depend on the rows that run together."""

    def as_wide_as_the_first_value(inputs: Any) -> dict[str, NDArray[Any]]:
        return {"y": np.ones((len(inputs["x"]), 1 + int(inputs["x"][0, 0])), np.float32)}

    servable = FakeServable(as_wide_as_the_first_value)
    batching = BatchingServable(servable, CUT, max_threads=1)

    with pytest.raises(Exception, match="cut into"):
        send(batching, 4).result(TIMEOUT_S)

    assert send(batching, 2).result(TIMEOUT_S)["y"].shape == (2, 1)
    batching.close()
    assert batching.depth == QueueDepth()
    assert batching.queue_count == 0


def test_a_request_that_was_cut_and_turns_out_unbatchable_is_counted_out_once() -> None:
    servable = FakeServable(lambda inputs: {"y": inputs["x"].sum(keepdims=True)[0]})
    batching = BatchingServable(servable, CUT, max_threads=1)

    assert send(batching, 6).result(TIMEOUT_S)["y"].tolist() == [66]

    batching.close()
    assert batching.depth == QueueDepth()
    assert batching.queue_count == 0


def test_an_observer_that_fails_takes_no_answer_with_it() -> None:
    class Failing(Unobserved):
        def run_ended(self, run: Run) -> None:
            raise RuntimeError("observer")

    batching = BatchingServable(FakeServable(), BatchOptions(), max_threads=1, observer=Failing())

    for _ in range(2):
        assert send(batching, 1).result(TIMEOUT_S)["y"].tolist() == [[0, 2]]
    batching.close()
    assert batching.depth == QueueDepth()


def test_without_any_thread_a_request_is_refused_and_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting = Starting(monkeypatch)
    batching = BatchingServable(FakeServable(), BatchOptions(), max_threads=1)
    starting.fails = True

    with pytest.raises(Unavailable, match="thread"):
        send(batching, 1)

    assert batching.depth == QueueDepth()
    assert batching.queue_count == 0
    starting.fails = False
    assert send(batching, 1).result(TIMEOUT_S)["y"].tolist() == [[0, 2]]
    batching.close()


def test_who_has_started_needs_no_further_thread_to_run_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An available version would refuse all requests where the system has no more threads."""
    starting = Starting(monkeypatch)
    batching = BatchingServable(FakeServable(), BatchOptions(), max_threads=4)
    starting.fails = True
    with pytest.raises(Unavailable, match="no thread can be had to run requests"):
        batching.start()
    starting.fails = False
    batching.start()
    starting.fails = True
    batching.start()  # it has one
    answers = [send(batching, 1) for _ in range(10)]
    assert [answer.result(TIMEOUT_S)["y"].tolist() for answer in answers] == [[[0, 2]]] * 10
    batching.close()


def test_without_a_further_thread_requests_wait_for_one_that_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting = Starting(monkeypatch)
    servable = FakeServable()
    batching = BatchingServable(servable, BatchOptions(num_batch_threads=2), max_threads=2)
    servable.hold()
    first = send(batching, 1)
    servable.wait_until_running()
    starting.fails = True
    second = send(batching, 1, first=5)
    servable.release()

    assert first.result(TIMEOUT_S)["y"].tolist() == [[0, 2]]
    assert second.result(TIMEOUT_S)["y"].tolist() == [[10, 12]]
    batching.close()
    assert batching.depth == QueueDepth()
