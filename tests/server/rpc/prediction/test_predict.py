from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, refusal, spec
from numpy.typing import NDArray

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.prediction.predict import wanted_outputs

X = np.array([[1, 2], [3, 4]], np.float32)

Send = Callable[..., PredictResponse]
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(**inputs: NDArray[Any]) -> PredictRequest:
    message = PredictRequest()
    message.model_spec.name = "m"
    for alias, array in inputs.items():
        message.inputs[alias].CopyFrom(tensors.to_proto(array))
    return message


@pytest.fixture
def send(channel: grpc.Channel) -> Send:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)

    def send(message: PredictRequest | bytes, **metadata: str) -> PredictResponse:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        return PredictResponse.FromString(call(data, timeout=TIMEOUT_S, metadata=pairs))

    return send


def test_the_answer_has_the_outputs_and_what_answered(send: Send) -> None:
    response = send(request(x=X))

    assert list(response.outputs) == ["y"]
    np.testing.assert_array_equal(tensors.to_array(response.outputs["y"]), X * 2)
    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "serving_default"


def test_values_come_in_typed_fields_unless_the_caller_asks_otherwise(send: Send) -> None:
    typed = send(request(x=X)).outputs["y"]
    assert (list(typed.float_val), typed.tensor_content) == ([2, 4, 6, 8], b"")

    content = send(request(x=X), ladle_tensor_content="true").outputs["y"]
    assert (list(content.float_val), content.tensor_content) == ([], (X * 2).tobytes())


def test_a_version_can_be_asked_for(send: Send) -> None:
    message = request(x=X)
    message.model_spec.version.value = 3
    assert send(message).model_spec.version.value == 3


def unnamed(message: PredictRequest) -> None:
    message.model_spec.name = ""


def without_spec(message: PredictRequest) -> None:
    message.ClearField("model_spec")


def of_another_model(message: PredictRequest) -> None:
    message.model_spec.name = "../../etc/passwd"


def of_another_version(message: PredictRequest) -> None:
    message.model_spec.version.value = 4


def by_label(message: PredictRequest) -> None:
    message.model_spec.version_label = "canary"


def of_another_signature(message: PredictRequest) -> None:
    message.model_spec.signature_name = "nope"


def with_another_input(message: PredictRequest) -> None:
    message.inputs["z"].CopyFrom(message.inputs["x"])


def with_a_misnamed_input(message: PredictRequest) -> None:
    message.inputs["z"].CopyFrom(message.inputs.pop("x"))


def without_inputs(message: PredictRequest) -> None:
    message.inputs.clear()


def of_another_dtype(message: PredictRequest) -> None:
    message.inputs["x"].CopyFrom(tensors.to_proto(X.astype(np.int64)))


def with_a_torn_tensor(message: PredictRequest) -> None:
    message.inputs["x"].tensor_content = b"123"


def of_no_dtype(message: PredictRequest) -> None:
    message.inputs["x"].dtype = 0


def with_a_huge_shape(message: PredictRequest) -> None:
    message.inputs["x"].Clear()
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_shape.dim.add(size=1 << 40)
    message.inputs["x"].float_val.append(1)


def wanting_another_output(message: PredictRequest) -> None:
    message.output_filter.append("nope")


