"""One table of cases for what Rust and Python check and say each by itself.

`server/native/cases.json` is read here and by the crate's own `server/native/tests/cases.rs`. A
case that changes for one language fails for the other.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from fakes import TIMEOUT_S, FakeClock, refusal
from google.protobuf.message import DecodeError
from server.transport.native.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Connection,
    frame,
    headers,
    message,
)
from transports import MakeTransport

from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.serving_pb import PredictRequest
from ladle.protos.zero_copy import extract_tensor_contents
from ladle.server.call import Call, NonBlocking
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.open_inference.answers import id_field
from ladle.server.transport.grpcio.admission import Admission

CASES = json.loads(
    (Path(__file__).parents[3] / "server/native/cases.json").read_text(encoding="utf-8")
)


def cases(of: str, label: str) -> pytest.MarkDecorator:
    """Each case of a section, named by one of its fields."""
    return pytest.mark.parametrize("case", CASES[of], ids=lambda case: str(case[label]))


def left(call: Call) -> None:
    seconds = None if call.deadline is None else call.deadline - time.monotonic()
    call.respond(json.dumps(seconds).encode())


def fail(call: Call) -> None:
    asked = json.loads(call.request)
    error = ServingError(asked["message"], Code.UNAVAILABLE)
    error.retry_after_s = asked.get("seconds")
    call.fail(error)


@pytest.fixture
def port(make_transport: MakeTransport) -> Iterator[int]:
    """A server of each transport."""
    transport = make_transport(
        {
            "/a/Left": NonBlocking(left),
            "/a/Fail": NonBlocking(fail),
            "/a/Never": NonBlocking(lambda _: None),
        },
        max_threads=1,
    )
    port = transport.listen("127.0.0.1:0")
    transport.start()
    yield port
    transport.stop()


def refused(port: int, path: str, requests: list[bytes], **options: Any) -> grpc.RpcError:
    """Call a method, and return how it failed."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_unary(path, None, None)
        with pytest.raises(grpc.RpcError) as raised:
            call(iter(requests), **{"timeout": TIMEOUT_S, **options})
    return raised.value


def test_timeouts(port: int, transport_name: str) -> None:
    for case in CASES["timeouts"]:
        seconds = case.get("seconds")
        if seconds is not None and seconds < TIMEOUT_S:
            continue  # it may be over before the call is there
        answer = b""
        with Connection(port) as connection:
            connection.send(
                frame(HEADERS, END_HEADERS, 1, headers("/a/Left", grpc_timeout=case["header"]))
                + frame(DATA, END_STREAM, 1, message(b""))
            )
            for kind, flags, stream, payload in connection.frames():
                if stream == 1 and kind == DATA:
                    answer += payload
                if stream == 1 and flags & END_STREAM:
                    break
        if case.get("refused"):
            # gRPC's library reads some headers that gRPC's specification has not.
            is_taken = transport_name == "grpcio" and "grpcio" in case
            assert bool(answer) == is_taken, case
        elif seconds is None:
            assert json.loads(answer[5:]) is None, case
        else:
            assert seconds - TIMEOUT_S < json.loads(answer[5:]) <= seconds, case


@cases("statuses", "status")
def test_statuses(port: int, case: dict[str, Any]) -> None:
    calls: dict[str, Callable[[], grpc.RpcError]] = {
        "deadline": lambda: refused(port, "/a/Never", [b""], timeout=0.001),
        "unknown method": lambda: refused(port, "/a/Unknown", [b""]),
        "no message": lambda: refused(port, "/a/Never", []),
    }
    assert refusal(calls[case["status"]]()) == (Code(case["code"]).name, case["message"])


def test_messages(port: int) -> None:
    for case in CASES["messages"]:
        error = refused(port, "/a/Fail", [json.dumps(case).encode()])
        assert refusal(error) == ("UNAVAILABLE", case["message"])
        printable = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
        assert quote(case["message"], safe=printable) == case["encoded"]


def test_retries(port: int) -> None:
    for case in CASES["retries"]:
        error: Any = refused(port, "/a/Fail", [json.dumps(case | {"message": ""}).encode()])
        sent = {item.key: item.value for item in error.trailing_metadata()}
        assert sent["grpc-retry-pushback-ms"] == str(case["ms"]), case


