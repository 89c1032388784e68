"""A whole server in this process, over real gRPC, with a loader that needs no TensorFlow."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal, until
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ladle.protos import tensors
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.ladle_pb import (
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    RescanModelRequest,
    RescanModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from ladle.protos.serving_pb import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServerConfig,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from ladle.server import Config, Server, StartupError
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable_id import ServableId
from ladle.server.transport.addresses import AddressInUse
from ladle.server.transport.grpcio.transport import GrpcioTransport

M = TypeVar("M", bound=Message)
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class Harness:
    """Base paths, a server on them, and a channel to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loader = FakeLoader()
        self.channel: grpc.Channel = None  # type: ignore[assignment] # once it is started
        self.server: Server = None  # type: ignore[assignment]

    def publish(self, name: str, version: int) -> None:
        (self.folder / name / str(version)).mkdir(parents=True)

    def configured(self, *names: str, more: str = "") -> ModelServerConfig:
        config = ModelServerConfig()
        config.model_config_list.SetInParent()
        for name in names:
            model = config.model_config_list.config.add(name=name, model_platform="tensorflow")
            model.base_path = str(self.folder / name)
        return config

    @contextmanager
    def started(self, config: ModelServerConfig | None = None, **settings: Any) -> Iterator[None]:
        if config is not None:
            (self.folder / "models.config").write_text(str(config))
            settings["model_config_file"] = str(self.folder / "models.config")
        settings = {
            "port": None,
            "file_system_poll_wait_seconds": 0.01,
            "max_num_load_retries": 0,
            "drain_grace_seconds": 0,
        } | settings
        self.server = Server(Config(**settings), load=self.loader)
        self.server.open()
        port = self.server.addresses[0].rpartition(":")[2]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as self.channel:
            try:
                yield
            finally:
                self.server.stop(lame_duck=False)

    def call(self, path: str, request: Message, response: type[M], timeout: float) -> M:
        call: Any = self.channel.unary_unary(
            path, type(request).SerializeToString, response.FromString
        )
        return call(request, timeout=timeout)  # type: ignore[no-any-return]

    def predict(
        self, name: str, version: int = 0, label: str = "", timeout: float = TIMEOUT_S
    ) -> int:
        """Return the version that answered."""
        request = PredictRequest()
        request.model_spec.name = name
        if version:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))
        path = "/tensorflow.serving.PredictionService/Predict"
        return self.call(path, request, PredictResponse, timeout).model_spec.version.value

    def status(self, name: str) -> list[int]:
        """Return the states of the model's versions."""
        request = GetModelStatusRequest()
        request.model_spec.name = name
        path = "/tensorflow.serving.ModelService/GetModelStatus"
        response = self.call(path, request, GetModelStatusResponse, TIMEOUT_S)
        return [version.state for version in response.model_version_status]

    def reload(self, config: ModelServerConfig, timeout: float = TIMEOUT_S) -> None:
        request = ReloadConfigRequest(config=config, metric_names=["x"])
        path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
        response = self.call(path, request, ReloadConfigResponse, timeout)
        assert response.status.error_code == 0

    def repository(self, method: str, request: Message, response: type[M]) -> M:
        return self.call(f"/ladle.v1.ModelRepository/{method}", request, response, TIMEOUT_S)

    def health(self, name: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=name)
        return int(stub.Check(request, timeout=TIMEOUT_S).status)

    def watch(self, name: str) -> Any:
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=name)
        return (answer.status for answer in stub.Watch(request, timeout=TIMEOUT_S))


