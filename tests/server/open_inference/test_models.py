"""What there is: configurations, statistics, the repository, and what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, refusal
from server.open_inference.harness import SERVICE, Served, X, request, row, serving

from ladle.protos.health_pb import HealthCheckRequest, HealthCheckResponse
from ladle.protos.inference_pb import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInput,
    ModelInstanceGroup,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    Unread,
)
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
