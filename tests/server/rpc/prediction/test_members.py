"""What becomes of single requests among those that pass through Python as one, of either method."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from fakes import TIMEOUT_S, until
from server.rpc.prediction.calling import INFER, PREDICT, Method
from server.rpc.prediction.grouping import OF_OTHER_INPUTS, Served, making, statuses

from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.core.rollout.split import Rollout

Make: TypeAlias = "Callable[..., Served]"


@pytest.fixture(params=[PREDICT, INFER], ids=["Predict", "ModelInfer"])
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = request.param
    return found


@pytest.fixture
def make(method: Method) -> Iterator[Make]:
    with making(method.path, method.read) as make:
        yield make


def test_requests_that_are_alike_run_as_one(make: Make, method: Method) -> None:
    served = make()

    assert served.outcomes(method.images(*range(9), rows=2)) == method.doubled(*range(9), rows=2)

    assert True in served.as_one
    assert False not in served.as_one
    assert served.models[1].batches[0] > 2


def test_a_bad_request_among_those_that_are_alike_fails_alone(make: Make, method: Method) -> None:
    served = make()

    outcomes = served.outcomes(method.images(1, 2, float("nan"), 4))

    assert outcomes.pop(2) == ("UNKNOWN", "x: expected numbers, got NaN")
    assert outcomes == method.doubled(1, 2, 4)
    assert True in served.as_one
    assert statuses(served) == {"OK": 3, "UNKNOWN": 1}


def test_callers_that_go_are_counted_and_their_rows_do_not_run(make: Make, method: Method) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    first = served.begin(method.images(0))
    model.wait_until_running()
    futures = served.begin(method.images(1, 2, 3, 4))
    until(lambda: served.as_one)
    futures[1].cancel()
    futures[2].cancel()
    until(lambda: statuses(served).get("CANCELLED") == 2)
    model.release()

    assert [served.outcome(future) for future in first] == method.doubled(0)
    assert [served.outcome(futures[at]) for at in (0, 3)] == method.doubled(1, 4)
    assert model.batches == [1, 2]
    assert statuses(served) == {"OK": 3, "CANCELLED": 2}


@pytest.mark.parametrize("count", [1, 2])
def test_whose_caller_goes_before_the_request_is_looked_at_is_counted_as_that(
    make: Make, method: Method, count: int
) -> None:
    """Its message goes with the caller: what is left is not to be taken for a wrong request."""
    served = make()
    with served.held():
        gate, held = served.hold()
        futures = [
            served.call.future(each, timeout=TIMEOUT_S) for each in method.images(1, 2)[:count]
        ]
        come = 1 + sum(map(len, method.images(1, 2)[:count]))
        until(lambda: served.transport.limits.budget.used == come + 1)  # and a byte of each hold
    served.wait_until_held()
    for future in futures:
        future.cancel()
    until(lambda: served.transport.limits.budget.used == 1)
    gate.set()
    held.result()

    until(lambda: statuses(served) == {"CANCELLED": count})


def test_a_deadline_is_its_request_s_own(make: Make, method: Method) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    first = served.begin(method.images(0))
    model.wait_until_running()
    futures = served.begin(method.images(1, 2, 3), timeouts=[TIMEOUT_S, 0.2, TIMEOUT_S])
    assert served.outcome(futures[1])[0] == "DEADLINE_EXCEEDED"
    until(lambda: statuses(served).get("DEADLINE_EXCEEDED") == 1)
    model.release()

    assert [served.outcome(future) for future in first] == method.doubled(0)
    assert [served.outcome(futures[at]) for at in (0, 2)] == method.doubled(1, 3)
    assert statuses(served) == {"OK": 3, "DEADLINE_EXCEEDED": 1}


def test_a_version_stays_loaded_until_those_that_it_got_have_their_answers(
    make: Make,
    method: Method,
) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    futures = served.begin(method.images(1, 2, 3))
    model.wait_until_running()
    served.aspire(2)
    later = served.outcomes(method.images(4, 5))
    assert not model.closed.is_set()
    model.release()

    assert [served.outcome(future) for future in futures] == method.doubled(1, 2, 3)
    assert model.closed.wait(TIMEOUT_S)
    assert later == method.doubled(4, 5, version=2)


def test_what_was_found_out_at_one_version_holds_at_no_other(make: Make, method: Method) -> None:
    served = make()
    assert served.outcomes(method.images(1, 2, 3)) == method.doubled(1, 2, 3)
    assert served.outcomes(method.images(4, 5, 6)) == method.doubled(4, 5, 6)
    assert False not in served.as_one
    served.aspire(OF_OTHER_INPUTS)

    refused = served.outcomes(method.images(7, 8, 9))
    served.aspire(1)

    assert {code for code, _ in refused} == {"INVALID_ARGUMENT"}
    assert "expect" in str(refused[0][1])
    assert served.outcomes(method.images(7, 8, 9)) == method.doubled(7, 8, 9)


def test_each_has_its_own_priority(make: Make, method: Method) -> None:
    served = make()
    low = (("ladle-priority", "low"),)

    found = served.outcomes(method.images(1, 2, 3, 4), metadata=[low, low, (), ()])

    assert found == method.doubled(1, 2, 3, 4)
    with served.metrics.lock:
        served.metrics.count()
        counted = dict(served.metrics.own.priority_requests.values)
    assert counted == {("low", "answered"): 2, ("normal", "answered"): 2}


def test_a_full_queue_takes_those_that_it_has_room_for(make: Make, method: Method) -> None:
    served = make(options=BatchOptions(max_batch_size=2, max_enqueued_batches=1))
    model = served.models[1]
    model.hold()
    first = served.begin(method.images(0))
    model.wait_until_running()
    futures = served.begin(method.images(1, 2, 3, 4, 5))
    refused = [served.outcome(future) for future in futures[2:]]
    model.release()

    assert {code for code, _ in refused} == {"UNAVAILABLE"}
    assert [served.outcome(future) for future in (*first, *futures[:2])] == method.doubled(0, 1, 2)


def test_a_signature_that_nobody_vouches_for_is_tried_first(make: Make, method: Method) -> None:
    served = make(said_by="")

    assert served.outcomes(method.images(*range(9))) == method.doubled(*range(9))

    assert True not in served.as_one
    assert served.models[1].batches.count(1) >= 9


class Notebook(Unobserved):
    def __init__(self) -> None:
        self.requests: list[bytes | None] = []

    def request_ended(self, request: Observation) -> None:
        self.requests.append(request.request)


def test_who_observes_each_request_hears_of_each(make: Make, method: Method) -> None:
    notebook = Notebook()
    served = make(observer=notebook)

    served.outcomes(method.images(1, 2, 3))

    assert sorted(notebook.requests, key=str) == sorted(method.images(1, 2, 3), key=str)


def test_a_roll_out_chooses_for_each_request(make: Make, method: Method) -> None:
    served = make()
    served.manager.router.replace([Rollout(model="m", canary_label="canary", canary_buckets=1)])

    served.outcomes(method.images(1, 2, 3))

    assert True not in served.as_one


def test_what_is_too_large_is_refused_as_ever(make: Make, method: Method) -> None:
    size = len(method.images(1)[0])
    served = make(max_request_bytes=size)

    outcomes = served.outcomes([*method.images(1, 2), *method.images(3, rows=2), *method.images(4)])

    code, text = outcomes.pop(2)
    assert code == "RESOURCE_EXHAUSTED"
    assert "--max_request_bytes" in str(text)
    assert outcomes == method.doubled(1, 2, 4)


def test_a_stop_lets_those_under_way_end(make: Make, method: Method) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    futures = served.begin(method.images(1, 2, 3))
    model.wait_until_running()
    stopping = threading.Thread(target=served.transport.stop, args=(TIMEOUT_S,))
    stopping.start()
    model.release()

    assert [served.outcome(future) for future in futures] == method.doubled(1, 2, 3)
    stopping.join()
