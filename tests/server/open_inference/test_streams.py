"""ModelStreamInfer: answers in the order of the requests, and failures among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, refusal
from server.open_inference.harness import SERVICE, Served, X, output, request, row, serving

from ladle.protos.inference_pb import ModelInferRequest, ModelStreamInferResponse
from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rpc.open_inference import names


@pytest.fixture(scope="module", params=["grpcio", "auto"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server of either transport, where both are installed."""
    with serving(tmp_path_factory.mktemp("streams"), transport=request.param) as served:
        yield served


class Stream:
    """An open stream, on which requests go one by one."""

    def __init__(self, served: Served, **options: Any) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        call: Any = served.channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        self.call = call(iter(self._requests.get, None), **({"timeout": TIMEOUT_S} | options))

    def send(self, message: ModelInferRequest | bytes) -> None:
        self._requests.put(message if isinstance(message, bytes) else message.SerializeToString())

    def close(self) -> None:
        """Say that there are no more requests."""
        self._requests.put(None)

    def __next__(self) -> ModelStreamInferResponse:
        return ModelStreamInferResponse.FromString(next(self.call))

    def __iter__(self) -> Iterator[ModelStreamInferResponse]:
        return self


def numbered(at: int, model: str = "half") -> ModelInferRequest:
    message = request(model, x=np.array([at], np.float32))
    message.id = str(at)
    return message


@row(74)
def test_a_hundred_requests_are_answered_in_their_order(served: Served) -> None:
    stream = Stream(served)
    for at in range(100):
        stream.send(numbered(at))
    stream.close()

    answers = list(stream)

    assert [answer.infer_response.id for answer in answers] == [str(at) for at in range(100)]
    for at, answer in enumerate(answers):
        assert not answer.error_message
        assert output(answer.infer_response).tolist() == [at / 2 + 2]
        assert answer.infer_response.parameters["triton_final_response"].bool_param


@row(75)
def test_a_request_that_fails_is_answered_in_its_place_and_the_stream_goes_on(
    served: Served,
) -> None:
    bad = numbered(1)
    bad.inputs[0].datatype = "FP64"
    nobody = numbered(2, "nobody")
    nobody.model_version = "4"
    stream = Stream(served)
    for message in (numbered(0), bad, nobody, numbered(3)):
        stream.send(message)
    stream.close()

    good, wrong, unknown, last = list(stream)

    assert (good.error_message, last.error_message) == ("", "")
    assert wrong.error_message == (
        "inference input 'x' data-type is 'FP64', but model 'half' expects 'FP32'"
    )
    assert wrong.infer_response.id == "1"
    assert wrong.infer_response.parameters["triton_final_response"].bool_param
    assert unknown.error_message == "Request for unknown model: 'nobody' is not found"
    asked = unknown.infer_response
    assert (asked.id, asked.model_name, asked.model_version) == ("2", "nobody", "4")
    assert last.infer_response.id == "3"


@row(75)
def test_a_version_that_is_not_there_is_named_as_over_a_unary_call(served: Served) -> None:
    message = numbered(0)
    message.model_version = "9"
    stream = Stream(served)
    stream.send(message)
    stream.close()
    assert next(stream).error_message == (
        "Request for unknown model: 'half' version 9 is not found"
    )


@row(76)
def test_models_take_turns_on_a_stream(served: Served) -> None:
    a = np.ones((1, 16), np.int32)
    stream = Stream(served)
    stream.send(numbered(0))
    stream.send(request("simple", INPUT0=a, INPUT1=a))
    stream.send(numbered(2, "two:serving_default"))
    stream.close()
    names = [answer.infer_response.model_name for answer in stream]
    assert names == ["half", "simple", "two:serving_default"]


@row(76)
def test_what_cannot_be_read_ends_the_stream_after_earlier_answers(served: Served) -> None:
    stream = Stream(served)
    stream.send(numbered(0))
    stream.send(b"\xff\xff\xff")
    assert next(stream).infer_response.id == "0"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert refusal(caught.value)[0] == "INVALID_ARGUMENT"


@row(76)
def test_a_caller_who_cancels_leaves_nothing_running(served: Served) -> None:
    stream = Stream(served)
    stream.send(numbered(0))
    assert next(stream).infer_response.id == "0"
    stream.call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert refusal(caught.value)[0] == "CANCELLED"


@row(58, 76)
def test_a_timeout_and_a_deadline_end_what_waits(served: Served) -> None:
    model = served.models["slow"]
    model.hold()
    try:
        stream = Stream(served)
        stream.send(numbered(0, "slow"))
        model.wait_until_running()
        late = numbered(1, "slow")
        late.parameters["timeout"].int64_param = 1
        stream.send(late)
    finally:
        model.release()
    assert next(stream).infer_response.id == "0"
    assert "deadline" in next(stream).error_message
    stream.close()
    model.hold()
    try:
        short = Stream(served, timeout=0.05)
        short.send(numbered(0, "slow"))
        with pytest.raises(grpc.RpcError) as caught:
            next(short)
    finally:
        model.release()
    assert refusal(caught.value)[0] == "DEADLINE_EXCEEDED"


@row(76)
def test_a_server_that_stops_answers_what_it_has_read(tmp_path: Path) -> None:
    with serving(tmp_path, drain_grace_seconds=TIMEOUT_S) as served:
        stream = Stream(served)
        stream.send(numbered(0))
        assert next(stream).infer_response.id == "0"
        served.server.stop(lame_duck=False)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
    assert refusal(caught.value) == (
        "UNAVAILABLE",
        "the server is stopping: send the rest to another",
    )


@row(76)
def test_a_message_that_there_is_no_room_for_is_refused_alone(tmp_path: Path) -> None:
    with serving(tmp_path, max_request_bytes=1000) as served:
        stream = Stream(served)
        large = request("half", x=np.zeros(1000, np.float32))
        large.id = "large"
        stream.send(large)
        stream.send(request("half", x=X))
        stream.close()
        refused, answered = list(stream)
    assert "max_request_bytes" in refused.error_message
    assert refused.infer_response.id == "large"
    assert output(answered.infer_response).tolist() == [2.5, 3, 4.5]


def test_an_unknown_model_with_a_label_is_refused_and_the_stream_goes_on(served: Served) -> None:
    stream = Stream(served, timeout=TIMEOUT_S / 2)
    unknown = numbered(1, "nowhere")
    unknown.model_version = "stable"
    for message in (numbered(0), unknown, numbered(2)):
        stream.send(message)
    stream.close()
    answers = list(stream)
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
    said = [answer.error_message for answer in answers]
    assert said == ["", "Request for unknown model: 'nowhere' is not found", ""]


def test_a_label_that_is_taken_away_meanwhile_holds_up_no_stream(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, calls = names.resolve_label, 0

    def resolve_once(manager: Manager, spec: ModelSpec) -> ModelSpec:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise names.not_a_version("stable")
        return resolve(manager, spec)

    monkeypatch.setattr(names, "resolve_label", resolve_once)
    stream = Stream(served, timeout=TIMEOUT_S / 2)
    absent = numbered(0)
    absent.model_version = "99"
    for message in (absent, numbered(1)):
        stream.send(message)
    stream.close()
    first, second = stream
    assert "failed to get model version" in first.error_message
    assert not second.error_message
