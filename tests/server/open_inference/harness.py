"""A server with the models of the protocol's conformance table, and callers of both transports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
import httpx
import numpy as np
import orjson
import pytest
from fakes import TIMEOUT_S, FakeServable, refusal, spec
from numpy.typing import NDArray

from ladle.protos.datatypes import BY_NAME, BY_NUMBER, to_raw
from ladle.protos.dtypes import from_numpy
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.server import Config, Server
from ladle.server.core.errors import ServingError
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId

SERVICE = "/inference.GRPCInferenceService"

F = TypeVar("F", bound=Callable[..., object])

ROWS: dict[int, list[str]] = {}
"""Rows of the conformance table, and the tests that hold each."""


def row(*numbers: int) -> Callable[[F], F]:
    """Note that a test holds these rows of the table."""

    def note(test: F) -> F:
        for number in numbers:
            ROWS.setdefault(number, []).append(test.__name__)
        return test

    return note


mlserver_installs = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="no release of MLServer installs on this Python"
)
"""For what asks by MLServer's package: tests/conformance/requirements.txt."""


LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CARD = '{"format": 1, "labels": [' + ", ".join(f'"{label}"' for label in LABELS) + "]}"
COMPLEX64, INT8, INT32, UINT8, BYTES = 8, 6, 3, 4, 7


