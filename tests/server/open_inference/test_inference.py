"""Answers: every datatype, form, order and name, the same over gRPC and over HTTP."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from server.open_inference.harness import Served, X, output, request, row

from ladle.protos import tensors
from ladle.protos.datatypes import BY_NAME, to_raw
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server.rpc.open_inference.tensors import Tensor, from_raw

NUMBERS = [[1, 0], [0, 1], [1, 1]]
TEXTS = np.array([[b"", b"\0b\0"], ["\u00e4".encode(), b"d"], [b"e", b"f" * (1 << 20)]], object)


def every() -> dict[str, NDArray[Any]]:
    """An array of three rows for each datatype."""
    arrays = {name: np.array(NUMBERS).astype(d.dtype) for name, d in BY_NAME.items()}
    for name in ("FP16", "BF16", "FP32", "FP64"):
        arrays[name] = np.array([[1.5, -0.25], [0, 1e-3], [65504, -1]]).astype(arrays[name].dtype)
    arrays["INT64"] = np.array([[2**63 - 1, -(2**63)], [0, 1], [2, 3]], np.int64)
    arrays["UINT64"] = np.array([[2**64 - 1, 0], [0, 1], [2, 3]], np.uint64)
    return arrays | {"BYTES": TEXTS}


def json_of(array: NDArray[Any]) -> Any:
    if array.dtype.hasobject:
        return [[value.decode() for value in line] for line in array.tolist()]
    is_narrow = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return (array.astype(np.float32) if is_narrow else array).tolist()


def json_request(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        "id": "7",
        "inputs": [
            {"name": name, "datatype": name, "shape": list(array.shape), "data": json_of(array)}
            for name, array in arrays.items()
        ],
    }


def from_json(tensor: dict[str, Any]) -> NDArray[Any]:
    """The array of an output in JSON; its data is one flat list."""
    datatype, data = BY_NAME[tensor["datatype"]], tensor["data"]
    if datatype.name == "BYTES":
        array = np.array([value.encode() for value in data], object)
    elif datatype.dtype.kind in "iub":
        array = np.array(data, datatype.dtype)
    else:
        array = np.array(data).astype(datatype.dtype)
    return array.reshape(tensor["shape"])


def assert_same(given: NDArray[Any], wanted: NDArray[Any]) -> None:
    assert given.dtype == wanted.dtype
    assert given.shape == wanted.shape
    assert bytes(to_raw(given)) == bytes(to_raw(wanted))


def read_binary(response: Any) -> dict[str, NDArray[Any]]:
    """The binary tensors of an answer over HTTP."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    told, rest = json.loads(response.content[:length]), response.content[length:]
    arrays = {}
    for tensor in told["outputs"]:
        assert "data" not in tensor
        size = tensor["parameters"]["binary_data_size"]
        datatype, shape = BY_NAME[tensor["datatype"]], tuple(tensor["shape"])
        arrays[tensor["name"]] = from_raw(datatype, shape, rest[:size], Tensor("", ""))
        rest = rest[size:]
    assert not rest
    return arrays


@row(28)
def test_an_answer_has_model_version_and_id(served: Served) -> None:
    message = request("half", x=X)
    message.id = "forty-two"
    response = served.infer(message)
    assert output(response).tolist() == [2.5, 3, 4.5]
    assert (response.model_name, response.model_version, response.id) == ("half", "1", "forty-two")
    assert not response.parameters
    assert not response.outputs[0].parameters


@row(29, 33, 41, 69)
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_json_and_binary_tensors_have_the_same_answers(
    served: Served, *, binary_in: bool, binary_out: bool
) -> None:
    arrays = every()
    if binary_in:
        message = request("all", **arrays)
        response = served.infer_over_rest(message, parameters={"binary_data_output": binary_out})
    else:
        body = json_request(arrays) | {"parameters": {"binary_data_output": binary_out}}
        response = served.post("/v2/models/all/infer", body)
    if binary_out:
        answered = read_binary(response)
        assert list(answered) == list(arrays)
        for name, array in arrays.items():
            assert_same(answered[name], array)
    else:
        told = response.json()
        assert response.headers["content-type"] == "application/json"
        assert "inference-header-content-length" not in response.headers
        for tensor in told["outputs"]:
            assert_same(from_json(tensor), arrays[tensor["name"]])
            assert "parameters" not in tensor


