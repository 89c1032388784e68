"""ModelInfer requests that come as one are answered as each of them by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, until
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from server.rpc.prediction.grouping import (
    OF_OTHER_INPUTS,
    Outcome,
    Served,
    counted,
    making,
    statuses,
)

from ladle.protos import dtypes
from ladle.protos.datatypes import BY_NUMBER, to_raw
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.rollout.split import Rollout

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def make() -> Iterator[Callable[..., Served]]:
    with making(INFER) as make:
        yield make


@pytest.fixture(scope="module")
def both() -> Iterator[list[Served]]:
    """ModelInfer over each transport."""
    with making(INFER) as make:
        yield [make("grpcio"), make("native")]


def message(
    inputs: dict[str, NDArray[Any]], *, typed: bool = False, **more: Any
) -> ModelInferRequest:
    made = ModelInferRequest(**{"model_name": "m", **more})
    for name, array in inputs.items():
        datatype = BY_NUMBER[dtypes.from_numpy(array.dtype)]
        tensor = made.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if typed and datatype.field:
            getattr(tensor.contents, datatype.field).extend(array.ravel().tolist())
        else:
            made.raw_input_contents.append(bytes(to_raw(array)))
    return made


def images(*values: float, ids: list[str] | None = None, rows: int = 1) -> list[bytes]:
    return [
        message(
            {"x": np.full((rows, 2), value, np.float32)}, id=ids[at] if ids else ""
        ).SerializeToString()
        for at, value in enumerate(values)
    ]


def doubled(*values: float, ids: list[str] | None = None, rows: int = 1) -> list[Outcome]:
    answers: list[Outcome] = []
    for at, value in enumerate(values):
        answer = ModelInferResponse(model_name="m", model_version="1", id=ids[at] if ids else "")
        answer.outputs.add(name="y", datatype="FP32", shape=(rows, 2))
        answer.raw_output_contents.append(np.full((rows, 2), 2 * value, np.float32).tobytes())
        answers.append(("OK", answer.SerializeToString()))
    return answers


IDS = ["", "1", "größer", "日本", "a b\n", "x" * 127, "x" * 128, "x" * 1024, "x" * 1025, "1"]


def test_requests_that_are_alike_run_as_one_whatever_their_ids(
    make: Callable[..., Served],
) -> None:
    served = make()

    outcomes = served.outcomes(images(*range(10), ids=IDS, rows=2))

    assert outcomes == doubled(*range(10), ids=IDS, rows=2)
    assert served.as_one == [True]  # the longest id went by itself
    assert served.models[1].batches[0] > 2


@dataclass(frozen=True)
class Kind:
    """Requests that are alike but for their ids, or nearly."""

    signature: str = ""
    name: str = "m"
    rows: int = 1
    typed: bool = False
    wrong: str = ""
    version: str = ""
    outputs: tuple[str, ...] = ()
    classes: int = 0
    parameter: str = ""

    def request(self, value: float, request_id: str = "", quirk: str = "") -> bytes:
        rows = np.full((self.rows, 2), value, np.float32)
        inputs: dict[str, NDArray[Any]] = {"x": rows}
        number = int(value) if np.isfinite(value) else 7
        if self.signature == "pair":
            inputs["k"] = np.full(self.rows, value, np.float64)
        elif self.signature == "flags":
            inputs = {"b": np.full(self.rows, value > 0)}
        elif self.signature == "counts":
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
            case "order":
                inputs = dict(reversed(inputs.items()))
        made = message(
            inputs,
            typed=self.typed,
            model_name=self.name,
            model_version=self.version,
            id=request_id,
        )
        for name in self.outputs:
            wanted = made.outputs.add(name=name)
            if self.classes:
                wanted.parameters["classification"].int64_param = self.classes
        if self.signature:
            made.parameters["signature_name"].string_param = self.signature
        _set_parameter(made, self.parameter)
        _spoil(made, self.wrong, value)
        return _with_quirk(made.SerializeToString(), quirk)


def _set_parameter(made: ModelInferRequest, name: str) -> None:
    match name:
        case "timeout":
            made.parameters["timeout"].int64_param = int(TIMEOUT_S * 1e6)
        case "no timeout":
            made.parameters["timeout"].int64_param = 0
        case "priority":
            made.parameters["priority"].uint64_param = 3
        case "sequence":
            made.parameters["sequence_id"].string_param = "s"
        case "typed answer":
            made.parameters["binary_data_output"].bool_param = False
        case "reserved":
            made.parameters["triton_mine"].bool_param = True
        case "of my own":
            made.parameters["mine"].double_param = 0.5


def _spoil(made: ModelInferRequest, wrong: str, value: float) -> None:
    raw = made.raw_input_contents
    tensor = made.inputs[0] if made.inputs else None
    match wrong:
        case "short" if raw:
            raw[0] = raw[0][:-1]
        case "short" if tensor is not None:
            del tensor.contents.fp32_contents[1:], tensor.contents.int_contents[1:]
        case "one raw more":
            raw.append(b"abcd")
        case "an empty raw" if raw:
            raw[0] = b""
        case "both forms" if tensor is not None:
            tensor.contents.fp32_contents.extend([value, value])
        case "another field" if tensor is not None and not raw:
            tensor.contents.fp64_contents.extend([value] * 2)
        case "an input twice" if tensor is not None:
            made.inputs.append(tensor)
            if raw:
                raw.append(raw[0])
        case "no bool" if raw and value > 1:
            raw[0] = b"\2" * len(raw[0])
        case "shared memory" if tensor is not None:
            tensor.parameters["shared_memory_region"].string_param = "r"
        case "of my own" if tensor is not None:
            tensor.parameters["content_type"].string_param = "np"
        case "no name" if tensor is not None:
            tensor.ClearField("name")


def _with_quirk(request: bytes, quirk: str) -> bytes:
    """Return a message with more to it, as no writer of protobuf's would put it."""
    return {
        "": request,
        "a second id": request + b"\x1a\x01b",
        "an empty id": b"\x1a\x00" + request,
        "an id that is no text": request + b"\x1a\x01\xff",
        "an id as a number": request + b"\x18\x01",
        "an unknown field": request + b"\x7a\x02ab",
        "cut off": request + b"\x1a\x05b",
    }[quirk]


