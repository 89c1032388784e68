from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fakes import DOUBLE, FakeServable, spec

from ladle.protos import dtypes
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import Queue, QueueCapacity, QueueDepth, QueueKey, Task
from ladle.server.core.errors import Unavailable
from ladle.server.core.observation import Observation, Run, Unobserved
from ladle.server.core.servable import Signature

TWENTY = BatchOptions(max_batch_size=10, max_enqueued_batches=2)
STRINGS = Signature(
    name="strings",
    inputs={"x": spec(-1, data_type=dtypes.STRING)},
    outputs={"y": spec(-1)},
)


class Walks(dict[Task, None]):
    """Counts how often somebody goes through the requests that wait."""

    count = 0

    def __iter__(self) -> Iterator[Task]:
        self.count += 1
        return super().__iter__()


def task(deadline: float | None) -> Task:
    x = np.ones((1, 2), np.float32)
    return Task({"x": x}, 1, deadline, lambda _: None, lambda _: None)


def test_requests_that_wait_are_gone_through_only_when_one_of_them_may_be_late() -> None:
    """Each batch asks for late ones, and there may be thousands."""
    queue = Queue(QueueKey("double", ("y",), False, False, False, None), DOUBLE, QueueDepth())
    walks = queue.waiting = Walks()
    tasks = [task(deadline) for deadline in (20.0, None, 10.0, 30.0)]
    for one in tasks:
        queue.enqueue(one, 0.0)

    assert queue.expired(9.0) == []
    assert walks.count == 0
    assert queue.expired(10.0) == [tasks[2]]
    tasks[2].end()
    assert walks.count == 1
    assert queue.expired(19.0) == []
    assert walks.count == 1
    tasks[0].end()
    assert queue.expired(25.0) == []
    assert queue.expired(29.0) == []
    assert walks.count == 2
    late = task(5.0)
    queue.enqueue(late, 29.0)
    assert queue.expired(30.0) == [tasks[3], late]


def test_the_bytes_that_may_wait_are_those_of_the_strings_too() -> None:
    model = FakeServable(lambda inputs: {"y": np.ones(len(inputs["x"]), np.float32)}, (STRINGS,))
    batching = BatchingServable(model, None, max_enqueued_bytes=3000, max_threads=1)
    images = np.array([b"x" * 600, b"y" * 400], object)
    model.hold()
    batching.submit(STRINGS, {"x": images}, ("y",), lambda _: None)
    model.wait_until_running()

    for _ in range(2):
        batching.submit(STRINGS, {"x": images}, ("y",), lambda _: None)
    assert batching.depth.nbytes == 2 * (1000 + images.nbytes)
    with pytest.raises(Unavailable, match="2032 bytes wait of at most 3000"):
        batching.submit(STRINGS, {"x": images}, ("y",), lambda _: None)

    model.release()
    batching.close()


@pytest.mark.parametrize(
    ("signature", "shape", "rows"),
    [(DOUBLE, (64, 2), 64), (Signature("fixed", {"x": spec(2)}, {"y": spec(2)}), (2,), 1)],
)
def test_the_rows_of_a_request_that_runs_alone_are_noted_too(
    signature: Signature, shape: tuple[int, ...], rows: int
) -> None:
    runs: list[int] = []

    class Noting(Unobserved):
        def run_ended(self, run: Run) -> None:
            runs.append(run.rows)

    batching = BatchingServable(FakeServable(), None, observer=Noting())
    seen = Observation("Predict", "GRPC", b"")
    x = np.ones(shape, np.float32)

    batching.submit(signature, {"x": x}, ("y",), lambda _: None, None, seen)
    batching.close()

    assert seen.rows == rows
    assert runs == [rows]


def test_what_would_wait_alone_always_has_room() -> None:
    QueueCapacity(QueueDepth(running=1), max_bytes=10).check(1000, 1000, TWENTY)


def test_rows_and_bytes_are_bounded_together_with_what_waits() -> None:
    room = QueueCapacity(QueueDepth(requests=1, rows=15, nbytes=60), max_bytes=100)
    room.check(5, 40, TWENTY)
    with pytest.raises(Unavailable, match="15 rows wait of at most 20, and the request brings 6"):
        room.check(6, 0, TWENTY)
    with pytest.raises(Unavailable, match=r"60 bytes wait of at most 100, .* brings 41"):
        room.check(1, 41, TWENTY)
    room.check(6, 0, None)  # without batching the bounds are the defaults


def test_who_is_refused_hears_when_what_waits_will_have_run() -> None:
    room = QueueCapacity(QueueDepth(requests=1, rows=20), max_bytes=100)
    for _ in range(50):
        room.batch_took(0.5)
    with pytest.raises(Unavailable) as refused:
        room.check(1, 0, TWENTY)
    assert refused.value.reason == "queue_full"
    assert refused.value.retry_after_s == pytest.approx(1.5, rel=0.01)

    for _ in range(50):
        room.batch_took(3600)
    with pytest.raises(Unavailable) as refused:
        room.check(1, 0, TWENTY)
    assert refused.value.retry_after_s == 10
