from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeClock, FakeServable, spec
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth, Task
from ladle.server.core.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ServingError,
    Unavailable,
)
from ladle.server.core.servable import Signature

FIXED = Signature(name="fixed", inputs={"x": spec(2)}, outputs={"y": spec(2)})
OPEN = Signature(name="open", inputs={"x": spec(-1, -1)}, outputs={"y": spec(-1, -1)})
SUMS = Signature(name="sums", inputs={"x": spec(-1, -1)}, outputs={"y": spec(-1)})


def rows(*values: float) -> NDArray[np.float32]:
    return np.array([[value, -value] for value in values], np.float32)


class Sender:
    """Sends requests; what comes of each is a Future."""

    def __init__(self, batching: BatchingServable) -> None:
        self.batching = batching
        self.tasks: list[Task] = []

    def send(
        self, x: NDArray[Any], deadline: float | None = None, signature: Signature = DOUBLE
    ) -> Future[dict[str, NDArray[Any]]]:
        future: Future[dict[str, NDArray[Any]]] = Future()

        def done(outcome: dict[str, NDArray[Any]] | Exception) -> None:
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.tasks.append(self.batching.submit(signature, {"x": x}, ("y",), done, deadline))
        return future


@pytest.fixture
def servable() -> FakeServable:
    return FakeServable()


MakeSender = Callable[..., Sender]


@pytest.fixture
def make(servable: FakeServable) -> Iterator[MakeSender]:
    """Makes batchers around the fake servable, which are idle at the end."""
    made = []

    def make(clock: FakeClock | None = None, **options: Any) -> Sender:
        batching = BatchingServable(servable, BatchOptions(**options), clock, max_threads=2)
        made.append(batching)
        return Sender(batching)

    yield make
    servable.release()
    for batching in made:
        batching.close()
        assert batching.depth == QueueDepth()
        assert batching.queue_count == 0, "an idle queue leaves nothing behind"


def test_an_idle_model_runs_at_once(make: MakeSender, servable: FakeServable) -> None:
    answer = make().send(rows(1, 2)).result(TIMEOUT_S)

    np.testing.assert_array_equal(answer["y"], rows(2, 4))
    assert servable.batches == [2]


def test_run_blocks_until_the_outputs_are_there(make: MakeSender) -> None:
    batching = make().batching

    answer = batching.run(DOUBLE, {"x": rows(1)}, ("y",))

    np.testing.assert_array_equal(answer["y"], rows(2))
    with pytest.raises(ServingError, match="got NaN"):
        batching.run(DOUBLE, {"x": rows(float("nan"))}, ("y",))


def test_what_comes_while_the_model_runs_makes_the_next_batch(
    make: MakeSender, servable: FakeServable
) -> None:
    sender = make()
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    others = [sender.send(rows(n, n + 0.5)) for n in range(2, 5)]
    assert sender.batching.depth.requests == 3
    assert sender.batching.depth.rows == 6
    servable.release()

    np.testing.assert_array_equal(first.result(TIMEOUT_S)["y"], rows(2))
    for n, other in enumerate(others, start=2):
        np.testing.assert_array_equal(other.result(TIMEOUT_S)["y"], rows(2 * n, 2 * n + 1))
    assert servable.batches == [1, 6]


def test_a_batch_holds_no_more_rows_than_allowed(make: MakeSender, servable: FakeServable) -> None:
    sender = make(max_batch_size=4)
    servable.hold()
    sent = [sender.send(rows(0))]
    servable.wait_until_running()
    sent += [sender.send(rows(*range(number))) for number in (3, 2, 4)]
    servable.release()
    for future in sent:
        future.result(TIMEOUT_S)

    assert servable.batches == [1, 3, 2, 4]


def test_a_batch_waits_for_its_timeout_and_no_longer(
    make: MakeSender, servable: FakeServable
) -> None:
    clock = FakeClock()
    sender = make(clock, batch_timeout_s=5.0, max_batch_size=3)
    first = sender.send(rows(1))
    clock.wait_until_sleeping(1)
    second = sender.send(rows(2))
    assert servable.batches == []
    clock.advance(5.0)
    first.result(TIMEOUT_S)
    second.result(TIMEOUT_S)
    assert servable.batches == [2]

    sender.send(rows(1))
    sender.send(rows(2, 3)).result(TIMEOUT_S)  # full: it doesn't wait

    assert servable.batches == [2, 3]