def wanting_an_output_twice(message: PredictRequest) -> None:
    message.output_filter.extend(["y", "y"])


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (without_spec, "INVALID_ARGUMENT", "Missing ModelSpec"),
        (unnamed, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (of_another_model, "NOT_FOUND", "Servable not found for request: Latest(../../etc/passwd)"),
        (of_another_version, "NOT_FOUND", "Servable not found for request: Specific(m, 4)"),
        (by_label, "INVALID_ARGUMENT", "Unrecognized servable version label: canary"),
        (of_another_signature, "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
        (with_another_input, "INVALID_ARGUMENT", "Sent extra: {z}. Missing but required: {}."),
        (with_a_misnamed_input, "INVALID_ARGUMENT", "Sent extra: {z}. Missing but required: {x}."),
        (without_inputs, "INVALID_ARGUMENT", "0!=1 len({}) != len({x})"),
        (of_another_dtype, "INVALID_ARGUMENT", "expected float32 [-1, 2], got int64 [2, 2]"),
        (with_a_torn_tensor, "INVALID_ARGUMENT", "tensor parsing error: x: tensor_content: exp"),
        (of_no_dtype, "INVALID_ARGUMENT", "tensor parsing error: x: invalid is not a dtype"),
        (with_a_huge_shape, "INVALID_ARGUMENT", "repeating the last one would take"),
        (wanting_another_output, "INVALID_ARGUMENT", "not found in signature: nope"),
        (wanting_an_output_twice, "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_wrong_request_gets_upstreams_code_and_one_clear_line(
    send: Send, spoil: Callable[[PredictRequest], None], code: str, says: str
) -> None:
    message = request(x=X)
    spoil(message)

    with pytest.raises(grpc.RpcError) as caught:
        send(message)

    told_code, told = refusal(caught.value)
    assert told_code == code
    assert says in told
    assert "\n" not in told


def test_the_first_thing_wrong_is_what_is_told(send: Send) -> None:
    """Model before signature before inputs before outputs, as upstream checks them."""
    message = request(z=X)
    message.model_spec.name = "other"
    message.model_spec.signature_name = "nope"
    message.output_filter.append("nope")
    mends: list[Callable[[PredictRequest], None]] = [
        lambda m: setattr(m.model_spec, "name", "m"),
        lambda m: setattr(m.model_spec, "signature_name", ""),
        lambda m: m.inputs["x"].CopyFrom(m.inputs.pop("z")),
        lambda m: m.ClearField("output_filter"),
    ]
    told = []
    for mend in mends:
        with pytest.raises(grpc.RpcError) as caught:
            send(message)
        told.append(refusal(caught.value)[1].split(" ")[0])
        mend(message)

    assert told == ["Servable", "Serving", "input", "output"]
    send(message)


def test_bytes_that_are_no_request_are_refused(send: Send) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(b"\xff\xff\xff\xff")

    code, told = refusal(caught.value)
    assert code == "INVALID_ARGUMENT"
    assert "expected a tensorflow.serving.PredictRequest" in told


def test_a_fault_of_the_server_tells_the_caller_nothing_of_its_inside(
    send: Send, loader: FakeLoader, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(inputs: object) -> dict[str, NDArray[Any]]:
        raise RuntimeError("/secret/path")

    serve(loader, FakeServable(fail))

    with pytest.raises(grpc.RpcError) as caught:
        send(request(x=X))

    code, told = refusal(caught.value)
    assert code == "INTERNAL"
    assert "secret" not in told
    assert "/secret/path" in caplog.text
    assert f"method={PREDICT}" in caplog.text


def test_inputs_with_defaults_can_be_left_out(send: Send, loader: FakeLoader) -> None:
    signature = Signature(
        name="serving_default",
        inputs={"x": spec(-1, 2), "scale": spec()},
        outputs={"y": spec(-1, 2)},
        defaults={"scale": np.array(10, np.float32)},
    )
    serve(loader, FakeServable(lambda i: {"y": i["x"] * i["scale"]}, (signature,)))

    np.testing.assert_array_equal(tensors.to_array(send(request(x=X)).outputs["y"]), X * 10)
    given = send(request(x=X, scale=np.array(2, np.float32)))
    np.testing.assert_array_equal(tensors.to_array(given.outputs["y"]), X * 2)


def test_only_the_outputs_of_the_filter_are_answered(send: Send, loader: FakeLoader) -> None:
    outputs = {alias: spec(-1, 2) for alias in "abc"}
    signature = Signature(name="serving_default", inputs={"x": spec(-1, 2)}, outputs=outputs)
    serve(loader, FakeServable(lambda i: dict.fromkeys("abc", i["x"]), (signature,)))
    message = request(x=X)
    message.output_filter.extend(["c", "a"])

    assert set(send(message).outputs) == {"a", "c"}


def test_a_filters_order_makes_no_other_run() -> None:
    """Or callers of the same outputs would not meet in a batch."""
    outputs = {alias: spec(-1, 2) for alias in "abc"}
    signature = Signature(name="s", inputs={"x": spec(-1, 2)}, outputs=outputs)

    assert wanted_outputs(["c", "a"], signature) == wanted_outputs(["a", "c"], signature)
    with pytest.raises(InvalidArgument, match="duplicate output tensor alias: a"):
        wanted_outputs(["a", "a"], signature)


def test_a_signature_without_inputs_runs(send: Send, loader: FakeLoader) -> None:
    signature = Signature(name="serving_default", inputs={}, outputs={"n": spec()})
    serve(loader, FakeServable(lambda _: {"n": np.array(7, np.float32)}, (signature,)))

    assert tensors.to_array(send(request()).outputs["n"]) == 7


def serve(loader: FakeLoader, servable: FakeServable) -> None:
    """Put another servable in the place of the one that is served."""
    current = loader.loaded[ServableId("m", 3)]
    current.signatures = servable.signatures
    current.function = servable.function
