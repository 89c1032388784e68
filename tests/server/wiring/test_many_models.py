"""Thousands of models, few of them loaded: a whole server, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stores import FakeStore, publish

from ladle.protos import tensors, wire
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.inference_pb import (
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
)
from ladle.protos.ladle_pb import (
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server import Config, Server, StartupError
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable_id import ServableId
from ladle.store.errors import Unreachable
from ladle.store.url import parse_url

M = TypeVar("M", bound=Message)
KNOWN = 300
START, AVAILABLE = 10, 30
SERVING, UNKNOWN = 1, 3


class Harness:
    """A folder of models, a server on it, and a channel to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        self.loader = FakeLoader()
        self.channel: grpc.Channel = None  # type: ignore[assignment] # once it is started
        self.server: Server = None  # type: ignore[assignment]
        self.http = ""

    def publish(self, *names: str, version: int = 1) -> None:
        for name in names:
            (self.root / name / str(version)).mkdir(parents=True)

    @contextmanager
    def started(self, store: FakeStore | None = None, **settings: Any) -> Iterator[None]:
        settings = {
            "port": None,
            "rest_api_port": None,
            "model_root": str(self.root),
            "file_system_poll_wait_seconds": 0.01,
            "drain_grace_seconds": 0,
        } | settings
        opened: Any = {} if store is None else {"open_store": lambda _: store}
        self.server = Server(Config(**settings), load=self.loader, **opened)
        self.server.open()
        self.http = self.server.addresses[-1]
        port = self.server.addresses[0].rpartition(":")[2]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as self.channel:
            try:
                yield
            finally:
                self.server.stop(lame_duck=False)

    def call(self, path: str, request: Message, response: type[M]) -> M:
        call: Any = self.channel.unary_unary(
            path, type(request).SerializeToString, response.FromString
        )
        return call(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]

    def predict(self, name: str, **spec: Any) -> int:
        """Return the version that answered."""
        request = PredictRequest(model_spec=ModelSpec(name=name, **spec))
        request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))
        path = "/tensorflow.serving.PredictionService/Predict"
        return self.call(path, request, PredictResponse).model_spec.version.value

    def status(self, name: str) -> list[tuple[int, int]]:
        request = GetModelStatusRequest(model_spec=ModelSpec(name=name))
        path = "/tensorflow.serving.ModelService/GetModelStatus"
        response = self.call(path, request, GetModelStatusResponse)
        return [(v.version, v.state) for v in response.model_version_status]

    def listed(self, **asked: Any) -> list[Any]:
        path = "/ladle.v1.ModelRepository/ListModels"
        return list(self.call(path, ListModelsRequest(**asked), ListModelsResponse).model)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.http}{path}", timeout=TIMEOUT_S).json()

    def health(self, name: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=name)
        return int(stub.Check(request, timeout=TIMEOUT_S).status)

    def is_told(self, name: str, status: int) -> bool:
        """Wait for the health service to say so of a model: it has a word for each that is known.

        Of a model that is not known any more it says that too.
        """
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest(service=name)
        return any(answer.status == status for answer in stub.Watch(request, timeout=TIMEOUT_S))


@pytest.fixture
def many(tmp_path: Path) -> Harness:
    """Models m000 to m299, each with a version 1."""
    harness = Harness(tmp_path)
    harness.publish(*(f"m{number:03}" for number in range(KNOWN)))
    return harness


def test_a_request_loads_its_model_and_no_other(many: Harness) -> None:
    with many.started():
        assert many.health("") == many.health("m007") == SERVING
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(many.predict, "m007") for _ in range(32)]
            assert {one.result(TIMEOUT_S) for one in asked} == {1}
        assert many.loader.attempts == [ServableId("m007", 1)]
        assert many.status("m007") == [(1, AVAILABLE)]
        assert many.status("m008") == [(1, START)]
        with pytest.raises(grpc.RpcError) as error:
            many.predict("unknown")
        assert refusal(error.value) == (
            "NOT_FOUND",
            "Servable not found for request: Latest(unknown)",
        )
        assert many.loader.attempts == [ServableId("m007", 1)]