FLOATS = st.sampled_from([0.0, 1.0, 2.5, -3.0, float("inf"), float("nan")])
SIGNATURES = ("", "pair", "flags", "counts", "one")
WRONG = (
    "shape",
    "dtype",
    "missing",
    "extra",
    "empty",
    "order",
    "short",
    "one raw more",
    "an empty raw",
    "both forms",
    "another field",
    "an input twice",
    "no bool",
    "shared memory",
    "of my own",
    "no name",
)
PARAMETERS = (
    "timeout",
    "no timeout",
    "priority",
    "sequence",
    "typed answer",
    "reserved",
    "of my own",
)
QUIRKS = (
    "a second id",
    "an empty id",
    "an id that is no text",
    "an id as a number",
    "an unknown field",
    "cut off",
)
KINDS = st.builds(
    Kind,
    signature=st.sampled_from([*SIGNATURES, "none"]),
    name=st.sampled_from(["m", "m", "m", "m", "m:pair", "m:none", "x", ""]),
    rows=st.integers(1, 3),
    typed=st.booleans(),
    wrong=st.sampled_from(["", "", "", "", *WRONG]),
    version=st.sampled_from(["", "", "1", "2", "-1", "a label"]),
    outputs=st.sampled_from([(), (), ("y",), ("none",), ("name", "y"), ("y", "y")]),
    classes=st.sampled_from([0, 0, 1, -1]),
    parameter=st.sampled_from(["", "", "", *PARAMETERS]),
)


