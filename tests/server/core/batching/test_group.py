"""Requests that are alike wait as one, and each ends as it would have ended alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeAlike, FakeClock, FakeServable, spec
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth
from ladle.server.core.batching.trust import Standing
from ladle.server.core.errors import Cancelled, ServingError
from ladle.server.core.observation import Run, Unobserved
from ladle.server.core.servable import Arrays, Signature

STATEFUL = Signature(DOUBLE.name, DOUBLE.inputs, DOUBLE.outputs, stateful="it counts")
OPEN = Signature("open", {"x": spec(-1, -1)}, {"y": spec(-1, -1)})


def rows(*values: float, of_each: int = 1) -> list[Arrays]:
    return [{"x": np.full((of_each, 2), value, np.float32)} for value in values]


def served(group: FakeAlike) -> list[Any]:
    """Wait until all of a group have ended, and return their outcomes."""
    assert group.overs.acquire(timeout=TIMEOUT_S)
    assert [len(outcomes) for outcomes in group.outcomes] == [1] * len(group)
    return [outcomes[0] for outcomes in group.outcomes]


def values(outcomes: list[Any]) -> list[list[list[float]]]:
    return [outcome["y"].tolist() for outcome in outcomes]


def test_each_request_gets_its_own_rows_of_one_run() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    group = FakeAlike(rows(1, 2, 3, of_each=2))

    assert batching.submit_alike(DOUBLE, rows(1, of_each=2)[0], ("y",), group)

    assert values(served(group)) == [[[2, 2]] * 2, [[4, 4]] * 2, [[6, 6]] * 2]
    batching.close()
    assert model.batches == [6]


def test_requests_that_are_alike_share_a_batch_with_others() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    alone, first, second = FakeAlike(rows(0)), FakeAlike(rows(1, 2)), FakeAlike(rows(3, 4, 5))
    outcomes: list[Any] = []
    model.hold()
    batching.submit_alike(DOUBLE, rows(0)[0], ("y",), alone)
    model.wait_until_running()
    for group in (first, second):
        batching.submit_alike(DOUBLE, rows(0)[0], ("y",), group)
    batching.submit(DOUBLE, rows(6)[0], ("y",), outcomes.append)
    assert batching.depth == QueueDepth(requests=6, rows=6, nbytes=48, running=1)
    model.release()

    assert values(served(first)) == [[[2, 2]], [[4, 4]]]
    assert values(served(second)) == [[[6, 6]], [[8, 8]], [[10, 10]]]
    batching.close()
    assert values(outcomes) == [[[12, 12]]]
    assert model.batches == [1, 6]
    assert batching.depth == QueueDepth()


def test_they_are_cut_between_requests_where_a_batch_is_full() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions(max_batch_size=5, max_enqueued_batches=9))
    group = FakeAlike(rows(*range(5), of_each=2))

    assert batching.submit_alike(DOUBLE, rows(0, of_each=2)[0], ("y",), group)

    assert values(served(group)) == [[[2 * x, 2 * x]] * 2 for x in range(5)]
    batching.close()
    assert model.batches == [4, 4, 2]


def test_a_bad_request_fails_alone() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    group = FakeAlike(rows(1, 2, float("nan"), 4, 5))

    batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)

    outcomes = served(group)
    assert isinstance(outcomes.pop(2), ServingError)
    assert values(outcomes) == [[[2, 2]], [[4, 4]], [[8, 8]], [[10, 10]]]
    batching.close()


def test_a_request_of_a_stateful_graph_runs_once_whatever_fails() -> None:
    model = FakeServable(signatures=(STATEFUL,))
    batching = BatchingServable(model, BatchOptions())
    group = FakeAlike(rows(1, float("nan")))

    batching.submit_alike(STATEFUL, rows(1)[0], ("y",), group)

    assert all(isinstance(outcome, ServingError) for outcome in served(group))
    batching.close()
    assert model.batches == [2]


def test_each_runs_alone_where_an_output_lacks_rows() -> None:
    def sums(inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        return {"y": inputs["x"].sum(axis=0, keepdims=True)}

    model = FakeServable(sums)
    batching = BatchingServable(model, BatchOptions())
    group = FakeAlike(rows(1, 2, 3))

    batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)

    assert values(served(group)) == [[[1, 1]], [[2, 2]], [[3, 3]]]
    assert batching.submit_alike(DOUBLE, rows(1)[0], ("y",), FakeAlike(rows(1, 2))) is None
    batching.close()
    assert model.batches == [3, 1, 1, 1]


def test_whose_caller_goes_leaves_the_queue_without_running() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    first, group, gone = FakeAlike(rows(0)), FakeAlike(rows(1, 2, 3)), FakeAlike(rows(4, 5))
    model.hold()
    batching.submit_alike(DOUBLE, rows(0)[0], ("y",), first)
    model.wait_until_running()
    pending = batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)
    left = batching.submit_alike(DOUBLE, rows(1)[0], ("y",), gone)
    assert pending is not None
    assert left is not None
    group.leave(1, pending)
    group.leave(1, pending)  # without effect
    for member in range(2):
        gone.leave(member, left)
    assert batching.depth == QueueDepth(requests=2, rows=2, nbytes=16, running=1)
    assert all(isinstance(outcome, Cancelled) for outcome in served(gone))
    model.release()

    outcomes = served(group)
    assert isinstance(outcomes.pop(1), Cancelled)
    assert values(outcomes) == [[[2, 2]], [[6, 6]]]
    batching.close()
    assert model.batches == [1, 2]
    assert batching.queue_count == 0


def test_whose_caller_goes_while_it_runs_has_rows_that_nobody_wanted() -> None:
    model = FakeServable()
    batching = BatchingServable(model, BatchOptions())
    group = FakeAlike(rows(1, 2, 3))
    model.hold()
    pending = batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)
    assert pending is not None
    model.wait_until_running()
    group.leave(0, pending)
    model.release()

    outcomes = served(group)
    assert isinstance(outcomes.pop(0), Cancelled)
    assert values(outcomes) == [[[4, 4]], [[6, 6]]]
    batching.close()
    assert batching.unwanted_rows == 1


@pytest.mark.parametrize(
    ("options", "signature", "inputs"),
    [
        pytest.param(None, DOUBLE, rows(1, 2), id="no batches"),
        pytest.param(BatchOptions(max_batch_size=2), DOUBLE, rows(1, 2, of_each=3), id="too many"),
        pytest.param(
            BatchOptions(max_batch_size=2, max_enqueued_batches=1), DOUBLE, rows(1, 2, 3), id="full"
        ),
        pytest.param(
            BatchOptions(pad_variable_length_inputs=True), OPEN, rows(1, 2), id="to be padded"
        ),
        pytest.param(BatchOptions(), DOUBLE, [{"x": np.ones((0, 2), np.float32)}] * 2, id="empty"),
        pytest.param(BatchOptions(), DOUBLE, [{"x": np.ones((1, 3), np.float32)}] * 2, id="shape"),
    ],
)
def test_what_can_t_go_as_one_is_left_to_be_submitted_by_itself(
    options: BatchOptions | None, signature: Signature, inputs: list[Arrays]
) -> None:
    batching = BatchingServable(FakeServable(signatures=(DOUBLE, OPEN)), options)

    assert batching.submit_alike(signature, inputs[0], ("y",), FakeAlike(inputs)) is None

    assert batching.depth == QueueDepth()
    batching.close()


def test_a_signature_on_trial_takes_none() -> None:
    batching = BatchingServable(FakeServable(), BatchOptions(), said_by="")

    assert batching.submit_alike(DOUBLE, rows(1)[0], ("y",), FakeAlike(rows(1, 2))) is None

    batching.close()


class Counting(FakeAlike):
    copies = 0

    def inputs(self, members: Sequence[int]) -> Arrays:
        self.copies += 1
        return super().inputs(members)


def test_a_run_copies_the_inputs_once() -> None:
    batching = BatchingServable(FakeServable(), BatchOptions())
    group = Counting(rows(1, 2, 3))

    batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)

    served(group)
    batching.close()
    assert group.copies == 1


class Running:
    """Requests that run: that a caller goes is without effect."""

    def leave(self, member: int) -> None:
        pass


class Fading(FakeAlike):
    """The caller of its first member goes while its batch runs, and the member's inputs with it."""

    def inputs(self, members: Sequence[int]) -> Arrays:
        inputs = super().inputs(members)
        if 0 in members and not self.waiting([0]):
            inputs["x"][members.index(0)] = 0
        self.leave(0, Running())
        return inputs