def half(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """y = x / 2 + 2, and the same as a complex number."""
    y = (inputs["x"] / 2 + 2).astype(np.float32)
    return {"y": y, "z": y.astype(np.complex64)}


def simple(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Triton's example: a sum and a difference."""
    a, b = inputs["INPUT0"], inputs["INPUT1"]
    return {"OUTPUT0": a + b, "OUTPUT1": a - b}


def simple_string(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Triton's example: the sum and the difference of numbers that are texts."""
    a, b = (inputs[name].astype(int) for name in ("INPUT0", "INPUT1"))
    as_text = np.vectorize(lambda number: str(number).encode(), otypes=[object])
    return {"OUTPUT0": as_text(a + b), "OUTPUT1": as_text(a - b)}


def digits(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The sum of a picture's first rows, as ten numbers."""
    sums = inputs["images"].astype(np.float32).sum(axis=2)[:, :8] / 8
    return {"probabilities": np.concatenate([sums, sums[:, :2]], axis=1)}


def same(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Each output is the input of its name."""
    return dict(inputs)


def _signature(name: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Signature:
    return Signature(name, inputs, outputs)


_MAIN = "serving_default"
_HALF = _signature(_MAIN, {"x": spec(-1)}, {"y": spec(-1)})
_SIX = {"INPUT0": spec(-1, 16, data_type=INT32), "INPUT1": spec(-1, 16, data_type=INT32)}
_SUMS = {"OUTPUT0": spec(-1, 16, data_type=INT32), "OUTPUT1": spec(-1, 16, data_type=INT32)}
_EVERY = {name: spec(-1, 2, data_type=d.data_type) for name, d in BY_NAME.items()}
_IMAGES = {"images": spec(-1, 8, 8, data_type=UINT8)}
_TEXT = {"text": spec(-1, data_type=BYTES)}


def _same(data_type: int) -> FakeServable:
    tensor = {"x": spec(-1, 2, data_type=data_type)}
    return FakeServable(same, (_signature(_MAIN, tensor, tensor),))


def servables() -> dict[str, FakeServable]:
    """Return what each model of the table runs."""
    probabilities = {"probabilities": spec(-1, 10)}
    return {
        "half": FakeServable(half, (_HALF,)),
        "simple": FakeServable(simple, (_signature(_MAIN, _SIX, _SUMS),)),
        "all": FakeServable(same, (_signature(_MAIN, _EVERY, _EVERY),)),
        "digits": FakeServable(
            digits,
            (
                _signature(_MAIN, _IMAGES, probabilities),
                _signature("other", _IMAGES, probabilities),
            ),
            CARD,
        ),
        "scalar": FakeServable(half, (_signature(_MAIN, {"x": spec()}, {"y": spec()}),)),
        "fixed": FakeServable(half, (_signature(_MAIN, {"x": spec(1, 4)}, {"y": spec(1, 4)}),)),
        "two": FakeServable(half, (_HALF,)),
        "odd": FakeServable(
            half,
            (
                _signature(
                    _MAIN, {"x": spec(-1)}, {"y": spec(-1), "z": spec(-1, data_type=COMPLEX64)}
                ),
            ),
        ),
        "slow": FakeServable(half, (_HALF,)),
        "text": FakeServable(same, (_signature(_MAIN, _TEXT, _TEXT),)),
        "one": FakeServable(half, (_signature("only", {"x": spec(-1)}, {"y": spec(-1)}),)),
        "pair": FakeServable(
            half,
            (
                _signature("a", {"x": spec(-1)}, {"y": spec(-1)}),
                _signature("b", {"x": spec(-1)}, {"y": spec(-1)}),
            ),
        ),
        "simple_string": FakeServable(
            simple_string,
            (
                _signature(
                    _MAIN,
                    {name: spec(-1, 16, data_type=BYTES) for name in ("INPUT0", "INPUT1")},
                    {name: spec(-1, 16, data_type=BYTES) for name in ("OUTPUT0", "OUTPUT1")},
                ),
            ),
        ),
        "simple_int8": FakeServable(
            simple,
            (
                _signature(
                    _MAIN,
                    {name: spec(-1, 16, data_type=INT8) for name in ("INPUT0", "INPUT1")},
                    {name: spec(-1, 16, data_type=INT8) for name in ("OUTPUT0", "OUTPUT1")},
                ),
            ),
        ),
        "picture": FakeServable(
            lambda inputs: {"y": inputs["x"].reshape(len(inputs["x"]), -1)[:, :4]},
            (_signature(_MAIN, {"x": spec(-1, 8, 8, 3)}, {"y": spec(-1, 4)}),),
        ),
        **{f"same_{name}": _same(d.data_type) for name, d in BY_NAME.items()},
        "wide": FakeServable(
            half,
            (
                _signature(
                    _MAIN,
                    {"x": spec(-1)},
                    {
                        "y": spec(-1),
                        **{f"an_output_of_the_name_{n:03}": spec(-1) for n in range(80)},
                    },
                ),
            ),
        ),
    }


@dataclass
class Served:
    """The server, and how to call it."""

    server: Server
    channel: grpc.Channel
    http: httpx.Client
    models: dict[str, FakeServable]
    folder: Path
    metadata: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, method: str, request: Any, answer: Any, **options: Any) -> Any:
        """Call a method of the protocol."""
        call: Any = self.channel.unary_unary(f"{SERVICE}/{method}")
        options = {"timeout": TIMEOUT_S, "metadata": self.metadata} | options
        return answer.FromString(call(request.SerializeToString(), **options))

    def infer(self, message: ModelInferRequest, **options: Any) -> ModelInferResponse:
        """Call ModelInfer."""
        answer: ModelInferResponse = self.ask("ModelInfer", message, ModelInferResponse, **options)
        return answer

    def refused(self, message: ModelInferRequest, **options: Any) -> tuple[str, str]:
        """Return the status with which ModelInfer refuses a request."""
        with pytest.raises(grpc.RpcError) as caught:
            self.infer(message, **options)
        return refusal(caught.value)

    def refusal_of(self, method: str, request: Any) -> tuple[str, str]:
        """Return the status with which a method refuses a request."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(method, request, ModelInferResponse)
        return refusal(caught.value)

    def infer_over_rest(self, message: ModelInferRequest, **more: Any) -> httpx.Response:
        """Send the same request as a body of JSON and binary tensors."""
        path, text, raw = rest_form(message, **more)
        return self.post(path, text + raw, inference_header_content_length=str(len(text)))

    def refused_everywhere(self, message: ModelInferRequest) -> tuple[str, str]:
        """Return the status with which a request is refused over gRPC, and hold REST to it."""
        code, text = self.refused(message)
        response = self.infer_over_rest(message)
        assert response.status_code == STATUS[code]
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {"error": text}
        return code, text

    def post(self, path: str, content: Any = b"", **headers: str) -> httpx.Response:
        """Send JSON, or bytes as they are."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(content, bytes):
            return self.http.post(path, content=content, headers=given)
        return self.http.post(path, json=content, headers=given)


STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 504,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "PERMISSION_DENIED": 403,
}
"""The HTTP status of each code."""


def rest_form(message: ModelInferRequest, **more: Any) -> tuple[str, bytes, bytes]:
    """Return the path, the JSON and the binary tensors of a request in raw form."""
    version = f"/versions/{message.model_version}" if message.model_version else ""
    inputs: list[dict[str, Any]] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {
                **parameters(tensor.parameters),
                "binary_data_size": len(message.raw_input_contents[at]),
            },
        }
        for at, tensor in enumerate(message.inputs)
    ]
    outputs = [
        {"name": wanted.name, "parameters": parameters(wanted.parameters)}
        for wanted in message.outputs
    ]
    body: dict[str, Any] = {
        "id": message.id,
        "parameters": parameters(message.parameters),
        "inputs": inputs,
        **({"outputs": outputs} if outputs else {}),
        **more,
    }
    path = f"/v2/models/{quote(message.model_name, safe='')}{version}/infer"
    return path, orjson.dumps(body), b"".join(message.raw_input_contents)


def parameters(given: Any) -> dict[str, Any]:
    """Return a message's parameters as JSON has them."""
    return {
        key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in given.items()
    }


def request(model: str, **inputs: NDArray[Any]) -> ModelInferRequest:
    """A request in raw form, as tritonclient sends it."""
    message = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = BY_NUMBER[7 if array.dtype.hasobject else from_numpy(array.dtype)].name
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(bytes(to_raw(array)))
    return message


def output(response: ModelInferResponse, at: int = 0) -> NDArray[Any]:
    """A numeric output of a raw answer."""
    tensor = response.outputs[at]
    flat = np.frombuffer(response.raw_output_contents[at], BY_NAME[tensor.datatype].dtype)
    return flat.reshape(tuple(tensor.shape))


_UNBOUNDED = [("grpc.max_receive_message_length", -1)]

X = np.array([1, 2, 5], np.float32)


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    """Start a server of all the models."""
    models = servables()
    entries = []
    for name in (*models, "broken"):
        versions = ("1", "2") if name == "two" else ("1",)
        for version in versions:
            (folder / name / version).mkdir(parents=True)
        more = 'version_labels { key: "stable" value: 1 }' if name == "two" else ""
        entries.append(
            f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" '
            f"model_version_policy {{ all {{}} }} {more} }}"
        )
    (folder / "models").write_text(f"model_config_list {{ {' '.join(entries)} }}")

    def load(servable_id: ServableId, path: Path) -> FakeServable:
        if servable_id.name == "broken":
            raise ServingError("no such operation")
        known = models[servable_id.name]
        signatures = tuple(known.signatures.values())
        again = FakeServable(known.function, signatures, known.card_json)
        models[servable_id.name] = again
        return again

    defaults: dict[str, Any] = {
        "port": None,
        "rest_api_port": None,
        "model_config_file": str(folder / "models"),
        "file_system_poll_wait_seconds": 0,
        "max_num_load_retries": 0,
        "drain_grace_seconds": 0,
    }
    server = Server(Config(**{**defaults, **settings}), load=load)
    server.start()
    try:
        grpc_port = server.addresses[0].rpartition(":")[2]
        http_port = server.addresses[-1].rpartition(":")[2]
        with (
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}", _UNBOUNDED) as channel,
            httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=TIMEOUT_S) as http,
        ):
            yield Served(server, channel, http, models, folder)
    finally:
        server.stop(lame_duck=False)