def test_padding_to_an_allowed_size_is_never_seen(make: MakeSender, servable: FakeServable) -> None:
    sender = make(max_batch_size=8, allowed_batch_sizes=(4, 8))

    answer = sender.send(rows(1, 2, 3)).result(TIMEOUT_S)

    np.testing.assert_array_equal(answer["y"], rows(2, 4, 6))
    assert servable.batches == [4]


def test_large_requests_are_cut_and_put_together_again(
    make: MakeSender, servable: FakeServable
) -> None:
    sender = make(
        max_batch_size=8,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
        num_batch_threads=2,
    )
    servable.hold()
    sent = [sender.send(rows(*range(n, n + size))) for n, size in ((0, 3), (3, 6), (9, 5))]
    servable.release()

    for future, (n, size) in zip(sent, ((0, 3), (3, 6), (9, 5)), strict=True):
        expected = rows(*(2 * m for m in range(n, n + size)))
        np.testing.assert_array_equal(future.result(TIMEOUT_S)["y"], expected)
    assert max(servable.batches) <= 4
    assert sum(servable.batches) == 14


def test_a_request_that_was_cut_fails_whole(make: MakeSender, servable: FakeServable) -> None:
    sender = make(max_batch_size=2, enable_large_batch_splitting=True)
    bad = sender.send(rows(1, 2, float("nan"), 4, 5, 6))

    with pytest.raises(ServingError, match="got NaN"):
        bad.result(TIMEOUT_S)


def test_upstreams_limit_refuses_larger_requests(make: MakeSender) -> None:
    sender = make(max_batch_size=2, refuse_larger=True)

    with pytest.raises(InvalidArgument, match="Task size 3 is larger than maximum input batch"):
        sender.send(rows(1, 2, 3))


def test_a_bad_request_fails_alone(make: MakeSender, servable: FakeServable) -> None:
    sender = make()
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    good = [sender.send(rows(n)) for n in range(15)]
    bad = sender.send(rows(float("nan")))
    servable.release()

    first.result(TIMEOUT_S)
    for n, future in enumerate(good):
        np.testing.assert_array_equal(future.result(TIMEOUT_S)["y"], rows(2 * n))
    with pytest.raises(ServingError, match="got NaN"):
        bad.result(TIMEOUT_S)
    assert len(servable.batches) == 1 + 1 + 2 * 4, "in halves, not one by one"


def test_a_request_that_expires_in_the_queue_is_not_run(
    make: MakeSender, servable: FakeServable
) -> None:
    clock = FakeClock()
    sender = make(clock)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    late = sender.send(rows(2), deadline=clock.now() + 5)
    patient = sender.send(rows(3), deadline=clock.now() + 50)
    clock.advance(10)
    servable.release()

    first.result(TIMEOUT_S)
    patient.result(TIMEOUT_S)
    with pytest.raises(DeadlineExceeded):
        late.result(TIMEOUT_S)
    assert servable.batches == [1, 1]
    assert sender.batching.unwanted_rows == 0


def test_a_request_whose_caller_has_gone_is_not_run(
    make: MakeSender, servable: FakeServable
) -> None:
    sender = make()
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    gone = sender.send(rows(2))
    patient = sender.send(rows(3))
    sender.tasks[1].cancel()
    sender.tasks[1].cancel()
    servable.release()

    with pytest.raises(Cancelled):
        gone.result(TIMEOUT_S)
    first.result(TIMEOUT_S)
    patient.result(TIMEOUT_S)
    sender.tasks[2].cancel()  # after its end: nothing happens
    assert servable.batches == [1, 1]
    assert sender.batching.unwanted_rows == 0


def test_rows_that_ran_for_nobody_are_counted(make: MakeSender, servable: FakeServable) -> None:
    sender = make()
    servable.hold()
    gone = sender.send(rows(1, 2))
    servable.wait_until_running()
    sender.tasks[0].cancel()

    with pytest.raises(Cancelled):
        gone.result(TIMEOUT_S)
    servable.release()
    sender.send(rows(3)).result(TIMEOUT_S)
    assert sender.batching.unwanted_rows == 2