@row(33, 34)
def test_every_datatype_is_the_same_over_grpc_raw_and_typed(served: Served) -> None:
    arrays = every()
    raw = served.infer(request("all", **arrays))
    for at, array in enumerate(arrays.values()):
        assert raw.raw_output_contents[at] == bytes(to_raw(array))
    message = request("all", **arrays)
    del message.raw_input_contents[:]
    for tensor in message.inputs:
        field = BY_NAME[tensor.datatype].field
        if field is None:
            tensor.shape[0] = 0
        else:
            getattr(tensor.contents, field).extend(arrays[tensor.name].ravel().tolist())
    # FP16 and BF16 have no field, so they have no rows here: all the rest was read.
    assert served.refused(message)[1].endswith("batch size does not match other inputs for 'all'")


@row(34)
@pytest.mark.parametrize("name", [d.name for d in BY_NAME.values() if d.field])
def test_typed_contents_are_answered_raw(served: Served, name: str) -> None:
    wanted = every()[name]
    message = request(f"same_{name}", x=wanted)
    del message.raw_input_contents[:]
    field = BY_NAME[name].field
    assert field is not None
    getattr(message.inputs[0].contents, field).extend(wanted.ravel().tolist())
    response = served.infer(message)
    assert response.raw_output_contents[0] == bytes(to_raw(wanted))
    message.parameters["binary_data_output"].bool_param = False
    typed = served.infer(message)
    assert getattr(typed.outputs[0].contents, field) == getattr(message.inputs[0].contents, field)


@row(35)
def test_a_request_may_ask_for_typed_contents(served: Served) -> None:
    message = request("half", x=X)
    message.parameters["binary_data_output"].bool_param = False
    response = served.infer(message)
    assert list(response.outputs[0].contents.fp32_contents) == [2.5, 3, 4.5]
    assert not response.raw_output_contents


@row(81)
@pytest.mark.parametrize("name", ["FP32", "INT32", "BOOL", "BF16", "BYTES"])
def test_a_model_has_the_same_answer_over_five_ways(served: Served, name: str) -> None:
    model, wanted = f"same_{name}", every()[name]

    predict = PredictRequest()
    predict.model_spec.name = model
    predict.inputs["x"].CopyFrom(tensors.to_proto(wanted))
    call: Any = served.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    answer = PredictResponse.FromString(call(predict.SerializeToString()))
    assert_same(tensors.to_array(answer.outputs["x"]), wanted)

    rows = served.post(f"/v1/models/{model}:predict", {"instances": json_of(wanted)})
    if name == "BF16":  # TensorFlow Serving has no JSON for it
        assert rows.status_code == 501
    else:
        told = rows.json()["predictions"]
        flat = np.array(told, object).ravel().tolist()
        assert_same(from_json({"datatype": name, "shape": wanted.shape, "data": flat}), wanted)

    message = request(model, x=wanted)
    assert served.infer(message).raw_output_contents[0] == bytes(to_raw(wanted))

    binary = served.infer_over_rest(message, parameters={"binary_data_output": True})
    assert_same(read_binary(binary)["x"], wanted)

    given = {"name": "x", "datatype": name, "shape": [3, 2], "data": json_of(wanted)}
    in_json = served.post(f"/v2/models/{model}/infer", {"inputs": [given]})
    assert_same(from_json(in_json.json()["outputs"][0]), wanted)


@row(30, 31)
def test_an_answer_over_http_always_has_an_id(served: Served) -> None:
    body = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1, 2, 5]}]}
    told = served.post("/v2/models/half/infer", body).json()
    assert told.pop("id")
    assert told == {
        "model_name": "half",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "data": [2.5, 3.0, 4.5]}],
    }
    given = served.post("/v2/models/half/infer", body, x_request_id="mine-7").json()
    assert given["id"] == "mine-7"
    given = served.post("/v2/models/half/infer", body | {"id": None}).json()
    assert given["id"]


@row(36)
def test_bytes_are_any_bytes(served: Served) -> None:
    texts = TEXTS.ravel()
    response = served.infer(request("text", text=texts))
    assert response.raw_output_contents[0] == bytes(to_raw(texts))
    body = {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["\u00e4", {"b64": "AP8="}]}
        ],
        "parameters": {"binary_data_output": True},
    }
    told = read_binary(served.post("/v2/models/text/infer", body))["text"]
    assert told.tolist() == ["\u00e4".encode(), b"\0\xff"]


