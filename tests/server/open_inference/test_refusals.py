"""What is wrong with a request, in the words that scripts search for, over gRPC and over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from server.open_inference.harness import Served, X, request, row

from ladle.protos.inference_pb import ModelInferRequest

A = np.ones((1, 16), np.int32)


def half(**changes: Any) -> ModelInferRequest:
    """A request to `half`, with fields of its input replaced."""
    message = request("half", x=X)
    for name, value in changes.items():
        if name == "shape":
            del message.inputs[0].shape[:]
            message.inputs[0].shape.extend(value)
        elif name == "raw":
            message.raw_input_contents[0] = value
        else:
            setattr(message.inputs[0], name, value)
    return message


def simple(*names: str) -> ModelInferRequest:
    message = request("simple", **{f"n{at}": A for at, _ in enumerate(names)})
    for tensor, name in zip(message.inputs, names, strict=True):
        tensor.name = name
    return message


def named(*outputs: str, model: str = "half") -> ModelInferRequest:
    message = request(model, x=X)
    for name in outputs:
        message.outputs.add(name=name)
    return message


def text(raw: bytes, count: int) -> ModelInferRequest:
    message = request("text", text=np.array([b"a"] * count, object))
    message.raw_input_contents[0] = raw
    return message


def with_parameter(key: str, kind: str, value: Any, model: str = "half") -> ModelInferRequest:
    message = request(model, x=X)
    setattr(message.parameters[key], kind, value)
    return message


def version(given: str, model: str = "two") -> ModelInferRequest:
    message = request(model, x=X)
    message.model_version = given
    return message


def rows() -> ModelInferRequest:
    return request("simple", INPUT0=A, INPUT1=np.ones((2, 16), np.int32))


def shared_memory() -> ModelInferRequest:
    message = request("half", x=X)
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return message


INVALID = "INVALID_ARGUMENT"
CASES: list[tuple[int, Callable[[], ModelInferRequest], str, str]] = [
    (
        13,
        lambda: request("wrong", x=X),
        "NOT_FOUND",
        "Request for unknown model: 'wrong' is not found",
    ),
    (
        6,
        lambda: request("broken", x=X),
        "NOT_FOUND",
        "Request for unknown model: 'broken' has no available versions",
    ),
    (
        6,
        lambda: version("1", "broken"),
        "UNAVAILABLE",
        "Request for unknown model: 'broken' version 1 is not at ready state",
    ),
    (45, lambda: named("z"), INVALID, "unexpected inference output 'z' for model 'half'"),
    (45, lambda: named("y", "y"), INVALID, "output 'y' already exists in request"),
    (
        45,
        lambda: named("z", model="odd"),
        INVALID,
        "output 'z' of model 'odd' is complex64, which has no datatype here",
    ),
    (45, lambda: simple("INPUT0", "INPUT0"), INVALID, "input 'INPUT0' already exists in request"),
    (
        46,
        lambda: simple("INPUT0"),
        INVALID,
        "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but "
        "missing required input(s) ['INPUT1']. Please provide all required input(s).",
    ),
    (
        46,
        lambda: simple("INPUT0", "INPUT1", "INPUT2"),
        INVALID,
        "unexpected inference input 'INPUT2' for model 'simple'",
    ),
    (46, lambda: half(name="z"), INVALID, "unexpected inference input 'z' for model 'half'"),
    (
        47,
        lambda: half(datatype="INT32"),
        INVALID,
        "inference input 'x' data-type is 'INT32', but model 'half' expects 'FP32'",
    ),
    (47, lambda: half(datatype="fp32"), INVALID, "invalid datatype 'fp32' for input 'x'"),
    (47, lambda: half(datatype="STRING"), INVALID, "invalid datatype 'STRING' for input 'x'"),
    (
        48,
        lambda: half(shape=[1, 3]),
        INVALID,
        "unexpected shape for input 'x' for model 'half'. Expected [-1], got [1,3]. ",
    ),
    (
        48,
        lambda: request("fixed", x=np.ones((1, 5), np.float32)),
        INVALID,
        "unexpected shape for input 'x' for model 'fixed'. Expected [1,4], got [1,5]. ",
    ),
    (
        48,
        lambda: half(shape=[-1]),
        INVALID,
        "invalid shape for input 'x': shape [-1] contains one or more invalid dimensions",
    ),
    (49, rows, INVALID, "input 'INPUT1' batch size does not match other inputs for 'simple'"),
    (
        50,
        lambda: half(raw=X.tobytes()[:-1]),
        INVALID,
        "input byte size mismatch for input 'x' for model 'half'. Expected 12, got 11",
    ),
    (
        50,
        lambda: half(raw=X.tobytes() + b"\0"),
        INVALID,
        "input byte size mismatch for input 'x' for model 'half'. Expected 12, got 13",
    ),
    (
        51,
        lambda: text(b"\1\0\0\0a\1\0", 2),
        INVALID,
        "incomplete string length indicator for inference input 'text' for model 'text', expecting "
        "4 bytes but only 2 bytes available.",
    ),
    (
        51,
        lambda: text(b"\1\0\0\0a", 2),
        INVALID,
        "expected 2 string elements for inference input 'text' for model 'text', got 1",
    ),
    (
        51,
        lambda: text(b"\1\0\0\0a" * 3, 2),
        INVALID,
        "unexpected number of string elements 3 for inference input 'text' for model 'text', "
        "expecting 2",
    ),
    (
        87,
        lambda: text(b"\xff\xff\xff\xffa", 1),
        INVALID,
        "incomplete string data for inference input 'text' for model 'text', expecting string of "
        "length 4294967295 but only 1 bytes available.",
    ),
    (
        54,
        lambda: version("9"),
        "NOT_FOUND",
        "Request for unknown model: 'two' version 9 is not found",
    ),
    (
        54,
        lambda: version("007"),
        "NOT_FOUND",
        "Request for unknown model: 'two' version 7 is not found",
    ),
    (
        54,
        lambda: version("x"),
        INVALID,
        "failed to get model version from specified version string 'x', version should be an "
        "integral value > 0 or a label",
    ),
    (
        54,
        lambda: version("-1"),
        INVALID,
        "invalid model version specified '-1' , version should be an integral value > 0",
    ),
    (
        55,
        lambda: with_parameter("signature_name", "string_param", "nope"),
        INVALID,
        "Serving signature key \"nope\" not found. The model has ['serving_default']",
    ),
    (
        57,
        lambda: request("pair", x=X),
        INVALID,
        "Serving signature key \"serving_default\" not found. The model has ['a', 'b']",
    ),
    (
        58,
        lambda: with_parameter("timeout", "string_param", "x"),
        INVALID,
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        58,
        lambda: with_parameter("timeout", "int64_param", -1),
        INVALID,
        "invalid value for 'timeout' parameter, expected >= 0, got -1",
    ),
    (
        59,
        lambda: with_parameter("triton_x", "bool_param", True),
        INVALID,
        "parameter keys starting with 'triton_' are reserved, got 'triton_x'",
    ),
    (
        59,
        lambda: with_parameter("priority", "int64_param", -1),
        INVALID,
        "invalid value for 'priority' parameter, expected >= 0",
    ),
    (
        59,
        lambda: with_parameter("sequence_start", "int64_param", 1),
        INVALID,
        "invalid value type for 'sequence_start' parameter, expected bool_param.",
    ),
    (78, shared_memory, "UNIMPLEMENTED", "shared memory is not supported"),
]


@pytest.mark.parametrize(("number", "message", "code", "words"), CASES)
@row(6, 13, 45, 46, 47, 48, 49, 50, 51, 54, 55, 57, 58, 59, 78, 87)
def test_a_wrong_request_is_refused_alike_over_grpc_and_http(
    served: Served, number: int, message: Callable[[], ModelInferRequest], code: str, words: str
) -> None:
    assert served.refused_everywhere(message()) == (code, words)


@row(52, 53)
def test_raw_and_typed_contents_do_not_mix(served: Served) -> None:
    both = half()
    both.inputs[0].contents.fp32_contents.append(1)
    assert served.refused(both) == (
        INVALID,
        "contents field must not be specified when using raw_input_contents for 'x' for model "
        "'half'",
    )
    empty = half()
    empty.inputs[0].contents.SetInParent()
    assert served.infer(empty).outputs[0].shape == [3]
    few = simple("INPUT0", "INPUT1")
    few.raw_input_contents.pop()
    assert served.refused(few) == (
        INVALID,
        "the number of inputs (2) does not match the expected number of raw input contents (1) for "
        "model 'simple'.",
    )


@row(78)
def test_one_tensor_of_two_in_shared_memory_is_refused(served: Served) -> None:
    """As tritonclient sends it: without raw contents for that tensor, or for an output."""
    message = simple("INPUT0", "INPUT1")
    message.raw_input_contents.pop()
    message.inputs[1].parameters["shared_memory_region"].string_param = "region"
    assert served.refused(message) == ("UNIMPLEMENTED", "shared memory is not supported")
    message = request("half", x=X)
    wanted = message.outputs.add(name="y")
    wanted.parameters["shared_memory_region"].string_param = "region"
    assert served.refused_everywhere(message)[0] == "UNIMPLEMENTED"


@row(34)
def test_typed_contents_are_those_of_the_datatype_and_of_the_shape(served: Served) -> None:
    message = half()
    del message.raw_input_contents[:]
    assert served.refused(message) == (
        INVALID,
        "unable to find data for input tensor 'x' for model 'half' in request.",
    )
    contents = message.inputs[0].contents
    contents.int_contents.extend([1, 2, 5])
    assert served.refused(message)[1].startswith(
        "unexpected explicit tensor data for input tensor 'x' for model 'half' of type "
    )
    contents.Clear()
    contents.fp32_contents.extend([1, 2])
    assert served.refused(message) == (
        INVALID,
        "input byte size mismatch for input 'x' for model 'half'. Expected 12, got 8",
    )


@row(48)
def test_a_shape_that_is_no_list_of_integers_is_refused(served: Served) -> None:
    shapes: list[Any] = ["-1", [1.5], [True], {}, None, [1 << 70]]
    for shape in shapes:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": [1]}]}
        response = served.post("/v2/models/half/infer", body)
        assert (response.status_code, response.json()) == (
            400,
            {"error": "Unable to parse 'shape': expected a list of integers"},
        )


@row(62)
@pytest.mark.parametrize(
    ("model", "inputs", "count", "words"),
    [
        ("half", {"x": X}, 0, "invalid value for 'classification' parameter, expected > 0"),
        (
            "text",
            {"text": np.array([b"a"], object)},
            1,
            "class result not available for output due to unsupported type 'BYTES'",
        ),
    ],
)
def test_what_has_no_classes_is_refused(
    served: Served, model: str, inputs: dict[str, Any], count: int, words: str
) -> None:
    message = request(model, **inputs)
    wanted = message.outputs.add(name="y" if model == "half" else "text")
    wanted.parameters["classification"].int64_param = count
    assert served.refused_everywhere(message) == (INVALID, words)


@row(73)
@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v2/models/half/infer", 405, "Method Not Allowed"),
        ("DELETE", "/v2/health/live", 405, "Method Not Allowed"),
        ("GET", "/v2/x", 404, "Not Found: /v2/x"),
        ("GET", "/v2/v2/models/half", 404, "Not Found: /v2/v2/models/half"),
        ("POST", "/v2/models/half/generate", 404, "Not Found: /v2/models/half/generate"),
        ("POST", "/v2/models/half/generate_stream", 404, None),
        ("POST", "/v2/models/half/infer_stream", 404, None),
        ("GET", "/V2/health/live", 404, None),
        ("GET", "/v2/Health/live", 404, None),
        ("POST", "/v2/models//infer", 404, None),
        (
            "POST",
            "/v2/repository/mine/index",
            501,
            "'repository_name' specification is not supported",
        ),
        ("POST", "/v2/repository/mine/models/half/load", 501, None),
    ],
)
def test_what_is_not_there_is_told_in_json(
    served: Served, method: str, path: str, status: int, error: str | None
) -> None:
    response = served.http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    told = response.json()["error"]
    assert error in (None, told)
    assert (status == 405) == ("allow" in response.headers)


@row(77)
@pytest.mark.parametrize(
    "path",
    [
        "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/systemsharedmemory/region/r/unregister",
        "/v2/systemsharedmemory/unregister",
        "/v2/cudasharedmemory/region/r/status",
        "/v2/trace/setting",
        "/v2/models/half/trace/setting",
        "/v2/logging",
    ],
)
def test_what_is_not_supported_says_so_over_http(served: Served, path: str) -> None:
    for method in ("GET", "POST"):
        response = served.http.request(method, path)
        assert response.status_code == 501
        assert response.json()["error"].endswith("not supported")
