"""The Open Inference Protocol over real gRPC: answers, and the texts that scripts search for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, refusal, spec
from numpy.typing import NDArray

from ladle.protos import tensors
from ladle.protos.datatypes import BY_NAME, to_raw
from ladle.protos.inference_pb import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.health import Health
from ladle.server.rpc.services import methods
from ladle.server.transport.grpcio.transport import GrpcioTransport

SERVICE = "/inference.GRPCInferenceService"
HALF = Signature("serving_default", {"x": spec(-1)}, {"y": spec(-1)})
INT32 = 3
SIMPLE = Signature(
    "serving_default",
    {"INPUT0": spec(-1, 2, data_type=INT32), "INPUT1": spec(-1, 2, data_type=INT32)},
    {"OUTPUT0": spec(-1, 2, data_type=INT32), "OUTPUT1": spec(-1, 2, data_type=INT32)},
)
EVERY = Signature(
    "serving_default",
    {name: spec(-1, 2, data_type=d.data_type) for name, d in BY_NAME.items()},
    {name: spec(-1, 2, data_type=d.data_type) for name, d in BY_NAME.items()},
)
ODD = Signature("serving_default", {"x": spec(-1)}, {"y": spec(-1), "z": spec(-1, data_type=8)})
SCORES = Signature("scores", {"x": spec(-1, 3)}, {"p": spec(-1, 3)})
OTHER = Signature("other", {"x": spec(-1)}, {"y": spec(-1)})
CARD = '{"format": 1, "labels": ["ant", "bee", "cat"]}'

Infer = Callable[..., ModelInferResponse]


def simple(inputs: Arrays) -> dict[str, NDArray[Any]]:
    a, b = inputs["INPUT0"], inputs["INPUT1"]
    return {"OUTPUT0": a + b, "OUTPUT1": a - b}


def half(inputs: Arrays) -> dict[str, NDArray[Any]]:
    y = inputs["x"] / 2 + 2
    return {"y": y.astype(np.float32), "z": y.astype(np.complex64)}


MODELS = {
    "half": FakeServable(half, (HALF,)),
    "two": FakeServable(half, (HALF, OTHER)),
    "simple": FakeServable(simple, (SIMPLE,)),
    "every": FakeServable(lambda inputs: dict(inputs), (EVERY,)),
    "odd": FakeServable(half, (ODD,)),
    "scores": FakeServable(lambda inputs: {"p": inputs["x"]}, (SCORES,), CARD),
    "pair": FakeServable(half, (SCORES, OTHER)),
    "a:b": FakeServable(half, (HALF,)),
}


@pytest.fixture(scope="module")
def manager() -> Manager:
    loader = FakeLoader()
    loader.failures[ServableId("broken", 1)] = ServingError("no such operation")

    def load(servable_id: ServableId, path: Path) -> BatchingServable:
        loader(servable_id, path)
        return BatchingServable(MODELS[servable_id.name], BatchOptions())

    manager = Manager(load)
    for name in MODELS:
        manager.aspire(name, {1: Path("/1"), 2: Path("/2")} if name == "two" else {1: Path("/1")})
    manager.aspire("broken", {1: Path("/1")})
    manager.set_labels({"two": {"stable": 1}})
    assert manager.wait_until_settled([*MODELS, "broken"], TIMEOUT_S)
    return manager


@pytest.fixture(scope="module")
def health() -> Health:
    return Health()


@pytest.fixture(scope="module")
def channel(manager: Manager, health: Health) -> Iterator[grpc.Channel]:
    served = methods(manager, tensor_content=False, health=health)
    transport = GrpcioTransport(served, max_threads=4)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    transport.stop(TIMEOUT_S)


@pytest.fixture
def ask(channel: grpc.Channel) -> Callable[[str, Any, Any], Any]:
    def ask(method: str, request: Any, answer: Any) -> Any:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"{SERVICE}/{method}"
        )
        return answer.FromString(call(request.SerializeToString(), timeout=TIMEOUT_S))

    return ask


@pytest.fixture
def infer(ask: Callable[[str, Any, Any], Any]) -> Infer:
    def infer(request: ModelInferRequest) -> Any:
        return ask("ModelInfer", request, ModelInferResponse)

    return infer


def request(model: str, **inputs: NDArray[Any]) -> ModelInferRequest:
    """A request in raw form, as tritonclient sends it."""
    message = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        kind = {"f": "FP32", "i": "INT32", "O": "BYTES"}[array.dtype.kind]
        message.inputs.add(name=name, datatype=kind, shape=array.shape)
        message.raw_input_contents.append(bytes(to_raw(array)))
    return message


def floats(response: ModelInferResponse, at: int = 0) -> list[float]:
    assert response.outputs[at].datatype == "FP32"
    values: list[float] = np.frombuffer(response.raw_output_contents[at], np.float32).tolist()
    return values


X = np.array([1, 2, 5], np.float32)


def test_a_raw_tensor_is_answered_raw_with_name_version_and_id(infer: Infer) -> None:
    message = request("half", x=X)
    message.id = "forty-two"
    response = infer(message)
    assert floats(response) == [2.5, 3, 4.5]
    assert (response.model_name, response.model_version, response.id) == ("half", "1", "forty-two")
    assert [(o.name, list(o.shape)) for o in response.outputs] == [("y", [3])]
    assert not response.outputs[0].HasField("contents")
    assert not response.parameters


def test_a_large_raw_tensor_is_read_in_place(infer: Infer) -> None:
    x = np.arange(100_000, dtype=np.float32)
    assert floats(infer(request("half", x=x))) == (x / 2 + 2).tolist()


def test_typed_contents_are_answered_raw_unless_asked_otherwise(infer: Infer) -> None:
    message = ModelInferRequest(model_name="half")
    message.inputs.add(name="x", datatype="FP32", shape=[3]).contents.fp32_contents.extend(X)
    assert floats(infer(message)) == [2.5, 3, 4.5]
    message.parameters["binary_data_output"].bool_param = False
    response = infer(message)
    assert list(response.outputs[0].contents.fp32_contents) == [2.5, 3, 4.5]
    assert not response.raw_output_contents


def test_every_datatype_comes_back_as_it_went_in(infer: Infer) -> None:
    message = ModelInferRequest(model_name="every")
    for name, datatype in BY_NAME.items():
        message.inputs.add(name=name, datatype=name, shape=[1, 2])
        array = np.array([[1, 0]]).astype(datatype.dtype)
        if name == "BYTES":
            array = np.array([["ä".encode(), b"\0b"]], object)
        message.raw_input_contents.append(bytes(to_raw(array)))
    response = infer(message)
    assert [output.datatype for output in response.outputs] == list(BY_NAME)
    assert list(response.raw_output_contents) == list(message.raw_input_contents)


@pytest.mark.parametrize("name", [d.name for d in BY_NAME.values() if d.field])
def test_every_typed_field_is_read(infer: Infer, name: str) -> None:
    datatype = BY_NAME[name]
    message = ModelInferRequest(model_name="every")
    for other in BY_NAME.values():
        given = message.inputs.add(name=other.name, datatype=other.name, shape=[0, 2])
        if other is datatype:
            assert datatype.field is not None
            given.shape[0] = 1
            values = [b"a", b""] if name == "BYTES" else [1, 0]
            getattr(given.contents, datatype.field).extend(values)
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)  # read, and then its rows are more than those of the empty inputs
    assert refusal(caught.value)[1].endswith("batch size does not match other inputs for 'every'")


def test_outputs_come_in_the_order_in_which_they_are_named(infer: Infer) -> None:
    a = np.array([[5, 6]], np.int32)
    message = request("simple", INPUT0=a, INPUT1=np.ones_like(a))
    for name in ("OUTPUT1", "OUTPUT0"):
        message.outputs.add(name=name)
    response = infer(message)
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert np.frombuffer(response.raw_output_contents[0], np.int32).tolist() == [4, 5]
    assert np.frombuffer(response.raw_output_contents[1], np.int32).tolist() == [6, 7]


def test_an_output_without_a_datatype_is_left_out(infer: Infer) -> None:
    assert [output.name for output in infer(request("odd", x=X)).outputs] == ["y"]


def test_no_rows_are_answered_with_none(infer: Infer) -> None:
    response = infer(request("half", x=X[:0]))
    assert (list(response.outputs[0].shape), response.raw_output_contents[0]) == ([0], b"")


@pytest.mark.parametrize(
    ("version", "answers"), [("", "2"), ("1", "1"), ("2", "2"), ("stable", "1"), ("007", "")]
)
def test_a_version_is_a_number_a_label_or_the_newest(
    infer: Infer, version: str, answers: str
) -> None:
    message = request("two", x=X)
    message.model_version = version
    if answers:
        assert infer(message).model_version == answers
        return
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    assert refusal(caught.value) == (
        "NOT_FOUND",
        "Request for unknown model: 'two' version 7 is not found",
    )


def test_a_signature_is_chosen_by_parameter_or_suffix(infer: Infer) -> None:
    by_suffix = infer(request("two:other", x=X))
    assert (by_suffix.model_name, floats(by_suffix)) == ("two:other", [2.5, 3, 4.5])
    message = request("two", x=X)
    message.parameters["signature_name"].string_param = "other"
    assert floats(infer(message)) == [2.5, 3, 4.5]
    assert floats(infer(request("a:b", x=X))) == [2.5, 3, 4.5]  # a model's whole name


def test_the_only_signature_is_the_default(infer: Infer) -> None:
    x = np.array([[0.2, 0.7, 0.1]], np.float32)
    assert infer(request("scores", x=x)).outputs[0].name == "p"
    with pytest.raises(grpc.RpcError) as caught:
        infer(request("pair", x=x))
    assert refusal(caught.value) == (
        "INVALID_ARGUMENT",
        "Serving signature key \"serving_default\" not found. The model has ['other', 'scores']",
    )


@pytest.mark.parametrize("count", [2, 9])
def test_classes_are_named_by_value_descending(infer: Infer, count: int) -> None:
    x = np.array([[0.2, 0.7, 0.7], [np.nan, 0.5, 0.1]], np.float32)
    message = request("scores", x=x)
    output = message.outputs.add(name="p")
    output.parameters["classification"].int64_param = count
    response = infer(message)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == (
        "BYTES",
        [2, min(count, 3)],
    )
    raw = response.raw_output_contents[0]
    assert b"0.700000:1:bee" in raw
    first = raw[4 : 4 + len("0.700000:1:bee")]
    assert first == b"0.700000:1:bee"  # of equal values the first
    assert (b"nan:0:ant" in raw) == (count == 9)


def test_predict_and_infer_share_a_batch(
    channel: grpc.Channel, manager: Manager, infer: Infer
) -> None:
    model = MODELS["half"]
    predict = PredictRequest()
    predict.model_spec.name = "half"
    predict.inputs["x"].CopyFrom(tensors.to_proto(X))
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict"
    )
    answer = PredictResponse.FromString(call(predict.SerializeToString(), timeout=TIMEOUT_S))
    assert tensors.to_array(answer.outputs["y"]).tolist() == floats(infer(request("half", x=X)))
    assert model.batches


def changed(model: str, change: Callable[[ModelInferRequest], object]) -> ModelInferRequest:
    inputs = {"x": X}
    if model == "simple":
        inputs = {"INPUT0": np.ones((1, 2), np.int32), "INPUT1": np.ones((1, 2), np.int32)}
    message = request(model, **inputs)
    change(message)
    return message


def both_forms(message: ModelInferRequest) -> None:
    message.inputs[0].contents.fp32_contents.extend(X)


def of_other_type(message: ModelInferRequest) -> None:
    del message.raw_input_contents[:]
    message.inputs[0].contents.int_contents.extend([1, 2, 3])


def without_data(message: ModelInferRequest) -> None:
    del message.raw_input_contents[:]


def parameter(key: str, **value: Any) -> Callable[[ModelInferRequest], object]:
    def change(message: ModelInferRequest) -> None:
        for field, content in value.items():
            setattr(message.parameters[key], field, content)

    return change


def shared_memory(message: ModelInferRequest) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"


def classes(count: int) -> Callable[[ModelInferRequest], object]:
    def change(message: ModelInferRequest) -> None:
        message.outputs.add(name="y").parameters["classification"].int64_param = count

    return change


def renamed(**fields: Any) -> Callable[[ModelInferRequest], object]:
    def change(message: ModelInferRequest) -> None:
        for field, value in fields.items():
            setattr(message, field, value)

    return change


def shaped(*shape: int) -> Callable[[ModelInferRequest], object]:
    def change(message: ModelInferRequest) -> None:
        message.inputs[0].shape[:] = shape

    return change


REFUSED: list[tuple[str, Callable[[ModelInferRequest], object], str, str]] = [
    ("half", renamed(model_name=""), "INVALID_ARGUMENT", "Missing model name in request"),
    (
        "half",
        renamed(model_name="nope"),
        "NOT_FOUND",
        "Request for unknown model: 'nope' is not found",
    ),
    (
        "half",
        renamed(model_version="9"),
        "NOT_FOUND",
        "Request for unknown model: 'half' version 9 is not found",
    ),
    (
        "half",
        renamed(model_name="broken"),
        "NOT_FOUND",
        "Request for unknown model: 'broken' has no available versions",
    ),
    (
        "half",
        renamed(model_name="broken", model_version="1"),
        "UNAVAILABLE",
        "Request for unknown model: 'broken' version 1 is not at ready state",
    ),
    (
        "half",
        renamed(model_version="x"),
        "INVALID_ARGUMENT",
        "failed to get model version from specified version string 'x', version should be an "
        "integral value > 0 or a label",
    ),
    (
        "half",
        renamed(model_version="-1"),
        "INVALID_ARGUMENT",
        "invalid model version specified '-1' , version should be an integral value > 0",
    ),
    (
        "half",
        lambda m: setattr(m.inputs[0], "name", "q"),
        "INVALID_ARGUMENT",
        "unexpected inference input 'q' for model 'half'",
    ),
    (
        "simple",
        lambda m: (m.inputs.pop(), m.raw_input_contents.pop()),
        "INVALID_ARGUMENT",
        "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but "
        "missing required input(s) ['INPUT1']. Please provide all required input(s).",
    ),
    (
        "half",
        lambda m: m.inputs.add(name="x"),
        "INVALID_ARGUMENT",
        "input 'x' already exists in request",
    ),
    (
        "half",
        lambda m: setattr(m.inputs[0], "datatype", "INT32"),
        "INVALID_ARGUMENT",
        "inference input 'x' data-type is 'INT32', but model 'half' expects 'FP32'",
    ),
    (
        "half",
        lambda m: setattr(m.inputs[0], "datatype", "fp32"),
        "INVALID_ARGUMENT",
        "invalid datatype 'fp32' for input 'x'",
    ),
    (
        "half",
        shaped(1, 3),
        "INVALID_ARGUMENT",
        "unexpected shape for input 'x' for model 'half'. Expected [-1], got [1,3]. ",
    ),
    (
        "half",
        shaped(-1),
        "INVALID_ARGUMENT",
        "invalid shape for input 'x': shape [-1] contains one or more invalid dimensions",
    ),
    (
        "half",
        shaped(4),
        "INVALID_ARGUMENT",
        "input byte size mismatch for input 'x' for model 'half'. Expected 16, got 12",
    ),
    (
        "simple",
        lambda m: m.raw_input_contents.pop(),
        "INVALID_ARGUMENT",
        "the number of inputs (2) does not match the expected number of raw input contents (1) "
        "for model 'simple'.",
    ),
    (
        "half",
        without_data,
        "INVALID_ARGUMENT",
        "unable to find data for input tensor 'x' for model 'half' in request.",
    ),
    (
        "half",
        both_forms,
        "INVALID_ARGUMENT",
        "contents field must not be specified when using raw_input_contents for 'x' for model "
        "'half'",
    ),
    (
        "half",
        of_other_type,
        "INVALID_ARGUMENT",
        "unexpected explicit tensor data for input tensor 'x' for model 'half' of type 'INT8', "
        "expected datatype 'FP32'",
    ),
    (
        "half",
        lambda m: m.outputs.add(name="q"),
        "INVALID_ARGUMENT",
        "unexpected inference output 'q' for model 'half'",
    ),
    (
        "odd",
        lambda m: m.outputs.add(name="z"),
        "INVALID_ARGUMENT",
        "output 'z' of model 'odd' is complex64, which has no datatype here",
    ),
    (
        "half",
        lambda m: (m.outputs.add(name="y"), m.outputs.add(name="y")),
        "INVALID_ARGUMENT",
        "output 'y' already exists in request",
    ),
    ("half", shared_memory, "UNIMPLEMENTED", "shared memory is not supported"),
    (
        "half",
        parameter("timeout", string_param="x"),
        "INVALID_ARGUMENT",
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        "half",
        parameter("triton_x", bool_param=True),
        "INVALID_ARGUMENT",
        "parameter keys starting with 'triton_' are reserved, got 'triton_x'",
    ),
    (
        "half",
        parameter("signature_name", string_param="q"),
        "INVALID_ARGUMENT",
        "Serving signature key \"q\" not found. The model has ['serving_default']",
    ),
    (
        "half",
        classes(0),
        "INVALID_ARGUMENT",
        "invalid value for 'classification' parameter, expected > 0",
    ),
]


@pytest.mark.parametrize(
    ("model", "change", "code", "says"), REFUSED, ids=[says[:60] for *_, says in REFUSED]
)
def test_a_wrong_request_has_the_protocols_code_and_words(
    infer: Infer, model: str, change: Callable[[ModelInferRequest], object], code: str, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(changed(model, change))
    assert refusal(caught.value) == (code, says)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.inputs[0].contents.SetInParent(),  # MLServer's converter sends an empty one
        parameter("priority", int64_param=1),
        parameter("priority", uint64_param=1),
        parameter("sequence_id", int64_param=5),
        parameter("sequence_id", string_param="s"),
        parameter("triton_enable_empty_final_response", bool_param=True),
        parameter("timeout", int64_param=0),
        parameter("anything", double_param=0.5),
        lambda m: m.inputs[0].parameters.get_or_create("binary_data_size"),
    ],
)
def test_what_clients_send_besides_is_taken(
    infer: Infer, change: Callable[[ModelInferRequest], object]
) -> None:
    assert floats(infer(changed("half", change))) == [2.5, 3, 4.5]


def test_a_timeout_ends_a_request_that_waits(infer: Infer) -> None:
    model = MODELS["half"]
    model.hold()
    try:
        with pytest.raises(grpc.RpcError) as caught:
            infer(changed("half", parameter("timeout", int64_param=1)))
    finally:
        model.release()
    assert refusal(caught.value)[0] == "DEADLINE_EXCEEDED"


def test_metadata_has_the_tensors_and_the_versions(ask: Callable[[str, Any, Any], Any]) -> None:
    def metadata(name: str, version: str = "") -> Any:
        message = ModelMetadataRequest(name=name, version=version)
        return ask("ModelMetadata", message, ModelMetadataResponse)

    half = metadata("half")
    assert (half.name, list(half.versions), half.platform) == (
        "half",
        ["1"],
        "tensorflow_savedmodel",
    )
    assert [(i.name, i.datatype, list(i.shape)) for i in half.inputs] == [("x", "FP32", [-1])]
    assert list(metadata("two").versions) == ["1", "2"]
    assert list(metadata("two", "1").versions) == list(metadata("two", "stable").versions) == ["1"]
    assert metadata("two:other").name == "two:other"
    assert [output.name for output in metadata("odd").outputs] == ["y"]
    assert [i.datatype for i in metadata("every").inputs] == list(BY_NAME)
    with pytest.raises(grpc.RpcError, match="Request for unknown model"):
        metadata("nope")


def test_readiness_is_the_models_and_the_servers(
    ask: Callable[[str, Any, Any], Any], health: Health
) -> None:
    def ready(name: str, version: str = "") -> bool:
        message = ModelReadyRequest(name=name, version=version)
        return bool(ask("ModelReady", message, ModelReadyResponse).ready)

    assert ready("half")
    assert ready("half", "1")
    assert not ready("broken")
    for name, version in (("nope", ""), ("half", "9")):
        with pytest.raises(grpc.RpcError) as caught:
            ready(name, version)
        assert refusal(caught.value)[0] == "NOT_FOUND"
    assert not ask("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
    health.set("", True)
    assert ask("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
    health.set("", False)


def test_the_server_says_what_it_has(ask: Callable[[str, Any, Any], Any]) -> None:
    told = ask("ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse)
    assert told.name == "ladle"
    assert "classification" in told.extensions
    assert "sequence" not in told.extensions