def test_over_http_too_and_by_version(many: Harness) -> None:
    many.publish("m001", version=2)
    with many.started():
        body = {"instances": [[1.0, 2.0]]}
        url = f"{many.http}/v1/models/m001/versions/2:predict"
        answer = httpx.post(url, json=body, timeout=TIMEOUT_S)
        assert answer.json() == {"predictions": [[2.0, 4.0]]}
        with pytest.raises(grpc.RpcError) as error:
            many.predict("m001", version={"value": 1})
        assert refusal(error.value)[0] == "NOT_FOUND"


def test_a_full_server_refuses_with_the_reason_and_goes_on_with_what_is_loaded(
    many: Harness,
) -> None:
    with many.started(max_loaded_models=2):
        assert many.predict("m000") == many.predict("m001") == 1
        with pytest.raises(grpc.RpcError) as error:
            many.predict("m002")
        code, message = refusal(error.value)
        assert code == "RESOURCE_EXHAUSTED"
        assert message.startswith(
            "no room for model m002: as many models are loaded or on their way as "
            "--max_loaded_models allows, which is 2. None of them can be unloaded now"
        )
        assert many.predict("m000") == many.predict("m001") == 1
        assert len(many.loader.attempts) == 2
        shown = many.server.exposition().decode()
        assert 'ladle_rejected_requests_total{model="other",reason="no_room"} 1' in shown
        assert "ladle_models_known 300" in shown
        assert "ladle_models_loaded 2" in shown
        assert 'ladle_model_loads_total{cause="request"} 2' in shown


def test_the_error_of_a_broken_model_reaches_all_who_ask_and_costs_one_load(many: Harness) -> None:
    many.loader.failures[ServableId("m003", 1)] = InvalidArgument("no good")
    with many.started():
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as error:
                many.predict("m003")
            code, message = refusal(error.value)
            assert code == "FAILED_PRECONDITION"
            assert message.startswith("model m003 can't be loaded: no good; it is tried again")
        assert len(many.loader.attempts) == 1
        assert many.health("") == SERVING


def test_thousands_are_listed_in_parts_and_what_is_loaded_in_full(many: Harness) -> None:
    with many.started():
        many.predict("m250")
        assert len(many.listed()) == KNOWN
        first = many.listed(limit=2, after="m249")
        assert [(m.config.name, m.unloaded, m.available) for m in first] == [
            ("m250", False, True),
            ("m251", True, False),
        ]
        assert [len(m.version) for m in first] == [1, 0]
        (one,) = many.listed(name="m251")
        assert [v.status.state for v in one.version] == [START]
        assert one.unloaded
        with pytest.raises(grpc.RpcError) as error:
            many.listed(limit=-1)
        assert refusal(error.value) == ("INVALID_ARGUMENT", "limit: expected 0 or more, got -1")

        part = many.get("/v1/models?limit=2&after=m249")
        assert [m["name"] for m in part["models"]] == ["m250", "m251"]
        assert part["more_after"] == "m251"
        last = many.get("/v1/models?limit=2&after=m298")
        assert [m["name"] for m in last["models"]] == ["m299"]
        assert "more_after" not in last
        assert many.get("/v1/models?limit=0") == {
            "error": "limit: expected 1 to 1000, got '0'",
        }
        page = many.get("/status.json")
        assert [m["name"] for m in page["models"]] == ["m250"]
        assert page["unloaded"] == KNOWN - 1


def test_over_the_open_inference_protocol(many: Harness) -> None:
    with many.started():
        service = "/inference.GRPCInferenceService"
        ready = ModelReadyRequest(name="m005")
        assert many.call(f"{service}/ModelReady", ready, ModelReadyResponse).ready
        index = many.call(
            f"{service}/RepositoryIndex", RepositoryIndexRequest(), RepositoryIndexResponse
        )
        assert {(m.state, m.reason) for m in index.models} == {("UNAVAILABLE", "unloaded")}
        assert many.loader.attempts == []

        asked = ModelMetadataRequest(name="m005")
        answer = many.call(f"{service}/ModelMetadata", asked, ModelMetadataResponse)
        assert list(answer.versions) == ["1"]
        assert many.loader.attempts == [ServableId("m005", 1)]
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        url = f"{many.http}/v2/models/m006/infer"
        assert httpx.post(url, json=body, timeout=TIMEOUT_S).json()["outputs"][0]["data"] == [2, 4]