def test_a_deadline_ends_the_wait_while_the_model_runs(
    make: MakeSender, servable: FakeServable
) -> None:
    clock = FakeClock()
    sender = make(clock)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()

    with pytest.raises(DeadlineExceeded):
        sender.batching.run(DOUBLE, {"x": rows(2)}, ("y",), clock.now())

    servable.release()
    first.result(TIMEOUT_S)
    assert servable.batches == [1]


def test_a_full_queue_refuses_at_once(make: MakeSender, servable: FakeServable) -> None:
    sender = make(max_batch_size=3, max_enqueued_batches=1)
    servable.hold()
    first = sender.send(rows(1))
    servable.wait_until_running()
    waiting = sender.send(rows(1, 2))

    with pytest.raises(
        Unavailable, match="2 rows wait of at most 3, and the request brings 2"
    ) as refused:
        sender.send(rows(3, 4))
    assert refused.value.retry_after_s is not None
    sender.batching.admit(100)  # one row would fit

    servable.release()
    first.result(TIMEOUT_S)
    waiting.result(TIMEOUT_S)


def test_the_bytes_that_wait_are_bounded(servable: FakeServable) -> None:
    sender = Sender(BatchingServable(servable, BatchOptions(), max_enqueued_bytes=20))
    servable.hold()
    sender.send(rows(1))
    servable.wait_until_running()
    sender.send(rows(1, 2))

    with pytest.raises(Unavailable, match="16 bytes wait of at most 20, and the request brings 8"):
        sender.send(rows(3))
    with pytest.raises(Unavailable):
        sender.batching.admit(8)

    servable.release()
    sender.batching.close()


def test_options_can_change_while_requests_wait(make: MakeSender, servable: FakeServable) -> None:
    sender = make(max_batch_size=2)
    servable.hold()
    sent = [sender.send(rows(0))]
    servable.wait_until_running()
    sent += [sender.send(rows(n)) for n in range(4)]
    sender.batching.configure(BatchOptions(max_batch_size=4))
    servable.release()
    for future in sent:
        future.result(TIMEOUT_S)

    assert servable.batches == [1, 4]


def test_signatures_without_open_rows_and_odd_shapes_run_alone(
    make: MakeSender, servable: FakeServable
) -> None:
    """Upstream runs what the model takes; nobody else's rows are put at risk by it."""
    sender = make()
    sent = [
        sender.send(rows(1)),
        sender.send(np.ones(2, np.float32), signature=FIXED),
        sender.send(np.ones((2, 3, 4), np.float32)),
        sender.send(np.zeros((0, 2), np.float32)),
        sender.send(np.ones((), np.float32)),
    ]
    for future in sent:
        future.result(TIMEOUT_S)

    assert len(servable.batches) == len(sent)


def test_rows_of_different_shapes_do_not_meet(make: MakeSender, servable: FakeServable) -> None:
    sender = make()
    servable.hold()
    narrow = sender.send(np.ones((1, 2), np.float32), signature=OPEN)
    wide = sender.send(np.ones((1, 3), np.float32), signature=OPEN)
    servable.wait_until_running()
    servable.wait_until_running()
    servable.release()

    assert narrow.result(TIMEOUT_S)["y"].shape == (1, 2)
    assert wide.result(TIMEOUT_S)["y"].shape == (1, 3)


def test_different_shapes_run_together_padded_with_each_ones_first_value() -> None:
    seen = []

    def sums(inputs: Any) -> dict[str, NDArray[Any]]:
        seen.append(inputs["x"].tolist())
        return {"y": inputs["x"].max(axis=1)}

    servable = FakeServable(sums)
    sender = Sender(BatchingServable(servable, BatchOptions(pad_variable_length_inputs=True)))
    servable.hold()
    first = sender.send(np.ones((1, 1), np.float32), signature=SUMS)
    servable.wait_until_running()
    short = sender.send(np.array([[5, 6]], np.float32), signature=SUMS)
    long = sender.send(np.array([[7, 8, 9]], np.float32), signature=SUMS)
    empty = sender.send(np.ones((1, 0), np.float32), signature=SUMS)
    servable.release()

    first.result(TIMEOUT_S)
    assert short.result(TIMEOUT_S)["y"].tolist() == [6]
    assert long.result(TIMEOUT_S)["y"].tolist() == [9]
    with pytest.raises(ValueError, match="zero-size"):
        empty.result(TIMEOUT_S)
    assert [[5, 6, 5], [7, 8, 9]] in seen
    sender.batching.close()


