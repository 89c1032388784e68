"""Predict requests that the native transport hands over as one are answered as each by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, until
from hypothesis import given, settings
from hypothesis import strategies as st
from server.rpc.prediction.grouping import (
    OF_OTHER_INPUTS,
    Outcome,
    Served,
    counted,
    making,
    statuses,
)

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.core.rollout.split import Rollout

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(
    inputs: Mapping[str, Any],
    signature: str = "",
    name: str = "m",
    *,
    typed: bool = False,
    **more: Any,
) -> bytes:
    message = PredictRequest(**more)
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    for alias, array in inputs.items():
        message.inputs[alias].CopyFrom(tensors.to_proto(array, typed=typed))
    return message.SerializeToString()


def images(*values: float, rows: int = 1) -> list[bytes]:
    return [request({"x": np.full((rows, 2), value, np.float32)}) for value in values]


def doubled(*values: float, rows: int = 1) -> list[Outcome]:
    answers: list[Outcome] = []
    for value in values:
        message = PredictResponse()
        message.model_spec.name = "m"
        message.model_spec.version.value = 1
        message.model_spec.signature_name = "serving_default"
        y = np.full((rows, 2), 2 * value, np.float32)
        message.outputs["y"].CopyFrom(tensors.to_proto(y, typed=True))
        answers.append(("OK", message.SerializeToString(deterministic=True)))
    return answers


def in_order(answer: bytes) -> bytes:
    """Return an answer with its map in order: on the wire a map has none."""
    return PredictResponse.FromString(answer).SerializeToString(deterministic=True)


@pytest.fixture
def make() -> Iterator[Callable[..., Served]]:
    with making(PREDICT, in_order) as make:
        yield make


@pytest.fixture(scope="module")
def both() -> Iterator[list[Served]]:
    """Predict over each transport."""
    with making(PREDICT, in_order) as make:
        yield [make("grpcio"), make("native")]


def test_requests_that_are_alike_run_as_one(make: Callable[..., Served]) -> None:
    served = make()

    assert served.outcomes(images(*range(9), rows=2)) == doubled(*range(9), rows=2)

    assert True in served.as_one
    assert False not in served.as_one
    assert served.models[1].batches[0] > 2


# What a request may be, right or wrong: each is sent several times with other values.
FLOATS = st.sampled_from([0.0, 1.0, 2.5, -3.0, float("inf"), float("nan")])


@dataclass(frozen=True)
class Kind:
    """Requests that are alike, or nearly."""

    signature: str = ""
    name: str = "m"
    rows: int = 1
    typed: bool = False
    wrong: str = ""
    version: int | None = None
    output: str = ""
    in_content: bool = False

    def request(self, value: float) -> bytes:
        rows = np.full((self.rows, 2), value, np.float32)
        inputs: dict[str, Any] = {"x": rows}
        if self.signature == "pair":
            inputs["k"] = np.full(self.rows, value, np.float64)
        elif self.signature == "flags":
            inputs = {"b": np.full(self.rows, value > 0)}
        elif self.signature == "counts":
            number = int(value) if np.isfinite(value) else 7
            inputs = {"n": np.full(self.rows, number, np.int32)}
        first = next(iter(inputs))
        match self.wrong:
            case "shape":
                inputs[first] = np.full((self.rows, 3), value, np.float32)
            case "dtype":
                inputs[first] = np.full((self.rows, 2), value, np.float16)
            case "missing":
                del inputs[first]
            case "extra":
                inputs["more"] = rows
            case "empty":
                inputs[first] = inputs[first][:0]
            case "strings":
                inputs[first] = np.full((self.rows, 2), b"1", object)
        message = PredictRequest()
        message.ParseFromString(request(inputs, self.signature, self.name, typed=self.typed))
        if self.version is not None:
            message.model_spec.version.value = self.version
        if self.output:
            message.output_filter.append(self.output)
        tensor = message.inputs.get(first)
        match self.wrong:
            case "short" if tensor is not None and self.typed:
                del tensor.float_val[1:], tensor.double_val[1:], tensor.int_val[1:]
            case "short" if tensor is not None:
                tensor.tensor_content = tensor.tensor_content[:-1]
            case "another field" if tensor is not None:
                tensor.ClearField("tensor_content")
                tensor.ClearField("float_val")
                tensor.double_val.extend([value] * self.rows)
            case "two fields" if tensor is not None:
                tensor.float_val.extend([value])
            case "no bool" if tensor is not None and tensor.tensor_content and value > 1:
                tensor.tensor_content = b"\2" * len(tensor.tensor_content)
        return message.SerializeToString()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("ladle-tensor-content", "true"),) if self.in_content else ()


SIGNATURES = ("", "pair", "flags", "counts", "one")
WRONG = (
    "shape",
    "dtype",
    "missing",
    "extra",
    "empty",
    "strings",
    "short",
    "another field",
    "two fields",
    "no bool",
)

KINDS = st.builds(
    Kind,
    signature=st.sampled_from([*SIGNATURES, "none"]),
    name=st.sampled_from(["m", "m", "m", "m", "x", ""]),
    rows=st.integers(1, 3),
    typed=st.booleans(),
    wrong=st.sampled_from(["", "", "", "", *WRONG]),
    version=st.sampled_from([None, None, 1, 2]),
    output=st.sampled_from(["", "", "y", "none"]),
    in_content=st.booleans(),
)


@pytest.mark.parametrize("wrong", ["", *WRONG])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_kind_has_the_same_answers_over_both_transports(
    both: list[Served], signature: str, wrong: str
) -> None:
    for typed in (False, True):
        kind = Kind(signature, wrong=wrong, typed=typed)
        requests = [kind.request(value) for value in (1.0, 2.5, -3.0, 0.0)]

        by_grpcio, by_native = (served.outcomes(requests) for served in both)

        assert by_native == by_grpcio


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(
        st.tuples(KINDS, st.lists(FLOATS, min_size=1, max_size=5)), min_size=1, max_size=4
    ),
    order=st.randoms(use_true_random=False),
)
def test_whatever_comes_has_the_same_answers_and_is_counted_alike_over_both_transports(
    both: list[Served], traffic: list[tuple[Kind, list[float]]], order: Any
) -> None:
    sent = [(kind.request(value), kind.metadata) for kind, values in traffic for value in values]
    order.shuffle(sent)
    requests, metadata = [list(column) for column in zip(*sent, strict=True)]

    by_grpcio, by_native = (served.outcomes(requests, metadata=metadata) for served in both)

    assert by_native == by_grpcio
    first, second = (counted(served.metrics) for served in both)
    assert first == second


def test_a_bad_request_among_those_that_are_alike_fails_alone(make: Callable[..., Served]) -> None:
    served = make()

    outcomes = served.outcomes(images(1, 2, float("nan"), 4))

    assert outcomes.pop(2) == ("UNKNOWN", "x: expected numbers, got NaN")
    assert outcomes == doubled(1, 2, 4)
    assert True in served.as_one
    assert statuses(served) == {"OK": 3, "UNKNOWN": 1}


def test_callers_that_go_are_counted_and_their_rows_do_not_run(make: Callable[..., Served]) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    first = served.begin(images(0))
    model.wait_until_running()
    futures = served.begin(images(1, 2, 3, 4))
    until(lambda: served.as_one)
    futures[1].cancel()
    futures[2].cancel()
    until(lambda: statuses(served).get("CANCELLED") == 2)
    model.release()

    assert [served.outcome(future) for future in first] == doubled(0)
    assert [served.outcome(futures[at]) for at in (0, 3)] == doubled(1, 4)
    assert model.batches == [1, 2]
    assert statuses(served) == {"OK": 3, "CANCELLED": 2}


@pytest.mark.parametrize("count", [1, 2])
def test_whose_caller_goes_before_the_request_is_looked_at_is_counted_as_that(
    make: Callable[..., Served], count: int
) -> None:
    """Its message goes with the caller: what is left is not to be taken for a wrong request."""
    served = make()
    with served.held():
        gate, held = served.hold()
        futures = [served.call.future(each, timeout=TIMEOUT_S) for each in images(1, 2)[:count]]
        come = 1 + sum(map(len, images(1, 2)[:count]))
        until(lambda: served.transport.limits.budget.used == come + 1)  # and a byte of each hold
    served.wait_until_held()
    for future in futures:
        future.cancel()
    until(lambda: served.transport.limits.budget.used == 1)
    gate.set()
    held.result()

    until(lambda: statuses(served) == {"CANCELLED": count})


def test_a_deadline_is_its_request_s_own(make: Callable[..., Served]) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    first = served.begin(images(0))
    model.wait_until_running()
    futures = served.begin(images(1, 2, 3), timeouts=[TIMEOUT_S, 0.2, TIMEOUT_S])
    assert served.outcome(futures[1])[0] == "DEADLINE_EXCEEDED"
    until(lambda: statuses(served).get("DEADLINE_EXCEEDED") == 1)
    model.release()

    assert [served.outcome(future) for future in first] == doubled(0)
    assert [served.outcome(futures[at]) for at in (0, 2)] == doubled(1, 3)
    assert statuses(served) == {"OK": 3, "DEADLINE_EXCEEDED": 1}


def test_a_version_stays_loaded_until_those_that_it_got_have_their_answers(
    make: Callable[..., Served],
) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    futures = served.begin(images(1, 2, 3))
    model.wait_until_running()
    served.aspire(2)
    later = served.outcomes(images(4, 5))
    assert not model.closed.is_set()
    model.release()

    assert [served.outcome(future) for future in futures] == doubled(1, 2, 3)
    assert model.closed.wait(TIMEOUT_S)
    assert [version_of(answer) for _, answer in later] == [2, 2]


def test_what_was_found_out_at_one_version_holds_at_no_other(make: Callable[..., Served]) -> None:
    served = make()
    assert served.outcomes(images(1, 2, 3)) == doubled(1, 2, 3)
    assert served.outcomes(images(4, 5, 6)) == doubled(4, 5, 6)
    assert False not in served.as_one
    served.aspire(OF_OTHER_INPUTS)

    refused = served.outcomes(images(7, 8, 9))
    served.aspire(1)

    assert {code for code, _ in refused} == {"INVALID_ARGUMENT"}
    assert "expected float64" in str(refused[0][1])
    assert served.outcomes(images(7, 8, 9)) == doubled(7, 8, 9)


def version_of(answer: Any) -> int:
    message = PredictResponse.FromString(answer)
    return message.model_spec.version.value


def test_each_has_its_own_priority(make: Callable[..., Served]) -> None:
    served = make()
    low = (("ladle-priority", "low"),)

    found = served.outcomes(images(1, 2, 3, 4), metadata=[low, low, (), ()])

    assert found == doubled(1, 2, 3, 4)
    with served.metrics.lock:
        served.metrics.count()
        counted = dict(served.metrics.own.priority_requests.values)
    assert counted == {("low", "answered"): 2, ("normal", "answered"): 2}


def test_a_full_queue_takes_those_that_it_has_room_for(make: Callable[..., Served]) -> None:
    served = make(options=BatchOptions(max_batch_size=2, max_enqueued_batches=1))
    model = served.models[1]
    model.hold()
    first = served.begin(images(0))
    model.wait_until_running()
    futures = served.begin(images(1, 2, 3, 4, 5))
    refused = [served.outcome(future) for future in futures[2:]]
    model.release()

    assert {code for code, _ in refused} == {"UNAVAILABLE"}
    assert [served.outcome(future) for future in (*first, *futures[:2])] == doubled(0, 1, 2)


def test_a_signature_that_nobody_vouches_for_is_tried_first(make: Callable[..., Served]) -> None:
    served = make(said_by="")

    assert served.outcomes(images(*range(9))) == doubled(*range(9))

    assert True not in served.as_one
    assert served.models[1].batches.count(1) >= 9


class Notebook(Unobserved):
    def __init__(self) -> None:
        self.requests: list[bytes | None] = []

    def request_ended(self, request: Observation) -> None:
        self.requests.append(request.request)


def test_who_observes_each_request_hears_of_each(make: Callable[..., Served]) -> None:
    notebook = Notebook()
    served = make(observer=notebook)

    served.outcomes(images(1, 2, 3))

    assert sorted(notebook.requests, key=str) == sorted(images(1, 2, 3), key=str)


def test_a_roll_out_chooses_for_each_request(make: Callable[..., Served]) -> None:
    served = make()
    served.manager.router.replace([Rollout(model="m", canary_label="canary", canary_buckets=1)])

    served.outcomes(images(1, 2, 3))

    assert True not in served.as_one


def test_what_is_too_large_is_refused_as_ever(make: Callable[..., Served]) -> None:
    size = len(images(1)[0])
    served = make(max_request_bytes=size)

    outcomes = served.outcomes([*images(1, 2), *images(3, rows=2), *images(4)])

    code, text = outcomes.pop(2)
    assert code == "RESOURCE_EXHAUSTED"
    assert "--max_request_bytes" in str(text)
    assert outcomes == doubled(1, 2, 4)


def test_a_stop_lets_those_under_way_end(make: Callable[..., Served]) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    futures = served.begin(images(1, 2, 3))
    model.wait_until_running()
    stopping = threading.Thread(target=served.transport.stop, args=(TIMEOUT_S,))
    stopping.start()
    model.release()

    assert [served.outcome(future) for future in futures] == doubled(1, 2, 3)
    stopping.join()
