from __future__ import annotations

import threading
from typing import Any

import numpy as np
from fakes import DOUBLE, TIMEOUT_S, FakeClock, FakeServable

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import Cancelled, DeadlineExceeded


def test_what_callers_leave_to_be_done_is_done_once_when_all_of_the_batch_are_told() -> None:
    """And whatever one of them does wrong is nothing to the others."""
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    told: list[int] = []
    done: list[list[int]] = []
    over = threading.Event()

    def afterwards() -> None:
        done.append(list(told))
        over.set()
        raise RuntimeError("boom")

    def send(number: int, *, well: bool = True) -> None:
        def end(_outcome: object) -> Any:
            told.append(number)
            if not well:
                raise RuntimeError("boom")
            return [afterwards]

        x = np.ones((1, 2), np.float32)
        batching.submit(DOUBLE, {"x": x}, ("y",), end)

    model.hold()
    batching.submit(DOUBLE, {"x": np.ones((1, 2), np.float32)}, ("y",), lambda _: None)
    model.wait_until_running()
    for number in range(4):
        send(number, well=number != 2)
    model.release()

    assert over.wait(TIMEOUT_S)
    batching.close()
    assert done == [[0, 1, 2, 3]]


def test_what_a_caller_leaves_who_goes_is_done_in_a_thread_of_the_batcher() -> None:
    """It takes a while, and who tells that a caller has gone may be who reads from the network."""
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    threads: list[threading.Thread] = []
    over = threading.Event()

    def afterwards() -> None:
        threads.append(threading.current_thread())
        over.set()

    x = np.ones((1, 2), np.float32)
    model.hold()
    batching.submit(DOUBLE, {"x": x}, ("y",), lambda _: None)
    model.wait_until_running()
    told: list[object] = []

    def end(outcome: object) -> Any:
        told.append(outcome)
        return [afterwards]

    batching.submit(DOUBLE, {"x": x}, ("y",), end).cancel()
    assert isinstance(told[0], Cancelled)
    model.release()

    assert over.wait(TIMEOUT_S)
    assert threads != [threading.current_thread()]
    batching.close()


def test_a_request_whose_deadline_passes_after_its_first_rows_have_run_gets_no_part_of_them() -> (
    None
):
    clock, model = FakeClock(), FakeServable()
    options = BatchOptions(max_batch_size=2, enable_large_batch_splitting=True)
    batching = BatchingServable(model, options, clock)
    outcomes: list[object] = []
    over = threading.Event()

    def end(outcome: object) -> None:
        outcomes.append(outcome)
        over.set()

    model.hold()
    x = np.ones((4, 2), np.float32)
    batching.submit(DOUBLE, {"x": x}, ("y",), end, clock.now() + 1)
    model.wait_until_running()
    clock.advance(2)
    model.release()

    assert over.wait(TIMEOUT_S)
    batching.close()
    assert model.batches == [2]
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded]
