"""What there is: configurations, statistics, the repository, and what is not there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, refusal, until
from server.open_inference.harness import SERVICE, Served, X, request, row, serving

from ladle.protos.datatypes import BY_NAME
from ladle.protos.health_pb import HealthCheckRequest, HealthCheckResponse
from ladle.protos.inference_pb import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInput,
    ModelInstanceGroup,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    Unread,
)
from ladle.server import Config, Server
from ladle.server.core.servable_id import ServableId
from ladle.server.rest.open_inference.messages import as_json
from ladle.server.rpc.open_inference.refused import REFUSALS

ALIAS = "/inference.model_repository.ModelRepositoryService"
STATISTICS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


def get(served: Served, path: str, status: int = 200) -> Any:
    """Return what a small endpoint answers."""
    response = served.http.get(f"/v2{path}")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    return response.json()


def config_of(served: Served, name: str, version: str = "") -> Any:
    asked = ModelConfigRequest(name=name, version=version)
    return served.ask("ModelConfig", asked, ModelConfigResponse).config


def statistics_of(served: Served, name: str = "", version: str = "") -> Any:
    asked = ModelStatisticsRequest(name=name, version=version)
    return served.ask("ModelStatistics", asked, ModelStatisticsResponse).model_stats


@row(16)
def test_a_model_that_takes_batches_is_configured_without_the_batch_dimension(
    served: Served,
) -> None:
    config = config_of(served, "digits:other")
    assert (config.name, config.platform, config.backend) == (
        "digits:other",
        "tensorflow_savedmodel",
        "tensorflow",
    )
    assert config.max_batch_size == 1000
    assert config.HasField("dynamic_batching")
    (images,), (probabilities,) = config.input, config.output
    assert (images.name, list(images.dims), images.optional) == ("images", [8, 8], False)
    assert images.format == ModelInput.FORMAT_NONE
    assert (probabilities.name, list(probabilities.dims)) == ("probabilities", [10])
    assert probabilities.label_filename == "assets.extra/ladle.json"
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert config.parameters["TF_SIGNATURE_DEF"].string_value == "other"
    assert config.HasField("model_transaction_policy")
    (group,) = config.instance_group
    assert (group.kind, group.count) == (ModelInstanceGroup.KIND_CPU, 1)


@row(17)
def test_a_model_of_one_shape_is_configured_with_all_of_it(served: Served) -> None:
    config = config_of(served, "fixed")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == list(config.output[0].dims) == [1, 4]
    assert not config.HasField("dynamic_batching")


def test_a_configuration_follows_the_parameters_of_batches(tmp_path: Path) -> None:
    batching = tmp_path / "batching"
    batching.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 700 } "
        "num_batch_threads { value: 3 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    with serving(tmp_path / "models", batching_parameters_file=str(batching)) as served:
        config = config_of(served, "half")
        too_many = request("half", x=np.ones(9, np.float32))
        refused = served.refused(too_many)
    assert (config.max_batch_size, config.instance_group[0].count) == (8, 3)
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert refused == (
        "INVALID_ARGUMENT",
        "inference request batch-size must be <= 8 for 'half'",
    )


@row(19)
def test_statistics_count_requests_rows_and_runs(served: Served) -> None:
    (before,) = statistics_of(served, "one")
    assert before.last_inference == before.inference_count == 0
    for _ in range(3):
        served.infer(request("one", x=X[:2]))
    served.refused(request("one", y=X))
    (told,) = statistics_of(served, "one")

    stats = told.inference_stats
    assert (told.name, told.version) == ("one", "1")
    assert (told.inference_count, told.execution_count) == (6, 3)
    assert (stats.success.count, stats.fail.count) == (3, 1)
    assert stats.success.ns > 0
    for name in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(stats, name).count == 3
    assert all(stats.HasField(name) for name in STATISTICS)
    assert [batch.batch_size for batch in told.batch_stats] == [2]
    assert told.batch_stats[0].compute_infer.count == 3
    assert told.last_inference > 1_700_000_000_000


@row(20)
def test_statistics_are_of_all_of_one_or_of_none(served: Served) -> None:
    everything = statistics_of(served)
    assert [(s.name, s.version) for s in everything if s.name == "two"] == [
        ("two", "1"),
        ("two", "2"),
    ]
    assert {s.name for s in everything} == set(served.models)
    assert [
        (s.name, s.version) for s in statistics_of(served, "two:serving_default", "stable")
    ] == [("two:serving_default", "1")]
    assert served.refusal_of("ModelStatistics", ModelStatisticsRequest(name="nope")) == (
        "NOT_FOUND",
        "Request for unknown model: 'nope' is not found",
    )
    asked = ModelStatisticsRequest(name="two", version="9")
    assert served.refusal_of("ModelStatistics", asked)[0] == "NOT_FOUND"


@row(19, 23)
def test_statistics_begin_anew_with_a_load(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.infer(request("half", x=X))
        assert statistics_of(served, "half")[0].inference_count == 3
        served.ask(
            "RepositoryModelUnload",
            RepositoryModelUnloadRequest(model_name="half"),
            RepositoryModelUnloadResponse,
        )
        served.ask(
            "RepositoryModelLoad",
            RepositoryModelLoadRequest(model_name="half"),
            RepositoryModelLoadResponse,
        )
        assert statistics_of(served, "half")[0].inference_count == 0


@pytest.mark.parametrize("method", REFUSALS)
@row(77)
def test_what_is_not_there_says_so(served: Served, method: str) -> None:
    code, text = served.refusal_of(method, Unread())
    assert code == "UNIMPLEMENTED"
    assert text in {
        "shared memory is not supported",
        "trace settings are not supported",
        "log settings are not supported",
    }


def test_mlservers_name_of_the_repository_reaches_the_same_methods(served: Served) -> None:
    call: Any = served.channel.unary_unary(f"{ALIAS}/RepositoryIndex")
    asked = RepositoryIndexRequest().SerializeToString()
    index = RepositoryIndexResponse.FromString(call(asked, timeout=TIMEOUT_S))
    assert index == served.ask("RepositoryIndex", RepositoryIndexRequest(), RepositoryIndexResponse)


def test_a_server_can_do_without_the_protocol(tmp_path: Path) -> None:
    with serving(tmp_path, enable_open_inference=False) as served:
        assert served.refused(request("half", x=X))[0] == "UNIMPLEMENTED"
        with pytest.raises(grpc.RpcError) as caught:
            health(served)
        assert refusal(caught.value)[0] == "NOT_FOUND"


def test_health_knows_the_service(served: Served) -> None:
    assert health(served) == HealthCheckResponse.SERVING


def health(served: Served) -> int:
    call: Any = served.channel.unary_unary("/grpc.health.v1.Health/Check")
    asked = HealthCheckRequest(service=SERVICE.removeprefix("/")).SerializeToString()
    return HealthCheckResponse.FromString(call(asked, timeout=TIMEOUT_S)).status


@row(1, 2, 8)
def test_the_server_tells_that_it_lives_and_what_it_is(served: Served) -> None:
    assert served.ask("ServerLive", ServerLiveRequest(), ServerLiveResponse).live
    assert served.ask("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
    assert get(served, "/health/live") == {"live": True}
    assert get(served, "/health/ready") == {"ready": True, "live": True}
    metadata = served.ask("ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse)
    told = get(served, "")
    assert told == {
        "name": "ladle",
        "version": metadata.version,
        "extensions": list(metadata.extensions),
    }
    assert {"statistics", "model_configuration", "classification"} <= set(told["extensions"])
    assert "sequence" not in told["extensions"]


@row(3)
def test_a_server_whose_models_are_on_their_way_is_not_ready(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def load(servable_id: ServableId, path: Path) -> FakeServable:
        began.set()
        assert go_on.wait(TIMEOUT_S)
        return FakeServable()

    (tmp_path / "m" / "1").mkdir(parents=True)
    config = Config(
        port=None, rest_api_port=None, model_name="m", model_base_path=str(tmp_path / "m")
    )
    server = Server(config, load=load)
    server.open()
    try:
        assert began.wait(TIMEOUT_S)
        base = f"http://127.0.0.1:{server.addresses[-1].rpartition(':')[2]}/v2"
        for path, told in (
            ("/health/live", {"live": True}),
            ("/health/ready", {"ready": False, "live": False}),
            ("/models/m/ready", {"name": "m", "ready": False, "error": "Model 'm' is not ready"}),
        ):
            response = httpx.get(base + path)
            assert response.status_code == (200 if path == "/health/live" else 503)
            assert response.json() == told
        go_on.set()
        until(lambda: httpx.get(f"{base}/health/ready").status_code == 200)
    finally:
        go_on.set()
        server.stop(lame_duck=False)


@row(3)
def test_a_server_that_is_going_to_stop_is_not_ready_and_still_answers(tmp_path: Path) -> None:
    with serving(tmp_path, drain_grace_seconds=TIMEOUT_S) as served:
        stopping = threading.Thread(target=served.server.stop)
        stopping.start()
        until(lambda: served.http.get("/v2/health/ready").status_code == 503)
        told = served.http.get("/v2/health/ready").json()
        assert told == {"ready": False, "live": False}
        assert not served.ask("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready
        assert served.infer(request("half", x=X)).model_version == "1"
        assert served.http.get("/v2/health/live").status_code == 200
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


@row(4, 5, 6, 7)
@pytest.mark.parametrize(
    ("name", "version", "ready", "status"),
    [
        ("half", "", True, 200),
        ("half", "1", True, 200),
        ("two", "stable", True, 200),
        ("digits:other", "", True, 200),
        ("nope", "", None, 404),
        ("broken", "", False, 503),
        ("half", "9", None, 404),
        ("half", "x", None, 400),
    ],
)
def test_a_model_is_ready_or_not_or_unknown(
    served: Served, name: str, version: str, ready: bool | None, status: int
) -> None:
    asked = ModelReadyRequest(name=name, version=version)
    told = get(served, f"/models/{name}{f'/versions/{version}' if version else ''}/ready", status)
    if ready is None:
        code, text = served.refusal_of("ModelReady", asked)
        assert code == {404: "NOT_FOUND", 400: "INVALID_ARGUMENT"}[status]
        assert told == {"error": text}
    else:
        assert served.ask("ModelReady", asked, ModelReadyResponse).ready is ready
        assert (told["name"], told["ready"]) == (name, ready)


@row(9, 10, 11, 12)
@pytest.mark.parametrize(
    ("name", "version", "versions"),
    [
        ("half", "", ["1"]),
        ("two", "", ["1", "2"]),
        ("two", "1", ["1"]),
        ("two", "stable", ["1"]),
        ("all", "", ["1"]),
        ("odd", "", ["1"]),
        ("scalar", "", ["1"]),
    ],
)
def test_metadata_is_the_same_over_both(
    served: Served, name: str, version: str, versions: list[str]
) -> None:
    asked = ModelMetadataRequest(name=name, version=version)
    metadata = served.ask("ModelMetadata", asked, ModelMetadataResponse)
    told = get(served, f"/models/{name}{f'/versions/{version}' if version else ''}")
    assert told == as_json(metadata)
    assert told["platform"] == "tensorflow_savedmodel"
    assert told["versions"] == versions
    signature = served.models[name].signatures["serving_default"]
    wanted = {alias: list(spec.shape or ()) for alias, spec in signature.inputs.items()}
    assert {tensor["name"]: tensor["shape"] for tensor in told["inputs"]} == wanted
    if name == "all":
        assert [tensor["datatype"] for tensor in told["inputs"]] == list(BY_NAME)
    if name == "odd":
        assert [tensor["name"] for tensor in told["outputs"]] == ["y"]


@row(13)
def test_the_metadata_of_an_unknown_model_is_refused(served: Served) -> None:
    code, text = served.refusal_of("ModelMetadata", ModelMetadataRequest(name="wrong"))
    assert (code, text) == ("NOT_FOUND", "Request for unknown model: 'wrong' is not found")
    assert get(served, "/models/wrong", 404) == {"error": text}


@row(16, 17, 18)
@pytest.mark.parametrize("name", ["half", "digits", "fixed"])
def test_a_configuration_in_json_has_its_default_values(served: Served, name: str) -> None:
    told = get(served, f"/models/{name}/config")
    assert told == as_json(config_of(served, name))
    assert told["max_batch_size"] == (0 if name == "fixed" else 1000)
    assert told["model_transaction_policy"] == {"decoupled": False}
    assert ("dynamic_batching" in told) == (name != "fixed")
    assert all(type(size) is int for tensor in told["input"] for size in tensor["dims"])


@row(19, 20)
def test_statistics_in_json_have_every_duration(served: Served) -> None:
    served.infer(request("two", x=X))
    for path, versions in (("/models/two/stats", 2), ("/models/two/versions/1/stats", 1)):
        told = get(served, path)["model_stats"]
        assert len(told) == versions
        for of_version in told:
            assert type(of_version["version"]) is str
            assert list(of_version["inference_stats"]) == list(STATISTICS)
    everything = get(served, "/models/stats")["model_stats"]
    assert len(everything) == len(statistics_of(served))
    assert get(served, "/models/nope/stats", 404)["error"].startswith("Request for unknown model")


@row(21)
def test_the_index_lists_every_version_in_any_state(served: Served) -> None:
    for ready in (False, True):
        asked = RepositoryIndexRequest(ready=ready)
        index = served.ask("RepositoryIndex", asked, RepositoryIndexResponse)
        response = served.post("/v2/repository/index", {"ready": True} if ready else b"")
        assert response.json() == [as_json(model) for model in index.models]
        states = {(m.name, m.version): (m.state, m.reason) for m in index.models}
        assert states["two", "1"] == states["two", "2"] == ("READY", "")
        assert (("broken", "1") in states) != ready
    asked = RepositoryIndexRequest(repository_name="mine")
    assert served.refusal_of("RepositoryIndex", asked)[0] == "UNIMPLEMENTED"
    assert sorted(get(served, "/models")["models"]) == sorted({*served.models, "broken"})


@row(22, 23)
@pytest.mark.parametrize("name", ["half", "two"])  # one with a label on a version
def test_a_model_is_unloaded_and_loaded_again_over_http(tmp_path: Path, name: str) -> None:
    with serving(tmp_path) as served:
        post = served.post
        path = f"/v2/repository/models/{name}"
        unloaded = post(f"{path}/unload", {"parameters": {"unload_dependents": False}})
        assert (unloaded.status_code, unloaded.json()) == (200, {"name": name, "unload": True})
        assert served.refused_everywhere(request(name, x=X)) == (
            "NOT_FOUND",
            f"Request for unknown model: '{name}' is not found",
        )
        assert post(f"{path}/unload").status_code == 404
        loaded = post(f"{path}/load", {})
        assert (loaded.status_code, loaded.json()) == (200, {"name": name, "load": True})
        assert served.infer_over_rest(request(name, x=X)).status_code == 200


@row(24, 25)
def test_a_load_of_what_is_not_configured_and_of_files_is_refused(served: Served) -> None:
    response = served.post("/v2/repository/models/wrong/load", {})
    assert response.status_code == 404
    assert response.json() == {
        "error": "failed to load 'wrong', failed to poll from model repository"
    }
    broken = served.post("/v2/repository/models/broken/load", {})
    assert broken.json()["error"].startswith("failed to load 'broken', ")
    for key in ("config", "file:1/saved_model.pb"):
        response = served.post("/v2/repository/models/half/load", {"parameters": {key: "e30="}})
        assert response.status_code == 501
        asked = RepositoryModelLoadRequest(model_name="half")
        asked.parameters[key].string_param = "e30="
        assert served.refusal_of("RepositoryModelLoad", asked) == (
            "UNIMPLEMENTED",
            response.json()["error"],
        )


@row(26)
def test_kserves_stub_names_the_model_in_the_field_of_the_repository(served: Served) -> None:
    asked = RepositoryModelLoadRequest(repository_name="half")
    answer = served.ask("RepositoryModelLoad", asked, RepositoryModelLoadResponse)
    assert (answer.model_name, answer.isLoaded) == ("half", True)
