"""Hostile requests get a status, and cost in proportion to what they send."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.open_inference.fuzz import run
from server.open_inference.harness import Served, request, row
from steps import lines_run

from ladle.protos.datatypes import BY_NAME, Datatype, to_raw
from ladle.protos.inference_pb import ModelInferRequest
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.open_inference.requests import json_length, read, with_tensors
from ladle.server.rest.open_inference.values import to_array, to_json
from ladle.server.rpc.open_inference.tensors import Tensor, from_raw

OF = Tensor("x", "m")
SHAPES = st.lists(st.integers(-2, 1 << 62) | st.integers(0, 3), max_size=4).map(tuple)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=3)
)
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
DATATYPES = st.sampled_from([*BY_NAME.values()])


@row(87)
@settings(deadline=None)
@given(DATATYPES, SHAPES, st.binary(max_size=64))
def test_raw_bytes_are_a_tensor_or_refused(
    datatype: Datatype, shape: tuple[int, ...], raw: bytes
) -> None:
    try:
        array = from_raw(datatype, shape, raw, OF)
    except InvalidArgument:
        return
    assert array.shape == shape
    assert array.dtype == datatype.dtype
    if datatype.name != "BOOL":  # any byte but 0 is true there
        assert bytes(to_raw(array)) == raw


@row(87)
@settings(deadline=None)
@given(DATATYPES, SHAPES, NESTED)
def test_json_values_are_a_tensor_or_refused(
    datatype: Datatype, shape: tuple[int, ...], data: Any
) -> None:
    try:
        array = to_array(data, datatype, shape, "x")
    except InvalidArgument:
        return
    assert (array.shape, array.dtype) == (shape, datatype.dtype)
    if datatype.name == "BYTES":
        told = json.loads(to_json(array, "x"))
        assert [text.encode() for text in told] == array.ravel().tolist()
    else:
        told = json.loads(to_json(array, "x"))
        again = to_array(told, datatype, shape, "x")
        assert (
            bytes(to_raw(again)) == bytes(to_raw(array)) or np.isnan(array.astype(np.float64)).any()
        )


@row(87)
@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(-5, 250) | st.text(max_size=5), st.binary(max_size=20))
def test_any_body_is_read_or_refused(text: bytes, length: Any, tensors: bytes) -> None:
    body = text + tensors
    try:
        size = json_length({"inference-header-content-length": str(length)}, len(body))
        assert 0 <= size <= len(body)
        parsed = read(body[:size], "m", "")
        whole = with_tensors(parsed, memoryview(body)[size:], "m", lambda: "id")
    except InvalidArgument:
        return
    assert ModelInferRequest.FromString(whole).model_name == "m"


@row(87)
def test_many_mutations_of_right_requests_are_answered_or_refused() -> None:
    outcomes, _ = run(3000, seed=3)
    assert {outcome for _, outcome in outcomes} >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


def many_inputs() -> ModelInferRequest:
    message = ModelInferRequest(model_name="half")
    for number in range(100_000):
        message.inputs.add(name=str(number), datatype="FP32", shape=[1])
    return message


def many_dimensions() -> ModelInferRequest:
    message = request("half", x=np.ones(1, np.float32))
    message.inputs[0].shape.extend([1] * 1_000_000)
    return message


def many_parameters() -> ModelInferRequest:
    message = request("half", x=np.ones(1, np.float32))
    for number in range(50_000):
        message.parameters[f"p{number}"].int64_param = 1
    return message


def much_promised() -> ModelInferRequest:
    message = request("half", x=np.ones(1, np.float32))
    message.inputs[0].shape[0] = 1 << 40
    return message


def long_name() -> ModelInferRequest:
    return ModelInferRequest(model_name="m" * (1 << 20))


@row(87)
@pytest.mark.parametrize(
    ("message", "code"),
    [
        (many_inputs, "INVALID_ARGUMENT"),
        (many_dimensions, "INVALID_ARGUMENT"),
        (many_parameters, None),
        (much_promised, "INVALID_ARGUMENT"),
        (long_name, "NOT_FOUND"),
    ],
)
def test_a_large_number_of_anything_has_a_status_and_a_short_text(
    served: Served, message: Any, code: str | None
) -> None:
    made = message()
    if code is None:
        assert served.infer(made).model_version == "1"
        return
    found, text = served.refused(made)
    assert found == code
    assert len(text.encode()) <= 1024


@row(87)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"inputs":' * 100_000,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 100_000,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":'
        + b"[" * 900
        + b"1"
        + b"]" * 900
        + b"}]}",
        b'{"inputs":[' + b"{}," * 100_000 + b"{}]}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1e99],"data":[1]}]}',
        b'{"id":"' + b"i" * 1_000_000 + b'"}',
        b'{"parameters":{"\xff":1},"inputs":[]}',
        b'{"parameters":{"a":"\xff"},"inputs":[]}',
        b'{"id":"\xff","inputs":[]}',
        b'{"inputs":[{"name":"\xff","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":["\xff"]}]}',
    ],
)
def test_hostile_json_has_a_status(served: Served, body: bytes) -> None:
    response = served.post("/v2/models/half/infer", body)
    assert response.status_code == 400
    assert len(response.content) < 2048
    assert list(response.json()) == ["error"]


@row(87)
def test_ragged_json_takes_steps_in_proportion() -> None:
    """Deep lists beside many values: one pass over them, not one for each level."""

    def steps(count: int, depth: int) -> int:
        deep: Any = 1.0
        for _ in range(depth):
            deep = [deep]
        value = [deep, *([2.0] * count)]
        return lines_run(lambda v: to_array(v, BY_NAME["FP32"], (count + 1,), "x"), value)

    assert steps(2000, 98) < 1.5 * steps(2000, 2) + 1000
    assert steps(4000, 98) < 2.5 * steps(2000, 98)