def test_a_caller_that_goes_does_not_make_batches_look_wrong() -> None:
    options = BatchOptions(num_batch_threads=1)
    batching = BatchingServable(FakeServable(), options, FakeClock(), max_threads=1, said_by="")
    random = np.random.default_rng(7)

    def standing() -> Standing:
        return batching.standings()[DOUBLE.name].standing

    for _ in range(1000):
        if standing() is not Standing.ON_TRIAL:
            break
        batching.run(DOUBLE, {"x": random.normal(size=(2, 2)).astype(np.float32)}, ("y",))
        assert batching.wait_until_idle(TIMEOUT_S)
    compared = batching.comparisons
    group = Fading(rows(1, 2, 3))

    assert batching.submit_alike(DOUBLE, rows(1)[0], ("y",), group)

    assert values(served(group)[1:]) == [[[4, 4]], [[6, 6]]]
    another = FakeAlike(rows(4, 5))  # the only thread takes it after it has begun a comparison
    assert batching.submit_alike(DOUBLE, rows(1)[0], ("y",), another)
    served(another)
    assert batching.wait_until_idle(TIMEOUT_S)
    assert batching.comparisons > compared
    assert standing() is Standing.BATCHED
    batching.close()


class Runs(Unobserved):
    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def run_ended(self, run: Run) -> None:
        self.runs.append((run.batched, run.rows))


def test_an_observer_hears_of_all_requests_of_a_run() -> None:
    observer = Runs()
    batching = BatchingServable(FakeServable(), BatchOptions(), observer=observer)
    group = FakeAlike(rows(1, 2, 3, of_each=2))

    batching.submit_alike(DOUBLE, rows(1, of_each=2)[0], ("y",), group)

    served(group)
    batching.close()
    assert observer.runs == [(3, 6)]
    assert group.observation.rows == 2
