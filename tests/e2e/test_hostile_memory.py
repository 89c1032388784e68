"""What hostile requests cost a real server: time and memory in proportion to what was sent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from e2e.memory import resident
from e2e.serving import ServerProcess
from fakes import TIMEOUT_S, refusal

from ladle.protos import wire
from ladle.protos.serving_pb import (
    ClassificationRequest,
    MultiInferenceRequest,
    PredictRequest,
)

pytestmark = pytest.mark.e2e

SERVICE = "/tensorflow.serving.PredictionService/"
MEBIBYTE = 1 << 20
MOST_SENT = MEBIBYTE
AT_A_TIME = 8
MOST_BYTES_FOR_ONE = 48  # a row of an empty Example takes two bytes on the wire
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
REFUSALS |= {"UNAVAILABLE", "UNIMPLEMENTED"}


def predict(signature: str = "") -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = signature
    return request


def one_value_for_terabytes() -> bytes:
    request = predict()
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(1)
    for size in (1 << 20, 1 << 20):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    return request.SerializeToString()


def a_string_for_a_million() -> bytes:
    request = predict("classify_x_to_y")
    request.inputs["inputs"].dtype = 7
    request.inputs["inputs"].string_val.append(b"x" * 1000)
    request.inputs["inputs"].tensor_shape.dim.add(size=1 << 40)
    return request.SerializeToString()


def string_lengths_that_lie() -> bytes:
    request = predict("classify_x_to_y")
    request.inputs["inputs"].dtype = 7
    request.inputs["inputs"].tensor_content = b"\xff\xff\xff\xff\x7f" * 1000
    request.inputs["inputs"].tensor_shape.dim.add(size=1000)
    return request.SerializeToString()


def dimensions() -> bytes:
    shape = wire.bytes_field(2, wire.bytes_field(2, []) * (MOST_SENT // 4))
    return predict().SerializeToString() + wire.join(wire.map_entry(2, "x", shape))


def inputs() -> bytes:
    entries = (wire.join(wire.map_entry(2, f"{n:x}", [])) for n in range(MOST_SENT // 20))
    return predict().SerializeToString() + b"".join(entries)


def outputs() -> bytes:
    request = predict()
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1)
    return request.SerializeToString() + b"\x1a\x01y" * (MOST_SENT // 3)


def a_long_name() -> bytes:
    request = predict()
    request.model_spec.name = "m" * MOST_SENT
    return request.SerializeToString()


def a_context_for_each_of_many() -> bytes:
    request = ClassificationRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = "classify_x_to_y"
    context = request.input.example_list_with_context.context
    context.features.feature["x"].bytes_list.value.append(bytes(MOST_SENT // 2))
    data = request.SerializeToString()
    examples = wire.bytes_field(2, wire.bytes_field(2, wire.bytes_field(1, []) * (MOST_SENT // 8)))
    return data + wire.join(examples)


def empty_examples() -> bytes:
    request = ClassificationRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = "classify_x_to_y"
    examples = wire.bytes_field(2, wire.bytes_field(1, wire.bytes_field(1, []) * (MOST_SENT // 2)))
    return request.SerializeToString() + wire.join(examples)


def tasks() -> bytes:
    request = MultiInferenceRequest()
    task = request.tasks.add(method_name="tensorflow/serving/classify")
    task.model_spec.name = "half_plus_two"
    task.model_spec.signature_name = "classify_x_to_y"
    data = request.SerializeToString()
    return data * (MOST_SENT // len(data))


CORPUS: dict[str, list[Callable[[], bytes]]] = {
    "Predict": [
        one_value_for_terabytes,
        a_string_for_a_million,
        string_lengths_that_lie,
        dimensions,
        inputs,
        outputs,
        a_long_name,
    ],
    "Classify": [a_context_for_each_of_many, empty_examples],
    "MultiInference": [tasks],
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_hostile_requests_cost_no_more_than_a_constant_and_what_they_bring(
    written_models: Path,
) -> None:
    path = written_models / "half_plus_two"
    with (
        ServerProcess("half_plus_two", path) as server,
        ThreadPoolExecutor(AT_A_TIME) as pool,
        grpc.insecure_channel(server.address) as channel,
    ):

        def send(method: str, data: bytes) -> str:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
            call = channel.unary_unary(SERVICE + method)
            try:
                call(data, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                code, told = refusal(error)
                assert "Traceback" not in told
                return code
            return "OK"

        well = predict()
        well.inputs["x"].dtype = 1
        well.inputs["x"].float_val.append(2)
        for size in (1, 1):
            well.inputs["x"].tensor_shape.dim.add(size=size)
        assert send("Predict", well.SerializeToString()) == "OK"
        before = resident(server.pid, "VmHWM")
        for method, makers in CORPUS.items():
            for make in makers:
                data = make()
                assert len(data) <= MOST_SENT + 1000, make.__name__
                codes = set(pool.map(lambda d: send(method, d), [data] * AT_A_TIME))  # noqa: B023
                assert codes <= REFUSALS, (make.__name__, codes)
                grown = (resident(server.pid, "VmHWM") - before) // MEBIBYTE
                print(f"{method} {make.__name__}: {len(data)} bytes, {codes}, peak +{grown} MiB")
        grown = resident(server.pid, "VmHWM") - before

        assert send("Predict", well.SerializeToString()) == "OK"
    assert grown < AT_A_TIME * MOST_SENT * MOST_BYTES_FOR_ONE
