"""Classify, Regress and MultiInference over real gRPC, on a model that counts bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal, spec
from google.protobuf.message import Message
from numpy.typing import NDArray
from transports import MakeTransport

from ladle.protos import dtypes
from ladle.protos.ladle_pb import SerializedInput
from ladle.protos.serving_pb import (
    ClassificationRequest,
    ClassificationResponse,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionRequest,
    RegressionResponse,
)
from ladle.protos.tensorflow_pb import Example
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.inference.classify import CLASSIFICATION
from ladle.server.rpc.inference.multi_inference import plan
from ladle.server.rpc.services import methods

SERVICE = "/tensorflow.serving.PredictionService/"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
EXAMPLES = TensorSpec(dtypes.STRING, (-1,), "examples:0")
LABELS = TensorSpec(dtypes.STRING, (-1, 2))


def signature(
    name: str, method: str, *, inputs: str = "inputs", **outputs: TensorSpec
) -> Signature:
    return Signature(name=name, inputs={inputs: EXAMPLES}, outputs=outputs, method_name=method)


SIGNATURES = (
    signature("serving_default", CLASSIFY, classes=LABELS, scores=spec(-1, 2)),
    signature("labels", CLASSIFY, classes=LABELS),
    signature("scores", CLASSIFY, scores=spec(-1, 2)),
    signature("value", REGRESS, outputs=spec(-1, 1)),
    signature("named_oddly", "predict!", scores=spec(-1, 2)),
    signature("misnamed_input", CLASSIFY, inputs="x", scores=spec(-1, 2)),
    signature("misnamed_output", CLASSIFY, y=spec(-1, 2)),
    signature("three_outputs", CLASSIFY, a=spec(-1), b=spec(-1), scores=spec(-1, 2)),
    signature("wide", REGRESS, outputs=spec(-1, 2)),
    Signature("dense", {"inputs": spec(-1)}, {"scores": spec(-1, 2), "outputs": spec(-1)}),
    Signature("no_inputs", {}, {"outputs": spec(-1)}),
)


def lengths(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Every output that any signature has, from the length of each serialized Example."""
    (examples,) = inputs.values()
    sizes = np.array([[len(e)] for e in examples], np.float32)
    scores = np.hstack([sizes, -sizes])
    found: dict[str, NDArray[Any]] = {
        "classes": np.array([[b"long", b"\xff"]] * len(examples), object),
        "scores": scores,
        "outputs": sizes,
    }
    return found | {f"{s.name}/{alias}": found[alias] for s in SIGNATURES for alias in found}


@pytest.fixture(autouse=True)
def model(manager: Manager, loader: FakeLoader) -> None:
    served = loader.loaded[ServableId("m", 3)]
    served.signatures = {s.name: s for s in SIGNATURES}
    served.signature_defs = dict.fromkeys((*served.signatures, "sparse"), b"")
    served.function = lengths


def example(value: int = 0) -> Example:
    made = Example()
    made.features.feature["x"].int64_list.value.append(value)
    return made


SIZE = len(example().SerializeToString())


def send(channel: grpc.Channel, method: str, request: Message | bytes) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SERVICE + method)
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return call(data, timeout=TIMEOUT_S)


def classification(rows: int = 2, signature: str = "") -> ClassificationRequest:
    request = ClassificationRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(example(i) for i in range(rows))
    return request


def regression(rows: int = 2, signature: str = "value") -> RegressionRequest:
    return RegressionRequest.FromString(classification(rows, signature).SerializeToString())


def tasks(*pairs: tuple[str, str], rows: int = 2) -> MultiInferenceRequest:
    request = MultiInferenceRequest()
    for signature, method in pairs:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "m"
        task.model_spec.signature_name = signature
    request.input.example_list.examples.extend(example(i) for i in range(rows))
    return request


def test_classify_answers_labels_and_scores_for_each_example(channel: grpc.Channel) -> None:
    response = ClassificationResponse.FromString(send(channel, "Classify", classification()))

    (first, second) = response.result.classifications
    assert [(c.label, c.score) for c in first.classes] == [("long", SIZE), ("\ufffd", -SIZE)]
    assert first == second
    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize(("name", "expected"), [("labels", ("long", 0)), ("scores", ("", SIZE))])
def test_a_signature_may_have_only_labels_or_only_scores(
    channel: grpc.Channel, name: str, expected: tuple[str, float]
) -> None:
    data = send(channel, "Classify", classification(1, name))

    ((first, _),) = (
        c.classes for c in ClassificationResponse.FromString(data).result.classifications
    )
    assert (first.label, first.score) == expected


def test_regress_answers_a_value_for_each_example(channel: grpc.Channel) -> None:
    response = RegressionResponse.FromString(send(channel, "Regress", regression(3)))

    assert [r.value for r in response.result.regressions] == [SIZE] * 3
    assert response.model_spec.signature_name == "value"
    assert response.model_spec.version.value == 3