@pytest.mark.parametrize("wrong", ["", *WRONG])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_kind_has_the_same_answers_over_both_transports(
    both: list[Served], signature: str, wrong: str
) -> None:
    for typed in (False, True):
        kind = Kind(signature, wrong=wrong, typed=typed)
        requests = [kind.request(value, str(value)) for value in (1.0, 2.5, -3.0, 0.0)]

        by_grpcio, by_native = (served.outcomes(requests) for served in both)

        assert by_native == by_grpcio


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_each_parameter_has_the_same_effect_over_both_transports(
    both: list[Served], parameter: str
) -> None:
    for kind in (
        Kind(parameter=parameter),
        Kind(parameter=parameter, outputs=("y",), classes=2),
        Kind("pair", parameter=parameter, outputs=("name", "y")),
    ):
        requests = [kind.request(value, "an id") for value in (1.0, 2.5, -3.0)]

        by_grpcio, by_native = (served.outcomes(requests) for served in both)

        assert by_native == by_grpcio


@pytest.mark.parametrize("quirk", QUIRKS)
def test_what_is_odd_on_the_wire_is_read_as_protobuf_reads_it(
    both: list[Served], quirk: str
) -> None:
    kind = Kind()
    requests = [kind.request(value, "a", quirk if value else "") for value in (0.0, 1.0, 2.0, 3.0)]

    by_grpcio, by_native = (served.outcomes(requests) for served in both)

    assert by_native == by_grpcio


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(
        st.tuples(
            KINDS,
            st.lists(
                st.tuples(
                    FLOATS,
                    st.one_of(st.sampled_from(IDS), st.text(max_size=5)),
                    st.sampled_from(["", "", "", "", "", *QUIRKS]),
                ),
                min_size=1,
                max_size=5,
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    order=st.randoms(use_true_random=False),
)
def test_whatever_comes_has_the_same_answers_and_is_counted_alike_over_both_transports(
    both: list[Served], traffic: list[tuple[Kind, list[tuple[float, str, str]]]], order: Any
) -> None:
    requests = [kind.request(*each) for kind, members in traffic for each in members]
    order.shuffle(requests)

    by_grpcio, by_native = (served.outcomes(requests) for served in both)

    assert by_native == by_grpcio
    first, second = (counted(served.metrics) for served in both)
    assert first == second


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (Kind(), True),
        (Kind(typed=True), True),
        (Kind("pair"), True),
        (Kind("pair", typed=True), True),
        (Kind("counts"), True),
        (Kind("counts", typed=True), None),  # integers are not on the wire as in an array
        (Kind("flags"), False),
        (Kind(parameter="typed answer"), True),
        (Kind(outputs=("y",), classes=2), True),
        (Kind(parameter="priority"), True),
        (Kind(parameter="timeout"), False),
        (Kind(name="m:pair", signature="pair", version="1"), True),
        (Kind(wrong="shape"), False),
        (Kind(name="x"), False),
    ],
)
def test_what_goes_as_one(make: Callable[..., Served], kind: Kind, taken: bool | None) -> None:
    served = make()

    served.outcomes([kind.request(value, str(value)) for value in (1.0, 2.0)])

    assert served.as_one == ([] if taken is None else [taken])


