"""Requests that nobody honest sends: each gets a status, and the next one an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, refusal, spec
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.protos import dtypes, tensors, wire
from ladle.protos.serving_pb import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.core.servable_id import ServableId

PREDICTION = "/tensorflow.serving.PredictionService/"
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
EXAMPLES = {"inputs": TensorSpec(dtypes.STRING, (-1,))}
SIGNATURES = (
    Signature("serving_default", {"x": spec(-1, 2)}, {"y": spec(-1, 2)}),
    Signature("classes", EXAMPLES, {"scores": spec(-1, 1)}, "tensorflow/serving/classify"),
    Signature("value", EXAMPLES, {"outputs": spec(-1)}, "tensorflow/serving/regress"),
)
HOSTILE_NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "m/../m",
    "m\0",
    "m\nServable: fine",
    "%s%n%d{0}",
    "m" * 100_000,
    "\u202em",
    "\U0010ffff",
    " m",
    "M",
)


def function(inputs: Any) -> dict[str, Any]:
    (values,) = inputs.values()
    ones = np.ones(len(values) if values.ndim else 1, np.float32)
    return {"y": values, "scores": ones[:, None], "outputs": ones} | {
        "classes/scores": ones[:, None],
        "value/outputs": ones,
    }


def of_predict() -> PredictRequest:
    request = PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 2), np.float32)))
    return request


def of_examples(request_class: Any, signature: str) -> Any:
    request = request_class()
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    request.model_spec.version.value = 3
    example = request.input.example_list_with_context.examples.add()
    example.features.feature["x"].int64_list.value.append(1)
    request.input.example_list_with_context.context.CopyFrom(example)
    return request


def of_tasks() -> MultiInferenceRequest:
    request = MultiInferenceRequest()
    for name, kind in (("classes", "classify"), ("value", "regress")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name = "m"
        task.model_spec.signature_name = name
    request.input.example_list.examples.add()
    return request


def of_metadata() -> GetModelMetadataRequest:
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    return request


def of_status() -> GetModelStatusRequest:
    request = GetModelStatusRequest()
    request.model_spec.name = "m"
    return request


WELL: dict[str, Message] = {
    f"{PREDICTION}Predict": of_predict(),
    f"{PREDICTION}Classify": of_examples(ClassificationRequest, "classes"),
    f"{PREDICTION}Regress": of_examples(RegressionRequest, "value"),
    f"{PREDICTION}MultiInference": of_tasks(),
    f"{PREDICTION}GetModelMetadata": of_metadata(),
    "/tensorflow.serving.ModelService/GetModelStatus": of_status(),
}

Ask = Callable[[str, bytes], str | None]


@pytest.fixture
def ask(channel: grpc.Channel, loader: FakeLoader) -> Iterator[Ask]:
    """Send bytes to a method, and return the code of a refusal; an answer is None."""
    served: FakeServable = loader.loaded[ServableId("m", 3)]
    served.signatures = {s.name: s for s in SIGNATURES}
    served.function = function
    calls: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
        path: channel.unary_unary(path) for path in WELL
    }

    def ask(path: str, data: bytes) -> str | None:
        try:
            calls[path](data, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code, told = refusal(error)
            assert code in REFUSALS, told
            assert "Traceback" not in told
            assert told.isprintable()
            assert len(told.encode()) <= 1024
            return code
        return None

    yield ask
    for path, request in WELL.items():
        assert ask(path, request.SerializeToString()) is None, "afterwards all is well"


@pytest.mark.parametrize("path", WELL)
def test_a_message_cut_off_anywhere_is_refused_or_means_something_else(ask: Ask, path: str) -> None:
    data = WELL[path].SerializeToString()
    codes = [ask(path, data[:length]) for length in range(len(data))]
    assert codes[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("path", WELL)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4))
def test_altered_bytes_are_refused_or_mean_something_else(
    ask: Ask, path: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(WELL[path].SerializeToString())
    for place, value in changes:
        data[place % len(data)] = value
    ask(path, bytes(data))


@pytest.mark.parametrize("path", WELL)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused(ask: Ask, path: str, data: bytes) -> None:
    assert ask(path, data) is not None


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
@pytest.mark.parametrize("path", WELL)
def test_a_hostile_name_is_not_found(ask: Ask, path: str, name: str) -> None:
    request = type(WELL[path]).FromString(WELL[path].SerializeToString())
    for named in request.tasks if isinstance(request, MultiInferenceRequest) else [request]:
        named.model_spec.name = name  # type: ignore[attr-defined]
    assert ask(path, request.SerializeToString()) == "NOT_FOUND"


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_hostile_signature_label_alias_or_field_is_refused(ask: Ask, name: str) -> None:
    requests = [of_predict() for _ in range(4)]
    requests[0].model_spec.signature_name = name
    requests[1].model_spec.version_label = name
    requests[2].output_filter.append(name)
    requests[3].inputs[name].CopyFrom(requests[3].inputs.pop("x"))
    for request in requests:
        assert ask(f"{PREDICTION}Predict", request.SerializeToString()) is not None
    metadata = of_metadata()
    metadata.metadata_field.append(name)
    assert ask(f"{PREDICTION}GetModelMetadata", metadata.SerializeToString()) is not None


@pytest.mark.parametrize("version", [-1, 0, 1 << 62, -(1 << 63)])
@pytest.mark.parametrize("path", [path for path in WELL if "Multi" not in path])
def test_a_version_that_there_is_not_is_not_found(ask: Ask, path: str, version: int) -> None:
    request: Any = type(WELL[path]).FromString(WELL[path].SerializeToString())
    request.model_spec.version.value = version
    assert ask(path, request.SerializeToString()) == "NOT_FOUND"


def many_inputs() -> bytes:
    entry = wire.join(wire.map_entry(2, "n", []))
    return (
        b"".join(wire.join(wire.map_entry(2, str(number), [])) for number in range(20_000)) + entry
    )


def deep_messages() -> bytes:
    """A Variant's tensors may hold variants; protobuf stops at a depth of its own."""
    inner: list[wire.Piece] = []
    for _ in range(500):
        inner = wire.bytes_field(3, wire.bytes_field(15, inner))  # tensors of variant_val
    return wire.join(wire.map_entry(2, "x", inner))


@pytest.mark.parametrize(
    "more",
    [
        many_inputs(),
        deep_messages(),
        b"\x1a\x01y" * 100_000,  # output_filter
        wire.join(wire.map_entry(2, "x", wire.bytes_field(2, wire.bytes_field(2, []) * 100_000))),
        b"\xff" * 1_000_000,
    ],
    ids=["inputs", "depth", "outputs", "dimensions", "noise"],
)
def test_a_message_of_many_parts_is_refused(ask: Ask, more: bytes) -> None:
    data = of_predict().SerializeToString() + more
    assert ask(f"{PREDICTION}Predict", data) == "INVALID_ARGUMENT"