def test_metadata_of_a_model_that_is_not_loaded_is_read_from_its_files(many: Harness) -> None:
    definition = SignatureDef(method_name="tensorflow/serving/predict")
    for version in (2, 3):
        many.publish("m000", version=version)
        write_graph(many.root / "m000" / str(version), f"v{version}", definition)
    (many.root / "m000" / LABELS_NAME).write_text('{"stable": 2}')
    with many.started():

        def metadata(name: str, **spec: Any) -> GetModelMetadataResponse:
            request = GetModelMetadataRequest(
                model_spec=ModelSpec(name=name, **spec), metadata_field=["signature_def"]
            )
            path = "/tensorflow.serving.PredictionService/GetModelMetadata"
            return many.call(path, request, GetModelMetadataResponse)

        def signatures(answer: GetModelMetadataResponse) -> list[str]:
            found = SignatureDefMap()
            answer.metadata["signature_def"].Unpack(found)
            return list(found.signature_def)

        newest = metadata("m000")
        assert newest.model_spec.version.value == 3
        assert signatures(newest) == ["v3"]
        with pytest.raises(grpc.RpcError) as error:
            metadata("m000", version={"value": 1})
        assert refusal(error.value) == (
            "NOT_FOUND",
            "Servable not found for request: Specific(m000, 1)",
        )
        assert signatures(metadata("m000", version_label="stable")) == ["v2"]
        with pytest.raises(grpc.RpcError) as error:
            metadata("m000", version_label="none")
        assert refusal(error.value)[0] == "INVALID_ARGUMENT"
        assert many.loader.attempts == []

        assert metadata("m001").model_spec.version.value == 1, "its files say nothing"
        assert many.loader.attempts == [ServableId("m001", 1)]


def write_graph(folder: Path, signature: str, definition: SignatureDef) -> None:
    """Write a saved_model.pb that holds one signature and no operations."""
    entry = wire.join(
        [
            *wire.bytes_field(1, [signature.encode()]),
            *wire.bytes_field(2, [definition.SerializeToString()]),
        ]
    )
    info = wire.join(wire.bytes_field(4, [b"serve"]))
    graph = wire.join([*wire.bytes_field(1, [info]), *wire.bytes_field(5, [entry])])
    (folder / "saved_model.pb").write_bytes(wire.join(wire.bytes_field(2, [graph])))


def test_models_that_come_and_go_under_the_root(many: Harness) -> None:
    with many.started():
        many.predict("m000")
        many.publish("new")
        assert many.is_told("new", SERVING)
        assert many.predict("new") == 1
        (many.root / "m000" / "1").rmdir()
        (many.root / "m000").rmdir()
        assert many.is_told("m000", UNKNOWN)
        with pytest.raises(grpc.RpcError) as error:
            many.predict("m000")
        assert refusal(error.value)[0] == "NOT_FOUND"


def test_labels_beside_the_versions_and_those_of_a_config_file(
    many: Harness, tmp_path: Path
) -> None:
    many.publish("m000", version=2)
    (many.root / "m000" / LABELS_NAME).write_text('{"stable": 1}')
    many.publish("m001", version=2)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m001" base_path: "{many.root / "m001"}" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "old" value: 1 } } }'
    )
    with many.started(model_config_file=str(config)):
        assert many.predict("m000", version_label="stable") == 1
        assert many.predict("m000") == 2
        assert many.predict("m001", version_label="old") == 1
        assert many.predict("m001") == 2
        with pytest.raises(grpc.RpcError) as error:
            many.predict("m002", version_label="stable")
        assert refusal(error.value) == (
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: stable",
        )


def test_a_roll_out_gives_an_unlabelled_version_nothing_while_the_stable_one_loads(
    many: Harness, tmp_path: Path
) -> None:
    many.publish("m000", version=2)
    (many.root / "m000" / LABELS_NAME).write_text('{"stable": 1}')
    rollouts = tmp_path / "rollouts"
    rollouts.write_text('rollout { model: "m000" canary { percent: 10 } }')
    let_load = many.loader.hold("m000", 1)
    with many.started(rollout_file=str(rollouts)), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(many.predict, "m000")
        manager = many.server.manager
        assert manager.wait_until(lambda: manager.is_available("m000", 2), TIMEOUT_S)
        let_load.set()
        assert asked.result(TIMEOUT_S) == 1


