"""Connections to what is no gRPC server, or another one than was meant."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Refused, image_version, listening
from google.protobuf.message import Message

from ladle.client import (
    DeadlineExceeded,
    MessageTooLarge,
    NotFound,
    Retry,
    Unavailable,
    Unimplemented,
    VersionState,
)
from ladle.client.errors import from_status
from ladle.client.testing import FunctionModel, FunctionServer
from ladle.protos import ladle_pb
from ladle.protos.serving_pb import ModelConfig

PIXELS = np.full((3, 2, 2), 51, np.uint8)
ONCE = Retry(max_attempts=1)

pytestmark = pytest.mark.parametrize("client_class", CLIENTS)


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def http_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_http_port_is_told(client_class: Any, http_port: int) -> None:
    with (
        client_class(f"127.0.0.1:{http_port}", retry=ONCE) as client,
        pytest.raises(Unavailable, match="this is no gRPC port, and may be the HTTP"),
    ):
        client.predict("m", PIXELS)


def test_tls_to_a_plain_server_is_told(client_class: Any) -> None:
    with (
        listening(FakeServing({1: image_version(255)})) as address,
        client_class(address, retry=ONCE, tls=True) as client,
        pytest.raises(Unavailable, match="the server has no TLS at this port: leave tls out"),
    ):
        client.predict("m", PIXELS)


def test_a_port_where_nothing_listens_is_told(client_class: Any) -> None:
    with (
        client_class("127.0.0.1:1", retry=ONCE) as client,
        pytest.raises(Unavailable, match="nothing listens there: is the server running"),
    ):
        client.health()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_url_is_refused_at_once(client_class: Any, scheme: str) -> None:
    with pytest.raises(ValueError, match=f'address: expected host:port without "{scheme}://"'):
        client_class([f"{scheme}://localhost:8500"])


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    client_class: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address, retry=ONCE) as client:
        assert client.predict("m", PIXELS).version == 4
        port = address.rpartition(":")[2]
        with client_class(f"localhost:{port}", retry=ONCE) as by_name:
            assert by_name.predict("m", PIXELS).version == 4


class Named(FakeServing):
    """Serves the model "m", and not "digit"."""

    def answer(self, method: str, body: bytes) -> bytes:
        if b"digit" in body and not method.endswith("ListModels"):
            raise Refused(grpc.StatusCode.NOT_FOUND, 'model "digit" is not served')
        return super().answer(method, body)


def served_as(name: str) -> ladle_pb.Model:
    return ladle_pb.Model(config=ModelConfig(name=name))


class TestModels:
    def served(self, *names: str) -> FakeServing:
        server = Named({1: image_version(255)})
        server.models = [served_as(name) for name in (*names, "m")]
        version = server.models[-1].version.add()
        version.status.version, version.status.state = 1, VersionState.AVAILABLE
        return server

    def test_another_name_is_told_with_those_that_are_served(self, client_class: Any) -> None:
        with listening(self.served("a", "b")) as address, client_class(address) as client:
            calls: dict[str, tuple[Any, ...]] = {
                "predict": (PIXELS,),
                "metadata": (),
                "status": (),
                "classify": ({"x": 1.0},),
                "regress": ({"x": 1.0},),
                "multi_inference": ({"x": 1.0}, {"s": "classify"}),
            }
            for method, arguments in calls.items():
                with pytest.raises(NotFound, match=r"; served here: a, b, m$"):
                    getattr(client, method)("digit", *arguments)

    def test_another_version_is_told_with_those_that_are_served(self, client_class: Any) -> None:
        with (
            listening(self.served()) as address,
            client_class(address) as client,
            pytest.raises(NotFound, match=r"; its versions served here: 1$"),
        ):
            client.predict("m", PIXELS, version=7)

    def test_of_many_models_ten_are_told(self, client_class: Any) -> None:
        with (
            listening(self.served(*(f"m{n}" for n in range(30)))) as address,
            client_class(address) as client,
            pytest.raises(NotFound, match=r"; served here: m0, m1, .*, m9 and others$"),
        ):
            client.predict("digit", PIXELS)

    def test_a_server_that_lists_nothing_has_its_own_words(self, client_class: Any) -> None:
        with FunctionServer({}) as server, client_class(server.address) as client:
            with pytest.raises(NotFound, match=r'model "digit" is not served$'):
                client.predict("digit", PIXELS)
            with pytest.raises(DeadlineExceeded, match=r"is not served$"):
                client.wait_until_ready("digit", timeout=0.3)


class TestLargeMessages:
    def test_an_answer_beyond_the_clients_limit_says_what_to_do(self, client_class: Any) -> None:
        model = FunctionModel(
            lambda inputs: {"y": np.zeros((len(inputs["x"]), 1_000), np.float32)},
            inputs={"x": ("float32", (-1, 2))},
            outputs={"y": ("float32", (-1, 1_000))},
        )
        rows = np.zeros((10, 2), np.float32)
        with (
            FunctionServer({"m": model}) as server,
            client_class(server.address, max_message_bytes=4_000) as client,
            pytest.raises(MessageTooLarge, match=r"; predict_chunks\(\) gets the answer in parts$"),
        ):
            client.predict("m", rows)

    def test_a_request_beyond_the_servers_limit_says_what_to_do(self, client_class: Any) -> None:
        details = "SERVER: Received message larger than max (8000000 vs. 4194304)"
        error = from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, details, "Predict at a:1")
        assert isinstance(error, MessageTooLarge)
        assert "; send fewer rows in one call, such as with stream() or predict_chunks()" in str(
            error
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.predict("m", PIXELS, timeout="5"), 'timeout: .* number, got "5"'),
        (lambda client: client.health(timeout=[5]), "timeout: expected a number, got list"),
        (lambda client: client.predict("m", PIXELS, version="1"), "version: .*number, got '1'"),
        (lambda client: client.predict("m", PIXELS, label=1), "label: expected text, got int"),
        (lambda client: client.predict(None, PIXELS), "model: expected a name, got NoneType"),
        (lambda client: client.metadata(7), "model: expected a name, got int"),
    ],
)
def test_an_argument_of_another_type_is_told(client_class: Any, call: Any, message: str) -> None:
    with client_class("127.0.0.1:1") as client, pytest.raises(TypeError, match=message):
        call(client)


@pytest.mark.parametrize("address", [5, None])
def test_an_address_that_is_no_text_is_told(client_class: Any, address: Any) -> None:
    with pytest.raises(TypeError, match=f"address: expected text, .* or several, got {address}"):
        client_class(address)


def test_a_name_that_utf_8_cannot_say_is_told(client_class: Any) -> None:
    with client_class("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="model: expected what UTF-8 can say, got half"):
            client.predict("\ud800", PIXELS)
        with pytest.raises(ValueError, match="label: expected what UTF-8 can say, got half"):
            client.predict("m", PIXELS, label="\ud800")


@pytest.mark.parametrize(
    "settings",
    [{"timeout": "5"}, {"coalesce_ms": "1"}, {"connections": None}, {"keepalive_s": "x"}],
)
def test_a_setting_of_another_type_is_told(client_class: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(settings))}: expected a number, got"):
        client_class("127.0.0.1:1", **settings)


class Repository(FakeServing):
    """Loads and unloads single models."""

    def __init__(self) -> None:
        super().__init__({1: image_version(255)})
        self.base_paths: dict[str, str] = {}

    def answer(self, method: str, body: bytes) -> bytes:
        if not method.startswith("/ladle.v1.ModelRepository/"):
            return super().answer(method, body)
        return self.changed(method, body).SerializeToString()

    def changed(self, method: str, body: bytes) -> Message:
        if method == "/ladle.v1.ModelRepository/LoadModel":
            config = ladle_pb.LoadModelRequest.FromString(body).config
            self.base_paths[config.name] = config.base_path
            return ladle_pb.LoadModelResponse(model=ladle_pb.Model(config=config, available=True))
        name = ladle_pb.UnloadModelRequest.FromString(body).name
        if name not in self.base_paths:
            raise Refused(grpc.StatusCode.NOT_FOUND, f'model "{name}" is not configured')
        if method == "/ladle.v1.ModelRepository/RescanModel":
            return ladle_pb.RescanModelResponse(model=served_as(name))
        del self.base_paths[name]
        return ladle_pb.UnloadModelResponse()


def test_one_model_is_loaded_and_unloaded(client_class: Any) -> None:
    server = Repository()
    with listening(server) as address, client_class(address) as client:
        loaded = client.load("extra", Path("/models/extra"))
        assert (loaded.name, loaded.is_available) == ("extra", True)
        assert server.base_paths == {"extra": "/models/extra"}
        assert client.load("extra").name == "extra"
        client.unload("extra")
        assert not server.base_paths
        for call in (client.load, client.unload):
            with pytest.raises(NotFound, match="is not configured"):
                call("extra")
            with pytest.raises(ValueError, match="expected a name"):
                call("")
        with pytest.raises(ValueError, match="expected a name and a base path"):
            client.load("extra", "")
    with (
        FunctionServer({}) as other,
        client_class(other.address) as client,
        pytest.raises(Unimplemented),
    ):
        client.load("extra", "/models/extra")