def test_a_signature_whose_outputs_may_follow_padding_is_not_padded(
    make: MakeSender, servable: FakeServable, caplog: pytest.LogCaptureFixture
) -> None:
    sender = make(pad_variable_length_inputs=True)
    narrow = sender.send(np.ones((1, 2), np.float32), signature=OPEN)
    wide = sender.send(np.ones((1, 3), np.float32), signature=OPEN)

    assert narrow.result(TIMEOUT_S)["y"].shape == (1, 2)
    assert wide.result(TIMEOUT_S)["y"].shape == (1, 3)
    assert "output 'y' is declared as float32 [-1, -1]" in caplog.text


def test_outputs_without_a_row_for_each_row_are_computed_request_by_request() -> None:
    """The graph breaks what the signature promises: each gets what it would get alone."""
    servable = FakeServable(lambda inputs: {"y": inputs["x"].sum(keepdims=True)[0]})
    sender = Sender(BatchingServable(servable, BatchOptions(), max_threads=1))
    servable.hold()
    first = sender.send(np.ones((1, 2), np.float32))
    servable.wait_until_running()
    others = [sender.send(np.full((2, 2), n, np.float32)) for n in (1, 2)]
    servable.release()

    assert first.result(TIMEOUT_S)["y"].tolist() == [2]
    assert [other.result(TIMEOUT_S)["y"].tolist() for other in others] == [[4], [8]]
    assert servable.batches == [1, 4, 2, 2]
    later = [sender.send(np.full((2, 2), n, np.float32)) for n in (1, 2)]
    assert [other.result(TIMEOUT_S)["y"].tolist() for other in later] == [[4], [8]]
    assert servable.batches[4:] == [2, 2], "it is remembered"
    sender.batching.close()


def test_a_slow_signature_does_not_hold_up_another(
    make: MakeSender, servable: FakeServable
) -> None:
    sender = make()
    servable.hold()
    slow = sender.send(rows(1))
    servable.wait_until_running()
    other = sender.send(np.ones((1, 3), np.float32), signature=OPEN)
    servable.wait_until_running()
    servable.release()

    slow.result(TIMEOUT_S)
    other.result(TIMEOUT_S)


def test_callers_may_block_in_any_number_of_threads(make: MakeSender) -> None:
    batching = make(max_batch_size=7).batching

    def call(n: int) -> float:
        return float(batching.run(DOUBLE, {"x": rows(n)}, ("y",))["y"][0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(200))) == [2 * n for n in range(200)]


def test_a_servable_that_was_closed_is_gone_at_once(servable: FakeServable) -> None:
    """Not with some later collection: until then its options would be kept up to date."""
    batching = BatchingServable(servable, BatchOptions())
    batching.run(DOUBLE, {"x": np.ones((1, 2), np.float32)}, ("y",))
    batching.close()
    closed = weakref.ref(batching)
    gc.disable()
    try:
        del batching
        assert closed() is None
    finally:
        gc.enable()


def test_one_can_wait_for_what_waits_and_runs() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    one_row = {"x": np.ones((1, 2), np.float32)}
    model.hold()
    batching.submit(DOUBLE, one_row, ("y",), lambda _: None)
    model.wait_until_running()
    later = batching.submit(DOUBLE, one_row, ("y",), lambda _: None)
    assert batching.wait_until(lambda depth: (depth.requests, depth.running) == (1, 1), TIMEOUT_S)
    assert not batching.wait_until(lambda depth: depth.requests > 1, 0.0)

    cancelling = threading.Thread(target=later.cancel)
    cancelling.start()
    assert batching.wait_until(lambda depth: not depth.requests, TIMEOUT_S)
    cancelling.join()
    releasing = threading.Thread(target=model.release)
    releasing.start()
    assert batching.wait_until(lambda depth: not depth.running, TIMEOUT_S)
    releasing.join()
    batching.close()