def too_large(nbytes: int, most: int) -> ServingError:
    with pytest.raises(ServingError) as raised:
        Limits(most, ByteBudget(1 << 62)).take(nbytes)
    return raised.value


def no_room(others: int, limit: int, nbytes: int) -> ServingError:
    budget = ByteBudget(limit)
    budget.take(others)
    with pytest.raises(ServingError) as raised:
        Limits(1 << 62, budget).take(nbytes)
    return raised.value


class HeldCall:
    """A call that has a place."""

    def __init__(self) -> None:
        self.ended_with: list[ServingError] = []

    def cut_off(self, error: ServingError) -> None:
        self.ended_with.append(error)

    def stop(self) -> None:
        pass


def admitted(most: int, clock: FakeClock) -> tuple[Admission, list[HeldCall]]:
    """An Admission without a place left, and its calls, which have sent no message."""
    admission = Admission(most, clock=clock.now)
    calls = [HeldCall() for _ in range(most)]
    for call in calls:
        admission.come()
        admission.begin(call)
    return admission, calls


def too_many(most: int) -> ServingError:
    admission, calls = admitted(most, FakeClock())
    error = admission.refusal()
    assert error is not None
    assert not any(call.ended_with for call in calls)
    return error


def silent(seconds: int) -> ServingError:
    """What ends a call that is silent for so long: by itself, or for another one's sake."""
    clock = FakeClock()
    admission, (call,) = admitted(1, clock)
    clock.advance(seconds - 0.001)
    admission.end_silent()
    assert not call.ended_with
    clock.advance(0.002)
    admission.end_silent()
    admission.refusal()
    (error,) = call.ended_with
    return error


@cases("refusals", "refusal")
def test_refusals(case: dict[str, Any]) -> None:
    makes: dict[str, Callable[..., ServingError]] = {
        "too large": too_large,
        "no room": no_room,
        "too many": too_many,
        "silent": silent,
    }
    error = makes[case["refusal"]](*case["given"])
    assert error.message == case["message"]
    assert (error.code, error.reason) == (case["code"], case["reason"])
    retry_ms = None if error.retry_after_s is None else error.retry_after_s * 1000
    assert retry_ms == case.get("retry_ms")


@cases("explained", "bytes")
def test_sizes_are_explained_as_far(case: dict[str, Any]) -> None:
    assert Limits(1, ByteBudget(1)).max_received_bytes == 1 + case["bytes"]


@cases("requests", "about")
def test_requests(case: dict[str, Any]) -> None:
    """Where Rust or Python reads a request by itself, protobuf reads the same."""
    request = bytes.fromhex(case["request"])
    contents = {name: bytes.fromhex(content) for name, content in case["contents"].items()}
    if case["protobuf"]:
        read = PredictRequest.FromString(request)
        assert {name: each.tensor_content for name, each in read.inputs.items()} == contents
    else:
        with pytest.raises(DecodeError):
            PredictRequest.FromString(request)
    _, lifted = extract_tensor_contents(request, 1)
    assert bool(lifted) == case["lifted"]
    if lifted and case["protobuf"]:
        assert {name: bytes(content) for name, content in lifted.items()} == contents


@cases("infer_requests", "about")
def test_infer_requests(case: dict[str, Any]) -> None:
    """What Rust cuts out of a request is what protobuf reads there, and so is the id."""
    request = bytes.fromhex(case["request"])
    if not case["protobuf"]:
        assert not case["cut"]
        with pytest.raises(DecodeError):
            ModelInferRequest.FromString(request)
        return
    read = ModelInferRequest.FromString(request)
    typed = [
        [each.name, values]
        for each in read.inputs
        if (values := _packed(each.contents.fp32_contents, each.contents.fp64_contents))
    ]
    assert read.id == case["id"]
    assert [content.hex() for content in read.raw_input_contents] == case["raw"]
    assert typed == case["typed"]
    assert id_field(case["id"]) == ModelInferRequest(id=case["id"]).SerializeToString()


def _packed(fp32: Sequence[float], fp64: Sequence[float]) -> str:
    return struct.pack(f"<{len(fp32)}f{len(fp64)}d", *fp32, *fp64).hex()