@pytest.fixture
def setting(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def refused_in_time(ask: Callable[[], object]) -> tuple[str, str]:
    """Ask until it is refused, and return the code and the message."""
    while True:
        try:
            ask()
        except grpc.RpcError as error:
            return refusal(error)


def labelled(config: ModelServerConfig, **labels: int) -> ModelServerConfig:
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    config.model_config_list.config[0].version_labels.update(labels)
    return config


def test_the_port_is_open_before_the_models_are_there_and_requests_wait(setting: Harness) -> None:
    setting.publish("m", 1)
    let_load = setting.loader.hold("m", 1)
    with setting.started(setting.configured("m")), ThreadPoolExecutor(1) as pool:
        assert setting.health("ModelService") == SERVING
        assert [setting.health(name) for name in ("", "m")] == [NOT_SERVING] * 2
        answer = pool.submit(setting.predict, "m")
        with pytest.raises(grpc.RpcError) as error:
            setting.predict("m", timeout=0.05)
        assert refusal(error.value)[0] == "DEADLINE_EXCEEDED"

        let_load.set()

        assert answer.result(TIMEOUT_S) == 1


def test_the_log_and_the_status_page_say_which_transport_serves(
    setting: Harness, transport_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    setting.publish("m", 1)
    with (
        caplog.at_level(logging.INFO),
        setting.started(setting.configured("m"), transport=transport_name, rest_api_port=None),
    ):
        assert setting.predict("m") == 1
        http = setting.server.addresses[-1]
        status = httpx.get(f"{http}/status.json", timeout=TIMEOUT_S).json()["server"]
    assert status["transport"] == transport_name
    (line,) = (line for line in caplog.messages if "transport" in line)
    assert line.startswith(f"gRPC is served by the transport {transport_name}: --transport=")


def test_many_can_wait_for_a_model_and_keep_no_thread_from_others(setting: Harness) -> None:
    """Whoever was told that the port is open comes at once, and all of them at the same time."""
    for name in ("m", "up"):
        setting.publish(name, 1)
    let_load = setting.loader.hold("m", 1)
    config = setting.configured("m", "up")
    with setting.started(config, grpc_max_threads=2), ThreadPoolExecutor(64) as pool:
        answers = [pool.submit(setting.predict, "m") for _ in range(64)]
        manager = setting.server.manager
        assert manager.wait_until(lambda: manager.waiting_requests == 64, TIMEOUT_S)

        assert setting.predict("up") == 1
        assert setting.status("m") == [20]

        let_load.set()

        assert {answer.result(TIMEOUT_S) for answer in answers} == {1}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def test_waiting_for_models_lets_nobody_connect_before(setting: Harness) -> None:
    """A probe of a TCP port, or a load balancer, knows no other sign."""
    setting.publish("m", 1)
    let_load = setting.loader.hold("m", 1)
    ports = free_ports(2)
    path = str(setting.folder / "socket")
    config = Config(
        port=ports[0],
        rest_api_port=ports[1],
        grpc_socket_path=path,
        model_name="m",
        model_base_path=str(setting.folder / "m"),
        wait_for_models=True,
        drain_grace_seconds=0,
    )
    server = Server(config, load=setting.loader)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(server.open)
        assert setting.loader.began.wait(TIMEOUT_S)

        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
            probe.connect(path)
        assert server.addresses == ()

        let_load.set()
        opened.result(TIMEOUT_S)
    for port in ports:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
    server.stop()


@pytest.mark.parametrize("wait_for_models", [False, True])
@pytest.mark.parametrize("which", ["port", "rest_api_port", "grpc_socket_path"])
def test_an_address_in_use_is_told_before_anything_is_loaded_or_opened(
    setting: Harness, which: str, wait_for_models: bool
) -> None:
    setting.publish("m", 1)
    (setting.folder / "batching").touch()
    ports = free_ports(2)
    addresses: dict[str, Any] = {
        "port": ports[0],
        "rest_api_port": ports[1],
        "grpc_socket_path": str(setting.folder / "socket"),
    }
    config = Config(
        **addresses,
        model_name="m",
        model_base_path=str(setting.folder / "m"),
        batching_parameters_file=str(setting.folder / "batching"),
        wait_for_models=wait_for_models,
    )
    family = socket.AF_UNIX if which == "grpc_socket_path" else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind(addresses[which] if family == socket.AF_UNIX else ("", addresses[which]))
        taken.listen()
        server = Server(config, load=setting.loader)
        with pytest.raises(AddressInUse, match=f"can't listen on .*{addresses[which]}: "):
            server.open()
    assert setting.loader.attempts == []
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    for thread in threading.enumerate():
        if thread.name == "batching parameters":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_a_system_without_room_for_threads_is_named_and_nothing_goes_on(
    setting: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: GrpcioTransport) -> None:
        raise RuntimeError("can't start new thread")

    setting.publish("m", 1)
    monkeypatch.setattr(GrpcioTransport, "start", no_room)
    base_path = str(setting.folder / "m")
    config = Config(model_name="m", model_base_path=base_path, port=None, transport="grpcio")
    server = Server(config, load=setting.loader)

    with pytest.raises(StartupError, match="no room to serve requests: can't start new thread"):
        server.open()
    assert setting.loader.attempts == []


def test_waiting_for_models_serves_once_each_is_up_or_has_failed(setting: Harness) -> None:
    setting.publish("m", 1)
    setting.publish("bad", 1)
    setting.loader.failures[ServableId("bad", 1)] = InvalidArgument("no good")
    with setting.started(setting.configured("m", "bad", "missing"), wait_for_models=True):
        assert [setting.health(name) for name in ("", "m", "bad")] == [
            SERVING,
            SERVING,
            NOT_SERVING,
        ]
        assert setting.predict("m") == 1


def test_a_single_model_that_does_not_load_ends_the_start(setting: Harness) -> None:
    setting.publish("m", 1)
    setting.loader.failures[ServableId("m", 1)] = InvalidArgument("no good")
    with (
        setting.started(model_name="m", model_base_path=str(setting.folder / "m")),
        pytest.raises(StartupError, match="model 'm' did not load: no good"),
    ):
        setting.server.wait_for_models()


def test_a_bad_model_leaves_the_others_alone(setting: Harness) -> None:
    setting.publish("good", 1)
    setting.publish("slow", 1)
    let_load = setting.loader.hold("slow", 1)
    with setting.started(setting.configured("missing", "slow", "good")):
        assert setting.predict("good") == 1
        with pytest.raises(grpc.RpcError) as error:
            setting.predict("missing")
        assert refusal(error.value) == (
            "NOT_FOUND",
            "Servable not found for request: Latest(missing)",
        )
        setting.publish("good", 2)
        while setting.predict("good") == 1:
            pass
        let_load.set()


def test_health_follows_each_model(setting: Harness) -> None:
    setting.publish("a", 1)
    setting.publish("b", 1)
    let_load = setting.loader.hold("b", 1)
    with setting.started(setting.configured("a", "b")):
        b, overall = setting.watch("b"), setting.watch("")
        assert next(b) == NOT_SERVING
        assert next(overall) == NOT_SERVING
        let_load.set()
        assert next(b) == SERVING
        assert next(overall) == SERVING
        for name in ("a", "PredictionService", "tensorflow.serving.PredictionService"):
            assert setting.health(name) == SERVING

        setting.reload(setting.configured("a"))
        assert next(b) in (NOT_SERVING, SERVICE_UNKNOWN)
        assert refused_in_time(lambda: setting.health("b"))[0] == "NOT_FOUND"
        assert setting.health("") == SERVING

        (setting.folder / "a" / "1").rmdir()
        assert next(overall) == NOT_SERVING


def test_names_that_nobody_knows_can_be_watched(setting: Harness) -> None:
    with setting.started(setting.configured("m")):
        unknown = setting.watch("m2")
        assert next(unknown) == SERVICE_UNKNOWN
        setting.publish("m2", 1)
        setting.reload(setting.configured("m2"))
        while next(unknown) != SERVING:
            pass


def test_a_reload_replaces_the_models_and_waits_for_new_ones(setting: Harness) -> None:
    for name in "abc":
        setting.publish(name, 1)
    with setting.started(setting.configured("a", "b")):
        setting.predict("a")
        setting.reload(setting.configured("b", "c"))

        assert [setting.predict(name) for name in "bc"] == [1, 1]
        assert refused_in_time(lambda: setting.predict("a"))[0] == "NOT_FOUND"


def test_a_reload_says_within_the_deadline_what_did_not_come_up_and_why(setting: Harness) -> None:
    for name in ("bad", "good", "slow"):
        setting.publish(name, 1)
    setting.loader.failures[ServableId("bad", 1)] = InvalidArgument("no good")
    let_load = setting.loader.hold("slow", 1)
    with setting.started(setting.configured("good")):
        setting.server.wait_for_models()  # what is good may take its time
        with pytest.raises(grpc.RpcError) as error:
            setting.reload(setting.configured("bad", "good", "missing", "slow"), timeout=3)
        code, message = refusal(error.value)
        assert code == "UNKNOWN"
        assert message.startswith("3 model(s) did not become available: {bad: no good; missing: ")
        assert "could not read base path" in message
        assert message.endswith("slow: it is still loading}")
        assert setting.predict("good") == 1
        let_load.set()


def test_a_reload_that_waits_blocks_no_other(setting: Harness) -> None:
    for name in ("slow", "m"):
        setting.publish(name, 1)
    let_load = setting.loader.hold("slow", 1)
    with setting.started(setting.configured()), ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(setting.reload, setting.configured("slow"))
        while not setting.repository("ListModels", ListModelsRequest(), ListModelsResponse).model:
            pass
        setting.reload(setting.configured("slow", "m"))
        assert not stuck.done()
        assert setting.predict("m") == 1
        let_load.set()
        stuck.result(TIMEOUT_S)


def test_reloads_that_are_wrong_change_nothing(setting: Harness) -> None:
    setting.publish("m", 1)
    with setting.started(setting.configured("m")):
        setting.predict("m")
        wrong = setting.configured("m", "m")
        for config, code in (
            (ModelServerConfig(), "INVALID_ARGUMENT"),
            (wrong, "INVALID_ARGUMENT"),
            (labelled(setting.configured("m"), canary=7), "FAILED_PRECONDITION"),
        ):
            with pytest.raises(grpc.RpcError) as error:
                setting.reload(config)
            assert refusal(error.value)[0] == code
        assert setting.predict("m") == 1
        assert (
            setting.repository("ListModels", ListModelsRequest(), ListModelsResponse)
            .model[0]
            .config.version_labels
            == {}
        )


def test_labels_of_a_config_file_work_from_the_start(setting: Harness) -> None:
    """Upstream refuses to start: its labels have to name versions that are loaded."""
    setting.publish("m", 1)
    with setting.started(labelled(setting.configured("m"), stable=1, canary=2)):
        assert setting.predict("m", label="stable") == 1
        with pytest.raises(
            grpc.RpcError, match=r"Servable not found for request: Specific\(m, 2\)"
        ):
            setting.predict("m", label="canary")
        with pytest.raises(grpc.RpcError) as error:
            setting.predict("m", label="other")
        assert refusal(error.value) == (
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: other",
        )

        setting.publish("m", 2)
        while setting.predict("m") == 1:
            pass
        assert setting.predict("m", label="canary") == 2
        setting.reload(labelled(setting.configured("m"), stable=2))
        assert setting.predict("m", label="stable") == 2


def test_a_label_beside_the_versions_keeps_its_version_loaded(setting: Harness) -> None:
    """With default flags, by which only the newest version is served."""
    setting.publish("m", 1)
    setting.publish("m", 2)
    (setting.folder / "m" / LABELS_NAME).write_text('{"stable": 1}')
    base_path = str(setting.folder / "m")
    with setting.started(model_name="m", model_base_path=base_path):
        until(lambda: setting.server.manager.labels("m") == {"stable": 1})
        assert (setting.predict("m"), setting.predict("m", label="stable")) == (2, 1)
        setting.publish("m", 3)
        until(lambda: setting.predict("m") == 3)
        (setting.folder / "m" / LABELS_NAME).write_text('{"stable": 2}')
        until(lambda: setting.server.manager.labels("m") == {"stable": 2})
        assert setting.predict("m", label="stable") == 2


def test_the_config_file_is_polled(setting: Harness) -> None:
    setting.publish("a", 1)
    setting.publish("b", 1)
    with setting.started(setting.configured("a"), model_config_file_poll_wait_seconds=0.01):
        assert setting.predict("a") == 1
        (setting.folder / "models.config").write_text(str(setting.configured("b")))
        assert refused_in_time(lambda: setting.predict("a"))[0] == "NOT_FOUND"
        assert setting.predict("b") == 1


def test_the_repository_lists_what_there_is(setting: Harness) -> None:
    setting.publish("m", 1)
    setting.publish("bad", 7)
    setting.loader.failures[ServableId("bad", 7)] = InvalidArgument("no good")
    with setting.started(labelled(setting.configured("m", "bad"), stable=1)):
        setting.server.wait_for_models()
        listed = setting.repository("ListModels", ListModelsRequest(), ListModelsResponse).model
        assert [model.config.name for model in listed] == ["bad", "m"]
        bad, m = listed
        assert (bad.available, bad.problem) == (False, "no good")
        assert (bad.version[0].status.version, bad.version[0].status.state) == (7, 50)
        assert (m.available, m.problem) == (True, "")
        assert m.config.base_path == str(setting.folder / "m")
        assert m.config.version_labels == {"stable": 1}
        assert list(m.version[0].signature) == ["serving_default"]
        one = setting.repository("ListModels", ListModelsRequest(name="m"), ListModelsResponse)
        assert [model.config.name for model in one.model] == ["m"]


def test_one_model_is_loaded_and_unloaded_without_the_others(setting: Harness) -> None:
    setting.publish("a", 1)
    setting.publish("b", 1)
    with setting.started(setting.configured("a")):
        config = setting.configured("b").model_config_list.config[0]
        loaded = setting.repository("LoadModel", LoadModelRequest(config=config), LoadModelResponse)
        assert loaded.model.available
        assert [setting.predict(name) for name in "ab"] == [1, 1]

        setting.repository("UnloadModel", UnloadModelRequest(name="a"), UnloadModelResponse)
        assert refused_in_time(lambda: setting.predict("a"))[0] == "NOT_FOUND"
        assert setting.predict("b") == 1
        for method, request in (
            ("UnloadModel", UnloadModelRequest(name="a")),
            ("RescanModel", RescanModelRequest(name="a")),
        ):
            with pytest.raises(grpc.RpcError, match="model a is not configured") as error:
                setting.repository(method, request, UnloadModelResponse)
            assert refusal(error.value)[0] == "NOT_FOUND"
        with pytest.raises(grpc.RpcError, match="expected a config"):
            setting.repository("LoadModel", LoadModelRequest(), LoadModelResponse)


def test_a_model_that_was_unloaded_is_loaded_and_waited_for_again(setting: Harness) -> None:
    setting.publish("m", 1)
    with setting.started(setting.configured()):
        config = setting.configured("m").model_config_list.config[0]
        for _ in range(5):
            loaded = setting.repository(
                "LoadModel", LoadModelRequest(config=config), LoadModelResponse
            )
            assert loaded.model.available
            setting.repository("UnloadModel", UnloadModelRequest(name="m"), UnloadModelResponse)


def test_a_rescan_finds_what_no_poll_would(setting: Harness) -> None:
    setting.publish("m", 1)
    with setting.started(setting.configured("m"), file_system_poll_wait_seconds=0):
        assert setting.predict("m") == 1
        setting.publish("m", 2)
        setting.repository("RescanModel", RescanModelRequest(name="m"), RescanModelResponse)
        while setting.predict("m") == 1:
            pass


def test_a_rescan_tries_what_has_failed_again(setting: Harness) -> None:
    setting.publish("m", 1)
    setting.loader.failures[ServableId("m", 1)] = InvalidArgument("no good")
    with setting.started(setting.configured("m")):
        setting.server.wait_for_models()
        setting.loader.failures.clear()
        setting.repository("RescanModel", RescanModelRequest(name="m"), RescanModelResponse)
        assert setting.predict("m") == 1


def test_the_status_of_a_failed_version_says_why(setting: Harness) -> None:
    setting.publish("m", 1)
    setting.loader.failures[ServableId("m", 1)] = InvalidArgument("no good")
    with setting.started(setting.configured("m")):
        setting.server.wait_for_models()
        request = GetModelStatusRequest()
        request.model_spec.name = "m"
        path = "/tensorflow.serving.ModelService/GetModelStatus"
        (status,) = setting.call(
            path, request, GetModelStatusResponse, TIMEOUT_S
        ).model_version_status
        assert (status.state, status.status.error_code, status.status.error_message) == (
            50,
            3,
            "no good",
        )


def test_a_stop_tells_health_first_takes_requests_a_while_and_finishes_them(
    setting: Harness,
) -> None:
    setting.publish("m", 1)
    with setting.started(setting.configured("m"), drain_grace_seconds=3 * TIMEOUT_S):
        setting.predict("m")
        overall = setting.watch("")
        assert next(overall) == SERVING
        servable = setting.loader.loaded[ServableId("m", 1)]
        servable.hold()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(setting.predict, "m")
            stopped = pool.submit(setting.server.stop)
            assert next(overall) == NOT_SERVING
            second = pool.submit(setting.predict, "m")
            servable.release()
            assert first.result(TIMEOUT_S) == second.result(TIMEOUT_S) == 1
            assert stopped.result(TIMEOUT_S)
        with pytest.raises(grpc.RpcError) as error:
            setting.predict("m")
        assert refusal(error.value)[0] == "UNAVAILABLE"
        assert servable.closed.is_set()


def test_a_stop_is_bounded_by_its_grace(setting: Harness, caplog: pytest.LogCaptureFixture) -> None:
    setting.publish("m", 1)
    with setting.started(setting.configured("m"), drain_grace_seconds=1):
        setting.predict("m")
        servable = setting.loader.loaded[ServableId("m", 1)]
        servable.hold()
        stuck = threading.Thread(target=refused_in_time, args=[lambda: setting.predict("m")])
        stuck.start()
        servable.wait_until_running()
        servable.wait_until_running()
        begun = time.monotonic()

        assert not setting.server.stop(), "a request still runs"

        assert time.monotonic() - begun < TIMEOUT_S
        said = re.search(
            r"something still runs ([\d.]+) s after the stop began, with --drain_grace_seconds=1",
            caplog.text,
        )
        assert said is not None
        assert 1 <= float(said[1]) <= time.monotonic() - begun + 0.1
        servable.release()
        stuck.join(TIMEOUT_S)
