from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, PATIENCE_S, FakeClock, FakeServable, spec
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.server.core.batching import BatchingServable, BatchOptions, plan
from ladle.server.core.errors import DeadlineExceeded, ServingError, Unavailable
from ladle.server.core.servable import Signature


@dataclass
class Request:
    rows: int
    deadline: float | None = None


requests = st.lists(
    st.builds(
        Request,
        st.integers(min_value=1, max_value=12),
        st.none() | st.floats(min_value=0, max_value=10),
    )
)


@given(waiting=requests, now=st.floats(min_value=0, max_value=10), limit=st.integers(1, 20))
def test_the_plan_takes_from_the_head_what_fits_and_is_still_wanted(
    waiting: list[Request], now: float, limit: int
) -> None:
    batch, expired = plan(waiting, now, limit)

    taken = waiting[: len(batch) + len(expired)]
    assert [r for r in taken if r in batch or r in expired] == taken
    assert all(r.deadline is None or r.deadline > now for r in batch)
    assert all(r.deadline is not None and r.deadline <= now for r in expired)
    assert sum(r.rows for r in batch) <= limit or len(batch) == 1
    if not batch:
        assert len(expired) == len(waiting)
    elif len(taken) < len(waiting):
        following = waiting[len(taken)]
        assert sum(r.rows for r in batch) + following.rows > limit


def rows(*values: float) -> NDArray[np.float32]:
    return np.array([[value, -value] for value in values], np.float32)


class WatchedLock:
    """A lock that tells, each time it is let go, whoever waits for what it guards."""

    def __init__(self) -> None:
        self._released = threading.Condition()

    def __enter__(self) -> None:
        self._released.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._released.notify_all()
        self._released.release()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._released:
            assert self._released.wait_for(condition, PATIENCE_S)


class Callers:
    """Sends requests from threads of their own, and knows when they have joined the queue."""

    def __init__(self, batching: BatchingServable) -> None:
        self._batching = batching
        self._lock = WatchedLock()
        batching._lock = self._lock  # type: ignore[assignment]
        self._pool = ThreadPoolExecutor(32)

    def send(
        self, x: NDArray[Any], deadline: float | None = None, signature: Signature = DOUBLE
    ) -> Future[dict[str, NDArray[Any]]]:
        return self._pool.submit(self._batching.run, signature, {"x": x}, ("y",), deadline)

    def wait_until_queued(self, count: int) -> None:
        """Block until so many requests wait behind the one that runs."""
        queues = self._batching._queues
        self._lock.wait_for(lambda: sum(len(q.waiting) for q in queues.values()) == count)


@pytest.fixture
def servable() -> FakeServable:
    return FakeServable()


MakeCallers = Callable[..., Callers]


@pytest.fixture
def callers(servable: FakeServable) -> MakeCallers:
    def make(clock: FakeClock | None = None, **options: int) -> Callers:
        return Callers(BatchingServable(servable, BatchOptions(**options), clock))

    return make


def test_an_idle_model_runs_at_once(callers: MakeCallers, servable: FakeServable) -> None:
    answer = callers().send(rows(1, 2)).result(PATIENCE_S)

    np.testing.assert_array_equal(answer["y"], rows(2, 4))
    assert servable.batches == [2]


def test_what_comes_while_the_model_runs_makes_the_next_batch(
    callers: MakeCallers, servable: FakeServable
) -> None:
    sender = callers()
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    others = [sender.send(rows(n, n + 0.5)) for n in range(2, 5)]
    sender.wait_until_queued(3)
    servable.let_go()

    np.testing.assert_array_equal(first.result(PATIENCE_S)["y"], rows(2))
    for n, other in enumerate(others, start=2):
        np.testing.assert_array_equal(other.result(PATIENCE_S)["y"], rows(2 * n, 2 * n + 1))
    assert servable.batches == [1, 6]
    assert sender._batching._queues == {}, "an idle queue leaves nothing behind"


def test_a_batch_holds_no_more_rows_than_allowed(
    callers: MakeCallers, servable: FakeServable
) -> None:
    sender = callers(max_batch_size=4)
    servable.hold()
    sent = [sender.send(rows(0))]
    servable.wait_until_running()
    for count, number in ((1, 3), (2, 2), (3, 4)):
        sent.append(sender.send(rows(*range(number))))
        sender.wait_until_queued(min(count, 2))
        if number == 4:
            break
    servable.let_go()
    for future in sent:
        future.result(PATIENCE_S)

    assert sorted(servable.batches) == [1, 2, 3, 4]


def test_a_bad_request_fails_alone(callers: MakeCallers, servable: FakeServable) -> None:
    sender = callers()
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    good = [sender.send(rows(n)) for n in range(3)]
    bad = sender.send(rows(float("nan")))
    sender.wait_until_queued(4)
    servable.let_go()

    first.result(PATIENCE_S)
    for n, future in enumerate(good):
        np.testing.assert_array_equal(future.result(PATIENCE_S)["y"], rows(2 * n))
    with pytest.raises(ServingError, match="got NaN"):
        bad.result(PATIENCE_S)


