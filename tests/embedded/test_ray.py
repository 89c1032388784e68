"""What Ray Serve gets of ladle, without Ray."""

from __future__ import annotations

import asyncio
import pickle
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import yaml
from fakes import FakeLoader

from ladle.embedded.calls import LocalCalls
from ladle.ray import add_services, app, app_from_args
from ladle.ray.application import AUTOSCALING, checked_flags
from ladle.ray.replica import Answer, Ladle, answer
from ladle.ray.services import PATHS
from ladle.server import Config, Server
from ladle.server.call import Call
from ladle.server.core.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
PREDICT = PATHS["Predict"]


class FakeContext:
    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailers: list[tuple[str, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("x-request-id", "7"), ("x-bin", b"\x00")]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.trailers = metadata


def ask(
    calls: LocalCalls, name: str = "Predict", timeout_s: float = 5.0
) -> tuple[Any, FakeContext]:
    context = FakeContext()
    return asyncio.run(answer(calls, name, b"request", context, timeout_s)), context


def test_an_answer_is_bytes_that_ray_can_serialize() -> None:
    def respond(call: Call) -> None:
        assert (call.request, call.metadata("x-request-id")) == (b"request", "7")
        assert call.deadline is not None
        call.respond(b"response")

    found, context = ask(LocalCalls({PREDICT: respond}))
    assert (found, found.SerializeToString(), context.code) == (b"response", b"response", None)
    assert type(found.SerializeToString()) is bytes
    assert pickle.loads(pickle.dumps(found)) == Answer(b"response")


def test_a_failure_is_a_status_and_no_exception_for_ray_to_log() -> None:
    error = Unavailable("busy " + 5000 * "x")
    error.retry_after_s = 0.25
    found, context = ask(LocalCalls({PREDICT: lambda call: call.fail(error)}))
    assert found == b""
    assert context.code is grpc.StatusCode.UNAVAILABLE
    assert context.details.startswith("busy x")
    assert len(context.details) == 4096
    assert context.trailers == [("grpc-retry-pushback-ms", "250")]


def test_a_reload_of_one_replica_is_refused() -> None:
    found, context = ask(LocalCalls({}), "HandleReloadConfigRequest")
    assert (found, context.code) == (b"", grpc.StatusCode.UNIMPLEMENTED)
    assert "model_config_file" in context.details


def test_a_caller_that_goes_is_seen() -> None:
    gone: Future[None] = Future()

    def hold(call: Call) -> None:
        call.on_end(lambda: gone.set_result(None))
        begun.set_result(None)

    async def cancelled() -> None:
        task = asyncio.ensure_future(
            answer(LocalCalls({PREDICT: hold}), "Predict", b"", FakeContext(), 60)
        )
        await asyncio.wrap_future(begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun: Future[None] = Future()
    asyncio.run(cancelled())
    assert gone.result(30) is None


def test_a_replica_has_a_method_for_each_that_ray_listens_for(tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.handlers: dict[str, Any] = {}

        def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
            self.handlers |= handlers[0]._method_handlers  # as Ray reads it

    listener = Listener()
    add_services(Ladle, listener)
    assert set(listener.handlers) == set(PATHS.values())
    for path, handler in listener.handlers.items():
        name = path.rpartition("/")[2]
        assert (handler.request_deserializer, handler.response_serializer) == (None, None)
        assert handler.unary_unary is getattr(Ladle, name)
    (tmp_path / "1").mkdir()
    server = Server(Config(model_base_path=str(tmp_path)), load=FakeLoader(), listens=False)
    assert set(PATHS.values()) <= set(server.methods)
    server.stop(lame_duck=False)


class FakeServe(ModuleType):
    """Remembers what is deployed."""

    def deployment(self, **options: Any) -> Any:
        self.options = options

        class Deployment:
            def __init__(self, of: type) -> None:
                self.of = of

            def bind(self, *arguments: Any) -> Any:
                return (self.of, *arguments)

        return Deployment


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    ray, serve = ModuleType("ray"), FakeServe("ray.serve")
    ray.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    return serve


def test_an_application_fills_batches_and_loses_no_request_to_a_redeploy(serve: FakeServe) -> None:
    found: Any = app(
        model_base_path="s3://models/m", num_replicas=3, num_cpus=1.5, request_timeout_s=9
    )
    of, flags, timeout_s = found
    assert (of, timeout_s) == (Ladle, 9)
    assert flags == {"model_base_path": "s3://models/m", "tensorflow_intra_op_parallelism": 2}
    options = serve.options
    assert options["num_replicas"] == 3
    assert options["ray_actor_options"] == {"num_cpus": 1.5, "num_gpus": 0.0}
    assert options["max_ongoing_requests"] == 256
    assert options["max_surge_percent"] == 100
    assert options["max_queued_requests"] > 0
    assert options["graceful_shutdown_timeout_s"] > Config(**flags).drain_grace_seconds
    assert options["logging_config"] == {"enable_access_log": False}
    app(model_base_path="/m", num_replicas="auto")
    assert serve.options["autoscaling_config"] == AUTOSCALING
    assert "num_replicas" not in serve.options


def test_wrong_flags_are_refused_before_anything_is_deployed(serve: FakeServe) -> None:
    with pytest.raises(ValueError, match="expected flags of ladle serve, got modle_name"):
        app(modle_name="m")
    with pytest.raises(ValueError, match="model_base_path"):
        app(model_name="m")
    flags = checked_flags({"model_base_path": "/m", "tensorflow_session_parallelism": 4}, 2)
    assert "tensorflow_intra_op_parallelism" not in flags


def test_the_example_is_one_application_with_what_ray_needs(serve: FakeServe) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    assert config["grpc_options"]["grpc_servicer_functions"] == ["ladle.ray:add_services"]
    (application,) = config["applications"]
    assert application["route_prefix"] == "/"
    assert application["import_path"] == f"ladle.ray:{app_from_args.__name__}"
    app_from_args(application["args"])
    (deployment,) = application["deployments"]
    assert deployment["name"] == serve.options["name"]
    assert deployment["max_ongoing_requests"] == serve.options["max_ongoing_requests"]
    assert deployment["max_surge_percent"] == 100
    assert config["grpc_options"]["request_timeout_s"] == application["args"]["request_timeout_s"]