def test_a_bad_request_among_those_that_are_alike_fails_alone(
    make: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = make()
    ids = ["a", "b", "", "d"]

    outcomes = served.outcomes(images(1, 2, float("nan"), 4, ids=ids))

    assert outcomes.pop(2) == ("UNKNOWN", "x: expected numbers, got NaN")
    del ids[2]
    assert outcomes == doubled(1, 2, 4, ids=ids)
    assert True in served.as_one
    assert statuses(served) == {"OK": 3, "UNKNOWN": 1}


def test_a_fault_is_logged_with_the_request_s_own_id(
    make: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = make()
    served.models[1].function = _broken

    with caplog.at_level(logging.ERROR):
        outcomes = served.outcomes(images(1, 2, ids=["first", "second"]))

    assert [code for code, _ in outcomes] == ["INTERNAL"] * 2
    logged = [record.getMessage() for record in caplog.records]
    assert {"first", "second"} == {text.rpartition("request_id=")[2] for text in logged}


def _broken(_inputs: object) -> Any:
    raise RuntimeError("broken")


def test_callers_that_go_are_counted_and_their_rows_do_not_run(
    make: Callable[..., Served],
) -> None:
    served = make()
    model = served.models[1]
    model.hold()
    first = served.begin(images(0))
    model.wait_until_running()
    ids = ["a", "bb", "ccc", "dddd"]
    futures = served.begin(images(1, 2, 3, 4, ids=ids))
    until(lambda: served.as_one)
    futures[1].cancel()
    futures[2].cancel()
    until(lambda: statuses(served).get("CANCELLED") == 2)
    model.release()

    assert [served.outcome(future) for future in first] == doubled(0)
    assert [served.outcome(futures[at]) for at in (0, 3)] == doubled(1, 4, ids=["a", "dddd"])
    assert model.batches == [1, 2]
    assert statuses(served) == {"OK": 3, "CANCELLED": 2}


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


def test_larger_batches_than_the_configuration_allows_are_refused_each(
    make: Callable[..., Served],
) -> None:
    served = make(options=BatchOptions(max_batch_size=2, refuse_larger=True))

    outcomes = served.outcomes(images(1, 2, rows=3))

    text = "inference request batch-size must be <= 2 for 'm'"
    assert outcomes == [("INVALID_ARGUMENT", text)] * 2


def test_a_label_is_looked_up_for_each_group(make: Callable[..., Served]) -> None:
    served = make()
    served.aspire(1, 2)

    for version in (1, 2, 1):
        served.manager.set_labels({"m": {"stable": version}})
        outcomes = served.outcomes([_labelled(value) for value in (1.0, 2.0)])
        assert [versioned(answer) for _, answer in outcomes] == [str(version)] * 2
    assert False not in served.as_one


def _labelled(value: float) -> bytes:
    return Kind(version="stable").request(value)


def versioned(answer: Any) -> str:
    return ModelInferResponse.FromString(answer).model_version


def test_a_name_with_a_colon_is_a_model_s_once_there_is_one(make: Callable[..., Served]) -> None:
    served = make()
    kind = Kind("pair", name="m:pair", typed=True)
    requests = [kind.request(value, "7") for value in (1.0, 2.0)]
    assert [code for code, _ in served.outcomes(requests)] == ["OK"] * 2

    served.aspire(3, name="m:pair")
    served.manager.aspire("m", {})

    outcomes = served.outcomes(requests)
    assert [versioned(answer) for _, answer in outcomes] == ["3", "3"]
    assert served.as_one == [True, True]


def test_what_was_found_out_at_one_version_holds_at_no_other(make: Callable[..., Served]) -> None:
    served = make()
    ids = ["1", "2", ""]
    assert served.outcomes(images(1, 2, 3, ids=ids)) == doubled(1, 2, 3, ids=ids)
    assert served.outcomes(images(4, 5, 6, ids=ids)) == doubled(4, 5, 6, ids=ids)
    assert False not in served.as_one
    served.aspire(OF_OTHER_INPUTS)

    refused = served.outcomes(images(7, 8, 9))
    served.aspire(1)

    text = "inference input 'x' data-type is 'FP32', but model 'm' expects 'FP64'"
    assert refused == [("INVALID_ARGUMENT", text)] * 3
    assert served.outcomes(images(7, 8, 9, ids=ids)) == doubled(7, 8, 9, ids=ids)


def test_a_roll_out_chooses_for_each_request(make: Callable[..., Served]) -> None:
    served = make()
    served.manager.router.replace([Rollout(model="m", canary_label="canary", canary_buckets=1)])

    served.outcomes(images(1, 2, 3))

    assert True not in served.as_one


def test_the_statistics_of_a_version_count_each_request(make: Callable[..., Served]) -> None:
    served = make()

    served.outcomes(images(1, 2, float("nan"), 4, rows=2))

    (found,) = served.metrics.statistics().values()
    assert (found.success.count, found.fail.count, found.rows) == (3, 1, 6)