@row(37)
def test_bytes_that_are_no_text_have_no_json(served: Served) -> None:
    message = request("text", text=np.array([b"\xff"], object))
    response = served.infer_over_rest(message)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "output 'text' holds bytes that are not UTF-8: ask for binary data"},
    )
    answered = read_binary(served.infer_over_rest(message, parameters={"binary_data_output": True}))
    assert answered["text"].tolist() == [b"\xff"]


@row(38)
def test_no_rows_are_answered_with_none(served: Served) -> None:
    response = served.infer(request("half", x=X[:0]))
    assert (list(response.outputs[0].shape), response.raw_output_contents[0]) == ([0], b"")
    binary = served.infer_over_rest(
        request("half", x=X[:0]), parameters={"binary_data_output": True}
    )
    (told,) = binary.json()["outputs"]
    assert told == {
        "name": "y",
        "datatype": "FP32",
        "shape": [0],
        "parameters": {"binary_data_size": 0},
    }
    assert binary.headers["content-type"] == "application/json"
    body: dict[str, Any] = {"name": "x", "shape": [0], "datatype": "FP32", "data": []}
    for given in (body, {k: v for k, v in body.items() if k != "data"}):
        told = served.post("/v2/models/half/infer", {"inputs": [given]}).json()["outputs"][0]
        assert (told["shape"], told["data"]) == ([0], [])


@row(39)
def test_a_scalar_has_no_dimensions(served: Served) -> None:
    response = served.infer(request("scalar", x=np.float32(4) + np.zeros((), np.float32)))
    assert (list(response.outputs[0].shape), output(response).item()) == ([], 4.0)
    for data in (4, [4]):
        body = {"inputs": [{"name": "x", "shape": [], "datatype": "FP32", "data": data}]}
        told = served.post("/v2/models/scalar/infer", body).json()["outputs"][0]
        assert (told["shape"], told["data"]) == ([], [4.0])


@row(40)
def test_what_is_not_finite_is_a_word(served: Served) -> None:
    for data in ("[NaN, Infinity, -Infinity]", '["NaN", "Infinity", "-Infinity"]'):
        body = b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":%b}]}' % data.encode()
        response = served.post("/v2/models/half/infer", body)
        assert json.loads(response.text)["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity"]


@row(42)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("UINT8", 300, "300 is out of its range"),
        ("INT32", 1.5, "expected integers, got 1.5"),
        ("INT32", True, "expected integers, got true"),
        ("INT64", 2**63, f"{2**63} is out of its range"),
        ("FP32", "x", 'expected numbers, got "x"'),
        ("FP32", None, "expected numbers, got null"),
        ("BOOL", 2, "expected true or false, got 2"),
        ("BYTES", 1, "expected strings, got 1"),
        ("BYTES", {"b64": "%"}, "unable to decode base64"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    served: Served, name: str, value: Any, words: str
) -> None:
    given = {"name": name, "shape": [1, 2], "datatype": name, "data": [value, value]}
    response = served.post("/v2/models/all/infer", {"inputs": [given]})
    assert response.status_code == 400
    assert response.json()["error"] == (
        f"Unable to parse 'data': input '{name}' of datatype {name}: {words}"
    )


@row(43)
@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[1, [2]], 3, [[[4]]]]])
def test_nesting_does_not_count(served: Served, data: Any) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}]}
    told = served.post("/v2/models/fixed/infer", body).json()["outputs"][0]
    assert told["data"] == [2.5, 3.0, 3.5, 4.0]