def test_the_context_goes_before_each_example_so_that_the_examples_count(
    channel: grpc.Channel,
) -> None:
    request = regression(0)
    request.input.example_list_with_context.context.features.feature["c"].float_list.value.append(1)
    request.input.example_list_with_context.examples.extend([example(), Example()])
    context = len(request.input.example_list_with_context.context.SerializeToString())

    response = RegressionResponse.FromString(send(channel, "Regress", request))

    assert [r.value for r in response.result.regressions] == [context + SIZE, context]


def test_multi_inference_answers_every_task_from_one_run(
    channel: grpc.Channel, loader: FakeLoader
) -> None:
    request = tasks(("scores", CLASSIFY), ("value", REGRESS))

    response = MultiInferenceResponse.FromString(send(channel, "MultiInference", request))

    classified, regressed = response.results
    assert [len(c.classes) for c in classified.classification_result.classifications] == [2, 2]
    assert [r.value for r in regressed.regression_result.regressions] == [SIZE, SIZE]
    assert [r.model_spec.signature_name for r in response.results] == ["scores", "value"]
    assert {r.model_spec.version.value for r in response.results} == {3}
    assert loader.loaded[ServableId("m", 3)].batches == [2]


def test_the_order_of_tasks_makes_no_other_run(channel: grpc.Channel, loader: FakeLoader) -> None:
    """Or those who ask for the same would not meet in a batch; each gets its own order."""
    served = loader.loaded[ServableId("m", 3)]
    names = (("value", REGRESS), ("scores", CLASSIFY))
    sent = SerializedInput()
    sent.example_list.examples.append(b"")
    runs = [
        plan(served, tasks(*order).tasks, sent, strict=True)[1] for order in (names, names[::-1])
    ]
    response = MultiInferenceResponse.FromString(send(channel, "MultiInference", tasks(*names)))

    assert runs[0].signature == runs[1].signature
    assert runs[0].outputs == runs[1].outputs
    assert [r.model_spec.signature_name for r in response.results] == ["value", "scores"]


def test_examples_are_batched_where_the_model_leaves_their_shape_open(
    manager: Manager, loader: FakeLoader
) -> None:
    """Many TF1 models do, upstream's own test model among them."""
    served = loader.loaded[ServableId("m", 3)]
    examples = {"inputs": TensorSpec(dtypes.STRING, None, "examples:0")}
    served.signatures["open"] = Signature("open", examples, {"scores": spec(-1, 2)}, CLASSIFY)
    served.signatures["too"] = Signature("too", examples, {"outputs": spec(-1)}, REGRESS)
    sent = SerializedInput()
    sent.example_list.examples.append(b"")

    run = CLASSIFICATION.plan(served, "open", sent, strict=True)
    _, joined = plan(served, tasks(("open", CLASSIFY), ("too", REGRESS)).tasks, sent, strict=True)

    assert run.signature.batchable
    assert joined.signature.batchable
    assert not served.signatures["open"].batchable


def without_spec(request: ClassificationRequest) -> None:
    request.ClearField("model_spec")


def with_context_alone(request: ClassificationRequest) -> None:
    request.input.example_list_with_context.context.CopyFrom(example())


def without_input(request: ClassificationRequest) -> None:
    request.ClearField("input")


def with_a_context_out_of_proportion(request: ClassificationRequest) -> None:
    context = request.input.example_list_with_context.context
    context.features.feature["x"].bytes_list.value.append(bytes(1 << 20))
    request.input.example_list_with_context.examples.extend([Example()] * 100)


def signed(name: str) -> Callable[[ClassificationRequest], None]:
    def sign(request: ClassificationRequest) -> None:
        request.model_spec.signature_name = name

    sign.__name__ = name
    return sign


