"""Servers that answer nonsense: whatever the bytes, a result or one clear line, and no more."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, drive, image_version, listening

from ladle.client import InvalidAnswer, LadleError
from ladle.client.calls import flows, server_flows
from ladle.client.calls.effects import Flow
from ladle.client.calls.flows import ExamplesCall, PredictCall
from ladle.client.calls.metadata_cache import MetadataCache
from ladle.client.calls.tensorflow_serving import TENSORFLOW_SERVING
from ladle.client.messages import requests
from ladle.client.messages.requests import Servable
from ladle.protos import ladle_pb
from ladle.protos.serving_pb import PredictRequest, PredictResponse

PIXELS = np.full((3, 2, 2), 51, np.uint8)
M = Servable("m")


class Garbled(FakeServing):
    """Changes the bytes of the answers of one method."""

    def __init__(self, method: str, change: Callable[[bytes], bytes]) -> None:
        super().__init__({1: image_version(255, labels=("a", "b"))})
        self.models = [ladle_pb.Model(available=True)]
        self._method, self._change = method, change

    def answer(self, method: str, body: bytes) -> bytes:
        answer = super().answer(method, body)
        return self._change(answer) if method == self._method else answer


def examples() -> ExamplesCall:
    return ExamplesCall(target=M, examples=[{"x": 0.5}, {"x": 0.25}])


FLOWS: dict[str, Callable[[], Flow[Any]]] = {
    requests.PREDICT: lambda: flows.predict(PredictCall(target=M, inputs=PIXELS), MetadataCache()),
    requests.GET_MODEL_METADATA: lambda: flows.predict(
        PredictCall(target=M, inputs=PIXELS), MetadataCache()
    ),
    requests.GET_MODEL_STATUS: lambda: server_flows.status(M),
    requests.CLASSIFY: lambda: flows.classify(examples(), None),
    requests.REGRESS: lambda: flows.regress(examples(), None),
    requests.MULTI_INFERENCE: lambda: flows.multi_inference(
        examples(), {"a": "classify", "b": "regress"}
    ),
    requests.RELOAD_CONFIG: lambda: TENSORFLOW_SERVING.reload({"m": "/m"}),
    requests.LIST_MODELS: lambda: TENSORFLOW_SERVING.models(""),
    requests.LOAD_MODEL: lambda: TENSORFLOW_SERVING.load("m", "/m"),
    requests.UNLOAD_MODEL: lambda: TENSORFLOW_SERVING.unload("m"),
    requests.RESCAN_MODEL: lambda: TENSORFLOW_SERVING.load("m", None),
    requests.CHECK_HEALTH: lambda: TENSORFLOW_SERVING.health(""),
}


def outcome(method: str, change: Callable[[bytes], bytes]) -> object:
    """Return what a flow comes to; anything but a LadleError goes through."""
    result: object
    try:
        result = drive(FLOWS[method](), Garbled(method, change))
    except LadleError as error:
        result = error
    if isinstance(result, LadleError):
        assert "\n" not in str(result)
        assert len(str(result)) < 10_000
    return result


@pytest.mark.parametrize("method", requests.METHODS)
def test_answers_that_are_cut_off(method: str) -> None:
    whole = 1 + len(Garbled(method, bytes).answer(method, request_of(method)))
    for length in range(whole):
        outcome(method, lambda answer, length=length: answer[:length])  # type: ignore[misc]


@pytest.mark.parametrize("method", requests.METHODS)
def test_answers_with_other_bytes(method: str) -> None:
    random_numbers = random.Random(method)

    def change(answer: bytes) -> bytes:
        changed = bytearray(answer)
        for _ in range(random_numbers.randint(1, 4)):
            if changed:
                changed[random_numbers.randrange(len(changed))] = random_numbers.randrange(256)
        return bytes(changed)

    for _ in range(200):
        outcome(method, change)


@pytest.mark.parametrize("method", requests.METHODS)
def test_random_answers(method: str) -> None:
    random_numbers = random.Random(method)
    outcomes = [
        outcome(method, lambda _: random_numbers.randbytes(random_numbers.randint(8, 64)))
        for _ in range(200)
    ]
    errors = [error for error in outcomes if isinstance(error, InvalidAnswer)]
    assert len(errors) > 100
    assert "that are not the message expected" in str(errors[0])


def request_of(method: str) -> bytes:
    """Return the bytes of the request that a flow makes of a method."""
    asked: list[bytes] = []

    class Noting(Garbled):
        def answer(self, asked_for: str, body: bytes) -> bytes:
            if asked_for == method:
                asked.append(body)
            return super().answer(asked_for, body)

    drive(FLOWS[method](), Noting(method, bytes))
    return asked[0]


def _shape(response: PredictResponse) -> None:
    response.outputs["scores"].tensor_shape.dim[0].size = 1 << 40


def _negative(response: PredictResponse) -> None:
    response.outputs["scores"].tensor_shape.dim[0].size = -5


def _dtype(response: PredictResponse) -> None:
    response.outputs["scores"].dtype = 9999


def _content(response: PredictResponse) -> None:
    tensor = response.outputs["scores"]
    tensor.tensor_content = b"\0" * 5
    tensor.ClearField("float_val")


def _resource(response: PredictResponse) -> None:
    response.outputs["scores"].dtype = 20


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("change", [_shape, _negative, _dtype, _content, _resource])
def test_a_tensor_that_is_none_is_told(client_class: Any, change: Any) -> None:
    class Broken(FakeServing):
        def predict(self, request: PredictRequest) -> PredictResponse:
            response = super().predict(request)
            change(response)
            return response

    with (
        listening(Broken({1: image_version(255)})) as address,
        client_class(address) as client,
        pytest.raises(InvalidAnswer, match='Predict of model "m": output "scores": ') as caught,
    ):
        client.predict("m", PIXELS)
    assert "\n" not in str(caught.value)
