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
from server.rpc.prediction.calling import INFER, infer_message
from server.rpc.prediction.grouping import (
    Served,
    counted,
    inputs_of,
    making,
)

from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.server.core.batching.plan import BatchOptions


@pytest.fixture
def make() -> Iterator[Callable[..., Served]]:
    with making(INFER.path) as make:
        yield make


@pytest.fixture(scope="module")
def both() -> Iterator[list[Served]]:
    """ModelInfer over each transport."""
    with making(INFER.path) as make:
        yield [make("grpcio"), make("native")]


IDS = ["", "1", "größer", "日本", "a b\n", "x" * 127, "x" * 128, "x" * 1024, "x" * 1025, "1"]


def test_requests_that_are_alike_run_as_one_whatever_their_ids(
    make: Callable[..., Served],
) -> None:
    served = make()

    rows = [np.full((2, 2), value, np.float32) for value in range(len(IDS))]

    outcomes = served.outcomes([INFER.image(x, each) for x, each in zip(rows, IDS, strict=True)])

    assert outcomes == [
        ("OK", INFER.answer(2 * x, each, 1)) for x, each in zip(rows, IDS, strict=True)
    ]
    assert True in served.as_one
    assert False not in served.as_one


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
        inputs = inputs_of(self.signature, self.rows, value, self.wrong)
        made = infer_message(
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
    requests = [kind.request(value, str(value)) for value in (1.0, 2.0)]

    if taken is None:
        served.outcomes(requests)
        assert served.as_one == []
    else:
        until(lambda: served.outcomes(requests) and served.as_one)  # now and then they come apart
        assert set(served.as_one) == {taken}


def test_a_fault_is_logged_with_the_request_s_own_id(
    make: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = make()
    served.models[1].function = _broken

    with caplog.at_level(logging.ERROR):
        outcomes = served.outcomes(INFER.images(1, 2))

    assert [code for code, _ in outcomes] == ["INTERNAL"] * 2
    logged = [record.getMessage() for record in caplog.records]
    assert {"1", "2"} == {text.rpartition("request_id=")[2] for text in logged}


def _broken(_inputs: object) -> Any:
    raise RuntimeError("broken")


def test_larger_batches_than_the_configuration_allows_are_refused_each(
    make: Callable[..., Served],
) -> None:
    served = make(options=BatchOptions(max_batch_size=2, refuse_larger=True))

    outcomes = served.outcomes(INFER.images(1, 2, rows=3))

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
    assert False not in served.as_one


def test_the_statistics_of_a_version_count_each_request(make: Callable[..., Served]) -> None:
    served = make()

    served.outcomes(INFER.images(1, 2, float("nan"), 4, rows=2))

    (found,) = served.metrics.statistics().values()
    assert (found.success.count, found.fail.count, found.rows) == (3, 1, 6)