@pytest.mark.parametrize(
    ("method", "spoil", "code", "says"),
    [
        ("Classify", without_spec, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("Classify", signed("?"), "INVALID_ARGUMENT", "No signature was found with the name: ?"),
        ("Classify", signed("sparse"), "FAILED_PRECONDITION", '"sparse" can\'t be called'),
        ("Classify", signed("no_inputs"), "INVALID_ARGUMENT", "Expected one input Tensor."),
        ("Classify", signed("misnamed_input"), "INVALID_ARGUMENT", "No classification inputs"),
        ("Classify", signed("misnamed_output"), "INVALID_ARGUMENT", "at least one of 'classes'"),
        ("Classify", signed("three_outputs"), "INVALID_ARGUMENT", "Expected one or two output"),
        ("Classify", signed("dense"), "INVALID_ARGUMENT", "the model has float32 [-1]"),
        ("Classify", without_input, "INVALID_ARGUMENT", "Input is empty."),
        ("Classify", with_context_alone, "INVALID_ARGUMENT", "Input is empty."),
        ("Classify", with_a_context_out_of_proportion, "INVALID_ARGUMENT", "fewer examples"),
        ("Regress", without_spec, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("Regress", signed("?"), "INVALID_ARGUMENT", "No signature was found with the name: ?"),
        ("Regress", signed("scores"), "INVALID_ARGUMENT", "No regression outputs found"),
        ("Regress", signed("serving_default"), "INVALID_ARGUMENT", "Expected one output Tensor."),
        ("Regress", signed("misnamed_input"), "INVALID_ARGUMENT", "No regression inputs"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_wrong_request_gets_upstreams_code_and_one_clear_line(
    channel: grpc.Channel,
    method: str,
    spoil: Callable[[ClassificationRequest], None],
    code: str,
    says: str,
) -> None:
    request = classification()
    spoil(request)

    with pytest.raises(grpc.RpcError) as caught:
        send(channel, method, request)

    told_code, told = refusal(caught.value)
    assert told_code == code
    assert says in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("outputs", "method", "name", "says"),
    [
        ({"scores": np.zeros((1, 2), np.float32)}, "Classify", "scores", "float32 [1, 2]"),
        ({"scores": np.zeros(2, np.float32)}, "Classify", "scores", "float32 [2]"),
        ({"scores": np.zeros((2, 2))}, "Classify", "scores", "float64 [2, 2]"),
        ({"classes": np.zeros((2, 2), np.int64)}, "Classify", "labels", "int64 [2, 2]"),
        (
            {
                "classes": np.full((2, 3), b"", object),
                "scores": np.zeros((2, 2), np.float32),
            },
            "Classify",
            "",
            "should match in dim_size(1): got 3 and 2",
        ),
        ({"outputs": np.zeros((2, 2), np.float32)}, "Regress", "wide", "float32 [2, 2]"),
        ({"outputs": np.zeros(3, np.float32)}, "Regress", "value", "float32 [3]"),
        ({"outputs": np.zeros(2, np.int32)}, "Regress", "value", "int32 [2]"),
    ],
)
def test_outputs_that_are_no_result_are_refused(
    channel: grpc.Channel,
    loader: FakeLoader,
    outputs: dict[str, NDArray[Any]],
    method: str,
    name: str,
    says: str,
) -> None:
    loader.loaded[ServableId("m", 3)].function = lambda _: outputs

    with pytest.raises(grpc.RpcError) as caught:
        send(channel, method, classification(2, name))

    code, told = refusal(caught.value)
    assert code == "INVALID_ARGUMENT"
    assert says in told


def another_model(request: MultiInferenceRequest) -> None:
    request.tasks[1].model_spec.name = "other"


def an_unnamed_task(request: MultiInferenceRequest) -> None:
    request.tasks[1].ClearField("model_spec")


def the_same_signature_twice(request: MultiInferenceRequest) -> None:
    request.tasks[1].CopyFrom(request.tasks[0])


def an_unknown_signature(request: MultiInferenceRequest) -> None:
    request.tasks[1].model_spec.signature_name = "?"


def another_method(request: MultiInferenceRequest) -> None:
    request.tasks[1].method_name = "tensorflow/serving/predict"


def no_tasks(request: MultiInferenceRequest) -> None:
    request.ClearField("tasks")


def no_examples(request: MultiInferenceRequest) -> None:
    request.ClearField("input")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (no_tasks, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (an_unnamed_task, "INVALID_ARGUMENT", "empty model_spec name"),
        (another_model, "INVALID_ARGUMENT", "must access the same model name"),
        (the_same_signature_twice, "INVALID_ARGUMENT", "Duplicate evaluation of signature: scores"),
        (an_unknown_signature, "INVALID_ARGUMENT", "signature not found in model graph: ?"),
        (
            another_method,
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/p",
        ),
        (no_examples, "INVALID_ARGUMENT", "Input is empty."),
    ],
)
def test_wrong_tasks_get_upstreams_codes(
    channel: grpc.Channel,
    spoil: Callable[[MultiInferenceRequest], None],
    code: str,
    says: str,
) -> None:
    request = tasks(("scores", CLASSIFY), ("value", REGRESS))
    spoil(request)

    with pytest.raises(grpc.RpcError) as caught:
        send(channel, "MultiInference", request)

    told_code, told = refusal(caught.value)
    assert told_code == code
    assert says in told


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_bytes_that_are_no_request_are_refused_by_upstreams_name(
    channel: grpc.Channel, method: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, method, b"\xff\xff\xff")

    code, told = refusal(caught.value)
    assert code == "INVALID_ARGUMENT"
    assert "expected a tensorflow.serving." in told


def test_the_method_name_counts_only_where_it_is_asked_for(
    channel: grpc.Channel, manager: Manager, make_transport: MakeTransport
) -> None:
    send(channel, "Classify", classification(1, "named_oddly"))

    strict = methods(manager, tensor_content=False, check_method_names=True)
    transport = make_transport(strict, max_threads=2)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    told = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as checked:
        for method in ("Classify", "Predict"):
            with pytest.raises(grpc.RpcError) as caught:
                send(checked, method, classification(1, "named_oddly"))
            told[method] = refusal(caught.value)
        send(checked, "Classify", classification(1, "scores"))
    transport.stop(TIMEOUT_S)

    expected = "Expected classification signature method_name to be tensorflow/serving/classify. "
    assert told["Classify"] == ("INVALID_ARGUMENT", expected + "Was: predict!")
    code, message = told["Predict"]
    assert code == "INTERNAL"
    assert message.startswith("Expected prediction signature method_name to be one of {")