def test_a_request_that_expires_in_the_queue_is_not_run(
    callers: MakeCallers, servable: FakeServable
) -> None:
    clock = FakeClock()
    sender = callers(clock)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    late = sender.send(rows(2), deadline=clock.now() + PATIENCE_S * 2)
    patient = sender.send(rows(3))
    sender.wait_until_queued(2)
    clock.advance(PATIENCE_S * 3)
    servable.let_go()

    first.result(PATIENCE_S)
    patient.result(PATIENCE_S)
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    assert servable.batches == [1, 1]


def test_a_deadline_ends_the_wait_while_the_model_runs(
    callers: MakeCallers, servable: FakeServable
) -> None:
    clock = FakeClock()
    sender = callers(clock)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()

    with pytest.raises(DeadlineExceeded):
        sender.send(rows(2), deadline=clock.now()).result(PATIENCE_S)

    servable.let_go()
    first.result(PATIENCE_S)
    assert servable.batches == [1]


def test_a_full_queue_refuses_at_once(callers: MakeCallers, servable: FakeServable) -> None:
    sender = callers(max_batch_size=3, max_enqueued_batches=1)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    waiting = sender.send(rows(1, 2))
    sender.wait_until_queued(1)

    with pytest.raises(Unavailable, match="2 rows wait of at most 3, and the request brings 2"):
        sender.send(rows(3, 4)).result(PATIENCE_S)

    servable.let_go()
    first.result(PATIENCE_S)
    waiting.result(PATIENCE_S)


FIXED = Signature(name="fixed", inputs={"x": spec(2)}, outputs={"y": spec(2)})
OPEN = Signature(name="open", inputs={"x": spec(-1, -1)}, outputs={"y": spec(-1, -1)})


def test_signatures_without_open_rows_and_odd_shapes_run_alone(
    callers: MakeCallers, servable: FakeServable
) -> None:
    """Upstream runs what the model takes; nobody else's rows are put at risk by it."""
    sender = callers()
    servable.hold()
    sent = [
        sender.send(rows(1)),
        sender.send(np.ones(2, np.float32), signature=FIXED),
        sender.send(np.ones((2, 3, 4), np.float32)),
        sender.send(np.zeros((0, 2), np.float32)),
        sender.send(np.ones((), np.float32)),
    ]
    for _ in sent:
        servable.wait_until_running()
    servable.let_go()
    for future in sent:
        future.result(PATIENCE_S)

    assert len(servable.batches) == len(sent)


def test_rows_of_different_shapes_do_not_meet(callers: MakeCallers, servable: FakeServable) -> None:
    sender = callers()
    servable.hold()
    narrow = sender.send(np.ones((1, 2), np.float32), signature=OPEN)
    wide = sender.send(np.ones((1, 3), np.float32), signature=OPEN)
    servable.wait_until_running()
    servable.wait_until_running()
    servable.let_go()

    assert narrow.result(PATIENCE_S)["y"].shape == (1, 2)
    assert wide.result(PATIENCE_S)["y"].shape == (1, 3)


def test_outputs_without_a_row_for_each_row_are_computed_request_by_request() -> None:
    """The graph breaks what the signature promises: each gets what it would get alone."""
    servable = FakeServable(lambda inputs: {"y": inputs["x"].sum(keepdims=True)[0]})
    sender = Callers(BatchingServable(servable, BatchOptions()))
    servable.hold()
    first = sender.send(np.ones((1, 2), np.float32))
    servable.wait_until_running()
    others = [sender.send(np.full((2, 2), n, np.float32)) for n in (1, 2)]
    sender.wait_until_queued(2)
    servable.let_go()

    assert first.result(PATIENCE_S)["y"].tolist() == [2]
    assert [other.result(PATIENCE_S)["y"].tolist() for other in others] == [[4], [8]]


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=40),
    limit=st.integers(min_value=1, max_value=8),
    threads=st.sampled_from([1, 2, 4]),
    bad=st.sets(st.integers(min_value=0, max_value=39)),
)
def test_each_caller_gets_its_own_rows_or_its_own_error(
    sizes: list[int], limit: int, threads: int, bad: set[int]
) -> None:
    servable = FakeServable()
    options = BatchOptions(
        max_batch_size=limit, num_batch_threads=threads, max_enqueued_batches=999
    )
    sender = Callers(BatchingServable(servable, options))
    sent = []
    for number, size in enumerate(sizes):
        x = np.full((size, 2), number, np.float32)
        if number in bad:
            x[-1, -1] = np.nan
        sent.append(sender.send(x))

    for number, (size, future) in enumerate(zip(sizes, sent, strict=True)):
        if number in bad:
            with pytest.raises(ServingError, match="NaN"):
                future.result(PATIENCE_S)
        else:
            expected = np.full((size, 2), 2 * number, np.float32)
            np.testing.assert_array_equal(future.result(PATIENCE_S)["y"], expected)
    assert max(servable.batches) <= max(limit, max(sizes))
    assert sender._batching._queues == {}
    sender._pool.shutdown()


@pytest.mark.parametrize("name", ["max_batch_size", "max_enqueued_batches", "num_batch_threads"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected 1 or more, got 0"):
        BatchOptions(**{name: 0})