@row(43)
def test_the_number_of_values_counts(served: Served) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3]}]}
    response = served.post("/v2/models/fixed/infer", body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(
        "Unable to parse 'data': Shape does not match true shape of 'data' field"
    )


@row(44)
def test_outputs_come_in_the_order_in_which_they_are_named(served: Served) -> None:
    a, b = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
    message = request("simple", INPUT1=b, INPUT0=a)
    assert [o.name for o in served.infer(message).outputs] == ["OUTPUT0", "OUTPUT1"]
    for names in (["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]):
        del message.outputs[:]
        for name in names:
            message.outputs.add(name=name)
        response = served.infer(message)
        assert [o.name for o in response.outputs] == names
        assert output(response).tolist() == (a - b).tolist()
        told = served.infer_over_rest(message).json()["outputs"]
        assert [tensor["name"] for tensor in told] == names
        assert told[0]["data"] == (a - b).ravel().tolist()


@row(54)
@pytest.mark.parametrize(
    ("version", "answers"), [("", "2"), ("2", "2"), ("1", "1"), ("stable", "1")]
)
def test_a_version_is_a_number_or_a_label(served: Served, version: str, answers: str) -> None:
    message = request("two", x=X)
    message.model_version = version
    assert served.infer(message).model_version == answers
    assert served.infer_over_rest(message).json()["model_version"] == answers


@row(55, 56)
def test_a_signature_is_chosen_by_parameter_or_suffix(served: Served) -> None:
    image = np.zeros((1, 8, 8), np.uint8)
    by_suffix = request("digits:other", images=image)
    assert served.infer(by_suffix).model_name == "digits:other"
    assert served.infer_over_rest(by_suffix).json()["model_name"] == "digits:other"
    for quoted in ("digits:other", "digits%3Aother"):
        told = served.http.get(f"/v2/models/{quoted}").json()
        assert told["name"] == "digits:other"
    by_parameter = request("digits", images=image)
    by_parameter.parameters["signature_name"].string_param = "other"
    assert served.infer(by_parameter).model_name == "digits"
    assert served.infer_over_rest(by_parameter).json()["model_name"] == "digits"


@row(57)
def test_the_only_signature_needs_no_name(served: Served) -> None:
    assert output(served.infer(request("one", x=X))).tolist() == [2.5, 3, 4.5]


@row(58, 59, 60)
@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("timeout", "int64_param", 0),
        ("timeout", "int64_param", 10**9),
        ("priority", "int64_param", 5),
        ("priority", "uint64_param", 2**63),
        ("sequence_id", "int64_param", 5),
        ("sequence_id", "string_param", "s"),
        ("sequence_start", "bool_param", True),
        ("triton_enable_empty_final_response", "bool_param", False),
        ("mine", "bool_param", True),
        ("mine", "int64_param", -1),
        ("mine", "string_param", "x"),
        ("mine", "double_param", 0.5),
        ("mine", "uint64_param", 2**64 - 1),
        ("content_type", "string_param", "np"),
    ],
)
def test_parameters_without_effect_are_taken(
    served: Served, key: str, kind: str, value: Any
) -> None:
    message = request("half", x=X)
    setattr(message.parameters[key], kind, value)
    assert output(served.infer(message)).tolist() == [2.5, 3, 4.5]
    assert served.infer_over_rest(message).status_code == 200


@row(58)
def test_a_timeout_ends_a_request_that_waits(served: Served) -> None:
    model = served.models["slow"]
    model.hold()
    try:
        call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        blocked = call.future(request("slow", x=X).SerializeToString())
        model.wait_until_running()
        message = request("slow", x=X)
        message.parameters["timeout"].int64_param = 1
        assert served.refused(message)[0] == "DEADLINE_EXCEEDED"
        assert served.infer_over_rest(message).status_code == 504
    finally:
        model.release()
    blocked.result()


@row(61)
def test_classes_are_the_largest_values_with_their_labels(served: Served) -> None:
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    message = request("digits", images=images)
    message.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    response = served.infer(message)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 3])
    array = from_raw(BY_NAME["BYTES"], (2, 3), response.raw_output_contents[0], Tensor("", ""))
    assert array[0].tolist() == [b"59.500000:7:seven", b"51.500000:6:six", b"43.500000:5:five"]
    told = served.infer_over_rest(message).json()["outputs"][0]
    assert told["data"] == [value.decode() for value in array.ravel().tolist()]


@row(62)
def test_there_are_no_more_classes_than_elements_and_no_labels_without_a_card(
    served: Served,
) -> None:
    message = request("fixed", x=np.array([[1, 2, 3, 4]], np.float32))
    message.outputs.add(name="y").parameters["classification"].int64_param = 9
    told = served.infer_over_rest(message).json()["outputs"][0]
    assert told["shape"] == [4]
    assert told["data"] == ["4.000000:3", "3.500000:2", "3.000000:1", "2.500000:0"]


def test_an_output_that_has_no_datatype_is_left_out(served: Served) -> None:
    assert [o.name for o in served.infer(request("odd", x=X)).outputs] == ["y"]
    message = ModelInferRequest(model_name="")
    assert served.refused(message) == ("INVALID_ARGUMENT", "Missing model name in request")
