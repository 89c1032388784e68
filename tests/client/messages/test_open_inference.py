"""The Open Inference Protocol's bytes: tensors there and back, and answers that are nonsense."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ladle.client import InvalidAnswer, InvalidInput, MessageTooLarge, Unimplemented
from ladle.client.messages.open_inference import requests, responses
from ladle.client.messages.open_inference.streams import MODEL_STREAM_INFER_MESSAGES
from ladle.client.messages.requests import Servable
from ladle.protos import inference_pb as pb
from ladle.protos.datatypes import BY_NAME, BY_NUMBER
from ladle.protos.dtypes import from_numpy

M = Servable("m")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
STRINGS = st.binary(max_size=9) | st.text(max_size=4).map(str.encode)


@st.composite
def tensors(draw: st.DrawFn) -> NDArray[Any]:
    datatype = draw(st.sampled_from([*BY_NAME.values()]))
    shape = draw(SHAPES)
    if datatype.name == "BYTES":
        strings = np.empty(shape, object)
        for index in np.ndindex(shape):
            strings[index] = draw(STRINGS)
        return strings
    if datatype.name == "BF16":
        return draw(arrays.arrays(np.uint16, shape)).view(datatype.dtype)
    array: NDArray[Any] = draw(arrays.arrays(datatype.dtype, shape))
    return array


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether arrays are alike to the bit, NaNs too."""
    if one.dtype.hasobject:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Return an answer with the inputs of a request as its outputs."""
    response = pb.ModelInferResponse(model_name="m", model_version="3")
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    return response


@given(st.dictionaries(st.text(max_size=3), tensors(), max_size=3))
def test_tensors_survive_the_way_there_and_back(inputs: dict[str, NDArray[Any]]) -> None:
    body = requests.infer(M, inputs).body
    read = responses.infer(answer(pb.ModelInferRequest.FromString(body)).SerializeToString(), M)
    assert read.version == 3
    assert [*read.outputs] == [*inputs]
    assert all(same(read.outputs[name], array) for name, array in inputs.items())


@given(tensors())
def test_typed_contents_are_read_as_raw_ones_are(array: NDArray[Any]) -> None:
    datatype = BY_NUMBER[from_numpy(array.dtype)]
    response = pb.ModelInferResponse()
    output = response.outputs.add(name="y", datatype=datatype.name, shape=array.shape)
    if datatype.field is None:
        response.raw_output_contents.append(array.tobytes())
    else:
        getattr(output.contents, datatype.field).extend(array.ravel().tolist())
    read = responses.infer(response.SerializeToString(), M).outputs["y"]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    if array.dtype.kind == "f":  # NaNs keep being NaNs, and no more
        np.testing.assert_array_equal(read, array)
    else:
        assert same(read, array)


@given(tensors())
def test_a_request_in_a_stream_is_the_request_with_an_id(array: NDArray[Any]) -> None:
    body = requests.infer(M, {"x": array}).body
    message = MODEL_STREAM_INFER_MESSAGES.encode(300, body)
    expected = pb.ModelInferRequest.FromString(body)
    expected.id = "300"
    assert pb.ModelInferRequest.FromString(message) == expected


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_one_error(garbage: bytes) -> None:
    for read in (responses.infer, responses.metadata, responses.model_ready):
        with suppress(InvalidAnswer):
            read(garbage, M)
    for look in (responses.index, responses.server_ready, responses.loaded, responses.unloaded):
        with suppress(InvalidAnswer):
            look(garbage)


@given(tensors(), st.data())
def test_a_changed_answer_gives_an_answer_or_one_error(
    array: NDArray[Any], data: st.DataObject
) -> None:
    body = requests.infer(M, {"x": array}).body
    whole = bytearray(answer(pb.ModelInferRequest.FromString(body)).SerializeToString())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    with suppress(InvalidAnswer):
        responses.infer(bytes(whole), M)


def test_other_byte_orders_and_text_are_sent_as_the_protocol_has_them() -> None:
    inputs = {"x": np.array([1, 2], ">f4"), "s": np.array(["ä", "b"])}
    request = pb.ModelInferRequest.FromString(requests.infer(M, inputs).body)
    assert [t.datatype for t in request.inputs] == ["FP32", "BYTES"]
    assert request.raw_input_contents[0] == np.array([1, 2], "<f4").tobytes()
    assert request.raw_input_contents[1] == b"\x02\0\0\0\xc3\xa4\x01\0\0\0b"


@pytest.mark.parametrize(
    ("target", "text"),
    [(Servable("m"), ""), (Servable("m", 7), "7"), (Servable("m", None, "v1.2"), "v1.2")],
)
def test_a_version_is_text(target: Servable, text: str) -> None:
    assert requests.version_text(target) == text


def test_what_can_not_be_sent_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r'input "x": .* no datatype for complex64'):
        requests.infer(M, {"x": np.zeros(1, np.complex64)})
    with pytest.raises(InvalidInput, match=r'input "x": .*got int'):
        requests.infer(M, {"x": np.array([b"a", 1], object)})
    with pytest.raises(MessageTooLarge, match="expected at most 100 bytes"):
        requests.infer(M, {"x": np.zeros(100)}, max_bytes=100)


def output(datatype: str, *shape: int, raw: bytes | None = None, **contents: Any) -> bytes:
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name="y", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    if raw is not None:
        response.raw_output_contents.append(raw)
    return response.SerializeToString()


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (output("FP32", 2, raw=b"1234"), "expected 8 bytes for 2 elements of FP32, got 4"),
        (output("FP32", 2, fp32_contents=[1]), "expected 2 values of FP32, got 1"),
        (output("FP32", 1, fp64_contents=[1]), "expected fp32_contents for FP32, got fp64"),
        (output("FP16", 1, fp32_contents=[1]), "expected raw contents for FP16, got fp32"),
        (output("FP32", 2), "expected 8 bytes for 2 elements of FP32, got 0"),
        (output("INT8", 1, int_contents=[300]), "INT8, -128 to 127, got 300 to 300"),
        (output("HALF", 1, raw=b"12"), 'expected a datatype of the protocol, got "HALF"'),
        (output("FP32", -1, raw=b""), "expected a shape, got [-1]"),
        (output("FP32", 0, 1 << 62, raw=b""), "expected a shape"),
        (output("FP32", *[1] * 70, raw=b"1234"), "expected a shape"),
        (output("BYTES", 1 << 40, raw=b"1234"), "strings, got 4 bytes"),
        (output("BYTES", 2, raw=b"\0\0\0\0\x09\0\0\0ab"), "string 1 of 2: expected 9 bytes, got 2"),
        (output("BYTES", 2, raw=b"\x01\0\0\0a\0\0\0"), "expected 2 strings, got only 1"),
        (output("BYTES", 1, raw=b"\0\0\0\0ab"), "2 bytes follow its 1 strings"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(sent: bytes, text: str) -> None:
    with pytest.raises(InvalidAnswer) as caught:
        responses.infer(sent, M)
    assert str(caught.value).startswith('ModelInfer of model "m": output "y": ')
    assert text in str(caught.value)


def test_outputs_that_are_not_told_apart_are_refused() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[b"", b""])
    response.outputs.add(name="y", datatype="FP32", shape=[0])
    with pytest.raises(InvalidAnswer, match="expected raw contents for 1 outputs, got 2"):
        responses.infer(response.SerializeToString(), M)
    response.outputs.add(name="y", datatype="FP32", shape=[0])
    with pytest.raises(InvalidAnswer, match='output "y": the server answered it twice'):
        responses.infer(response.SerializeToString(), M)


def test_bools_other_than_one_are_true() -> None:
    assert responses.infer(output("BOOL", 3, raw=b"\0\x01\x07"), M).outputs["y"].tolist() == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("versions", "expected"), [(["1", "10", "9"], 10), (["1", "v2"], None), ([], None)]
)
def test_the_version_of_metadata_is_the_highest(versions: list[str], expected: int | None) -> None:
    message = pb.ModelMetadataResponse(name="m", versions=versions)
    assert responses.metadata(message.SerializeToString(), M).version == expected
    named = responses.metadata(message.SerializeToString(), Servable("m", 1))
    assert named.version == 1


class TestStream:
    def read(self, **fields: Any) -> Any:
        message = pb.ModelStreamInferResponse(**fields).SerializeToString()
        return MODEL_STREAM_INFER_MESSAGES.read(message, "it")

    def test_an_answer_has_its_requests_id(self) -> None:
        response = pb.ModelInferResponse(id="7", model_version="1")
        answer = self.read(infer_response=response)
        assert (answer.request_id, answer.error) == (7, None)
        assert pb.ModelInferResponse.FromString(answer.body) == response

    def test_an_error_is_left_to_a_call_of_its_own(self) -> None:
        answer = self.read(error_message="full", infer_response=pb.ModelInferResponse(id="7"))
        assert (answer.request_id, answer.body, answer.error) == (7, None, None)

    @pytest.mark.parametrize("text", ["", "x", "²", "9" * 5000])
    def test_an_answer_without_an_id_ends_the_stream(self, text: str) -> None:
        with pytest.raises(Unimplemented, match="without the id of a request: full"):
            self.read(error_message="full", infer_response=pb.ModelInferResponse(id=text))

    def test_a_part_of_an_answer_ends_the_stream(self) -> None:
        response = pb.ModelInferResponse(id="7")
        response.parameters["triton_final_response"].bool_param = True
        assert self.read(infer_response=response).request_id == 7
        response.parameters["triton_final_response"].bool_param = False
        with pytest.raises(Unimplemented, match="answers one request several times"):
            self.read(infer_response=response)