def test_pinned_models_are_loaded_at_the_start_and_waited_for(many: Harness) -> None:
    let_load = many.loader.hold("m010", 1)
    with many.started(pinned_models="m010", max_loaded_models=2), ThreadPoolExecutor(1) as pool:
        waited = pool.submit(many.server.wait_for_models)
        assert many.health("") == many.health("m010") == 2
        assert many.health("m011") == SERVING
        let_load.set()
        waited.result(TIMEOUT_S)
        assert many.health("") == many.health("m010") == SERVING


def test_changes_over_the_wire(many: Harness) -> None:
    with many.started():
        repository = "/ladle.v1.ModelRepository"
        with pytest.raises(grpc.RpcError) as error:
            many.call(
                f"{repository}/UnloadModel", UnloadModelRequest(name="m000"), UnloadModelResponse
            )
        assert refusal(error.value) == (
            "FAILED_PRECONDITION",
            "model m000 lies under --model_root: it goes when its folder does",
        )
        request = LoadModelRequest()
        request.config.name = "other"
        request.config.base_path = str(many.root / "m000")
        request.config.model_platform = "tensorflow"
        loaded = many.call(f"{repository}/LoadModel", request, LoadModelResponse).model
        assert loaded.available
        assert many.loader.attempts == [ServableId("other", 1)]
        many.loader.failures[ServableId("bad", 1)] = InvalidArgument("no good")
        request.config.name = "bad"
        with pytest.raises(grpc.RpcError) as error:
            many.call(f"{repository}/LoadModel", request, LoadModelResponse)
        code, message = refusal(error.value)
        assert code == "UNKNOWN"
        assert "{bad: model bad can't be loaded: no good; it is tried again" in message
        many.publish("new")
        assert many.is_told("new", SERVING)
        assert many.predict("other") == 1, "a change of the root leaves what was added"


def test_a_root_in_a_store(many: Harness, tmp_path: Path) -> None:
    store = FakeStore()
    for name in ("a", "b"):
        publish(store, 3, {"saved_model.pb": b"x"}, parse_url(f"s3://bucket/models/{name}"))
    settings = {"model_root": "s3://bucket/models", "model_cache_dir": str(tmp_path / "cache")}
    with many.started(store=store, **settings):
        assert many.status("a") == [(3, START)]
        assert store.count("get") == 0
        assert many.predict("a") == 3
        assert many.loader.attempts == [ServableId("a", 3)]
        assert many.status("a") == [(3, AVAILABLE)]
        requests = len(store.requests)
        with pytest.raises(grpc.RpcError) as error:
            many.predict("unknown")
        assert refusal(error.value)[0] == "NOT_FOUND"
        assert not any("unknown" in key for _, key in store.requests[requests:])

    def gone(_request: str, _key: str) -> None:
        raise Unreachable("s3://bucket: no answer")

    store.before = gone
    with many.started(store=store, **settings):
        assert many.predict("a") == 3, "its files are in the cache"
        with pytest.raises(grpc.RpcError) as error:
            many.status("b")
        assert refusal(error.value)[0] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_base_path": "/m"}, "--model_root: expected it without --model_base_path"),
        ({"model_repository": "/m"}, "--model_root: expected it without --model_repository"),
        (
            {"pinned_models": "a,b", "max_loaded_models": 2},
            "--max_loaded_models: expected more than the 2 of --pinned_models, got 2",
        ),
        (
            {"pinned_models": "a", "model_root": "", "model_base_path": "/m"},
            "--pinned_models needs --model_root, --max_loaded_models",
        ),
        ({"max_loaded_models": -1}, "--max_loaded_models: expected 0 or more, got -1"),
        ({"model_root": "hdfs://a/b"}, "--model_root: "),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**({"model_root": "/models"} | settings))


def test_a_root_of_no_use_ends_the_start(many: Harness) -> None:
    with (
        pytest.raises(StartupError, match="m000 holds versions of one model"),
        many.started(model_root=str(many.root / "m000")),
    ):
        pass
