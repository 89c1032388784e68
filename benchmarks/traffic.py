"""What kinds of traffic cost over each transport, beside an echo in C++: `benchmarks/traffic.py`.

As bounds.py does for one kind of request: all servers take their turns in one run, each pinned to
the same core. Mixed requests come from sixteen senders, each with a model and a number of rows of
its own. "lock µs" is the CPU of a request under Python's lock: that of the threads that run Python,
without the model's own. A refusal's costs stand beside those of the first kind's answers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from bench import PREDICT
from harness import cpp_echo, load, model
from process import ServerProcess

from ladle.protos import tensors
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.serving_pb import PredictRequest

_INFER = "/inference.GRPCInferenceService/ModelInfer"

_MODELS = tuple(f"m{number}" for number in range(16))
_IN_FLIGHT = 128
_TURN_S = 0.5
"""What one turn of one server takes, about."""
_FEWEST = 1000
"""Requests of each sender, so that all of them send for most of the time."""
_MAX_REQUEST_BYTES = 13_000
"""Room for four images of float32, and for no more."""


@dataclass(frozen=True)
class Kind:
    """A kind of traffic: what is sent at the same time, in equal parts."""

    name: str
    messages: Sequence[bytes]
    method: str = PREDICT
    signature: str = "serving_default"
    refusal: str = ""
    """The status that it ends with; empty for an answer."""


@dataclass(frozen=True)
class Turn:
    """What one server did in its turn; times are those of one request."""

    requests_per_s: float
    cpu_us: float
    lock_us: float


def kinds() -> list[Kind]:
    """Return all kinds of traffic; the first is what the others are variants of."""
    image = request("m0", _images(1))
    words = np.array([[b"word %d" % number for number in range(8)]], object)
    mixed = [request(name, _images(1 + number % 4)) for number, name in enumerate(_MODELS)]
    too_large = request("m0", _images(5))
    return [
        Kind("one kind", [image]),
        Kind("16 models and shapes", mixed),
        Kind("typed fields", [request("m0", _images(1), typed=True)]),
        Kind("ModelInfer, 1 image", [infer_request("m0", _images(1))], _INFER),
        Kind(
            "strings",
            [request("m0", {"words": words}, "serving_strings")],
            signature="serving_strings",
        ),
        Kind(
            "unknown method",
            [image],
            "/tensorflow.serving.PredictionService/No",
            "",
            "UNIMPLEMENTED",
        ),
        Kind("too large", [too_large], refusal="RESOURCE_EXHAUSTED"),
        Kind("unknown model", [request("none", _images(1))], refusal="NOT_FOUND"),
    ]


def request(
    name: str, inputs: Mapping[str, Any], signature: str = "serving_default", *, typed: bool = False
) -> bytes:
    """Return a serialized PredictRequest."""
    message = PredictRequest()
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    for alias, array in inputs.items():
        message.inputs[alias].CopyFrom(tensors.to_proto(array, typed=typed))
    return message.SerializeToString()


def infer_request(name: str, inputs: Mapping[str, Any]) -> bytes:
    """Return a serialized ModelInferRequest of float32 tensors, as tritonclient makes it."""
    message = ModelInferRequest(model_name=name, id="1")
    for alias, array in inputs.items():
        message.inputs.add(name=alias, datatype="FP32", shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message.SerializeToString()


def main() -> None:
    """Measure, and print a table for each kind of traffic."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        configured = Path(folder, "models.config")
        each = (
            f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" }}'
            for name in _MODELS
        )
        configured.write_text(f"model_config_list {{ {''.join(each)} }}")
        ladle = {
            f"ladle, {name}": processes.enter_context(
                ServerProcess(
                    "ladle",
                    str(base_path),
                    f"--transport={name}",
                    f"--model_config_file={configured}",
                    f"--max_request_bytes={_MAX_REQUEST_BYTES}",
                )
            )
            for name in ("native", "grpcio")
        }
        answer = Path(folder, "answer")
        first = kinds()[0]
        answer.write_bytes(_answered(ladle["ladle, native"].port, first, first.messages[0]))
        echo = {"echo, native": ServerProcess("echo", str(answer), "native")}
        if program := cpp_echo.built():
            echo = {"echo, C++": ServerProcess(str(answer), program=[str(program)])}
        bound = next(iter(echo))
        servers = {bound: processes.enter_context(echo[bound]), **ladle}
        answers: dict[str, float] = {}
        for kind in kinds():
            if arguments.only in kind.name or kind == first:
                for server in ladle.values():
                    for message in kind.messages:
                        _answered(server.port, kind, message)
                _show(kind, _turns(kind, servers, arguments.rounds), answers)


def _turns(kind: Kind, servers: Mapping[str, ServerProcess], rounds: int) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        for name, server in servers.items():
            count = _FEWEST * len(kind.messages)
            if turns[name]:
                count = max(count, int(turns[name][-1].requests_per_s * _TURN_S))
            method = "/echo/Unary" if name.startswith("echo") else kind.method
            turn = _turn(server, kind, method, count, is_echo=name.startswith("echo"))
            # The first round warms up, and says how many requests a turn has.
            turns[name] = [*turns[name], turn] if number != 1 else [turn]
    return turns


def _turn(server: ServerProcess, kind: Kind, method: str, requests: int, *, is_echo: bool) -> Turn:
    senders = len(kind.messages)
    each = max(1, requests // senders)
    before = server.used()
    with ExitStack() as stack:
        sending = [
            stack.enter_context(
                load.Sending(server.port, method, [message], _IN_FLIGHT // senders, requests=each)
            )
            for message in kind.messages
        ]
        loads = [one.result() for one in sending]
    used = server.used().since(before)
    count = each * senders
    model_s = 0.0 if is_echo or kind.refusal else server.model_cpu_s(kind.signature, used.batches)
    return Turn(
        # They don't begin and end in the same moment.
        requests_per_s=sum(each / one.seconds for one in loads),
        cpu_us=used.cpu_s / count * 1e6,
        lock_us=max(0.0, used.python_s - model_s) / count * 1e6,
    )


def _show(kind: Kind, turns: Mapping[str, Sequence[Turn]], answers: dict[str, float]) -> None:
    bound, grpcio = next(iter(turns)), "ladle, grpcio"
    print(f"{kind.name}, {_IN_FLIGHT} in flight; ratios are to {bound}, and to {grpcio}")
    last = "cpu to answer" if kind.refusal else "lock µs"
    print(
        f"  {'':16}{'req/s':>9}{'to echo':>9}{'to grpcio':>11}{'cpu µs':>9}{'to echo':>9}{last:>15}"
    )
    for name, its in turns.items():
        cpu_us = statistics.median(turn.cpu_us for turn in its)
        if kind.refusal:
            last = f"{cpu_us / answers[name]:15.2f}"
        else:
            answers.setdefault(name, cpu_us)
            last = f"{statistics.median(turn.lock_us for turn in its):15.1f}"
        print(
            f"  {name:16}{statistics.median(turn.requests_per_s for turn in its):9.0f}"
            f"{_ratio(its, turns[bound], 'requests_per_s'):9.2f}"
            f"{_ratio(its, turns[grpcio], 'requests_per_s'):11.2f}"
            f"{cpu_us:9.1f}{_ratio(its, turns[bound], 'cpu_us'):9.2f}{last}",
            flush=True,
        )


def _ratio(turns: Sequence[Turn], others: Sequence[Turn], name: str) -> float:
    pairs = zip(turns, others, strict=True)
    return float(statistics.median(getattr(one, name) / getattr(of, name) for one, of in pairs))


def _answered(port: int, kind: Kind, message: bytes) -> bytes:
    """Return the server's answer, once it is what the kind of traffic expects."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Callable[..., bytes] = channel.unary_unary(kind.method, None, None)
        try:
            answer, code = call(message, timeout=60), ""
        except grpc.RpcError as error:
            answer, code = b"", error.code().name
    if code != kind.refusal:
        raise SystemExit(f"{kind.name}: expected {kind.refusal or 'an answer'}, got {code}")
    return answer


def _images(rows: int) -> dict[str, Any]:
    return {"image": np.zeros((rows, 28, 28), np.float32)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each server (default 7)")
    parser.add_argument("--only", default="", help="kinds with this text in their name")
    return parser


if __name__ == "__main__":
    main()
