"""The Open Inference Protocol, asked for by Triton's, KServe's and MLServer's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2e.upstream.official import told_by
from server.open_inference.harness import Served, mlserver_installs, row, serving

pytestmark = pytest.mark.conformance

ANSWER = [2.5, 3.0, 4.5]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clients")
    with serving(folder, grpc_compressed_requests=True) as served:
        yield served


def addresses(served: Served) -> tuple[str, str]:
    """Where gRPC and HTTP are served."""
    ports = [address.rpartition(":")[2] for address in served.server.addresses]
    return f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[-1]}"


@row(2, 5, 32)
def test_kserves_clients_get_their_answers(conformance_python: str, served: Served) -> None:
    grpc_address, http_address = addresses(served)
    told = told_by(
        conformance_python, "open_inference.kserve_client", grpc_address, f"http://{http_address}"
    )
    rest, grpc = told["rest"], told["grpc"]
    for way in (rest, grpc):
        assert (way["live"], way["ready"], way["model_ready"]) == (True, True, True)
    assert rest["unknown_ready"] is False
    assert rest["answers"] == [ANSWER] * 3
    assert grpc["answers"] == [ANSWER] * 2
    unknown = "Request for unknown model: 'nope' is not found"
    assert unknown in rest["error"]
    assert unknown in grpc["error"]


@mlserver_installs
@row(32)
def test_mlservers_types_hold_the_answers(conformance_python: str, served: Served) -> None:
    grpc_address, http_address = addresses(served)
    told = told_by(
        conformance_python, "open_inference.mlserver_client", grpc_address, f"http://{http_address}"
    )
    assert told["answers"] == [["7", ANSWER]] * 3
    assert told["metadata"] == ["half", ["1"], "tensorflow_savedmodel"]
    assert [model for model, _ in told["index"]] == ["two", "two"]


@row(1, 4, 8, 14, 16, 28, 30, 38, 52, 61, 63)
@pytest.mark.parametrize("way", ["grpc", "grpc_aio", "http", "http_aio"])
def test_what_tritons_examples_call_is_answered(
    conformance_python: str, served: Served, way: str
) -> None:
    told: dict[str, Any] = told_by(
        conformance_python, "open_inference.triton_calls", way, *addresses(served)
    )

    health, infer, repository = told["health"], told["infer"], told["repository"]
    assert (health["live"], health["ready"], health["model_ready"]) == (True, True, True)
    assert (health["metadata"], health["model"], health["large"]) == ("ladle", "simple", 81)
    assert "Request for unknown model" in health["wrong"]
    config = health["config"].get("config", health["config"])
    assert config["input"][0]["format"] == "FORMAT_NHWC"
    assert [int(size) for size in config["input"][0]["dims"]] == [8, 8, 3]
    a = list(range(16))
    sums = [[n + 1 for n in a]], [[n - 1 for n in a]]
    assert infer["sums"] == [list(sums)] * 4
    assert infer["statistics"] == 1
    assert infer["strings"] == [2 * n for n in a]
    assert infer["empty"] == [0]
    assert infer["classes"] == ["59.500000:7:seven", "51.500000:6:six"]
    assert infer["compressed"]
    assert all(infer["same"].values()), infer["same"]
    assert {"name": "simple", "version": "1", "state": "READY"}.items() <= next(
        model.items() for model in repository["index"] if model["name"] == "simple"
    )
    assert "failed to load" in repository["wrong"]
    assert repository["files"] == "models and their configuration can't be sent to this server"
    assert "Request for unknown model" in repository["unloaded"]
    assert repository["loaded"] is True
    assert repository["get_system_shared_memory_status"] == "shared memory is not supported"
    assert repository["get_log_settings"] == "log settings are not supported"
    assert repository["get_trace_settings"] == "trace settings are not supported"
    if way == "grpc":
        unknown = "Request for unknown model: 'nope' is not found"
        assert told["stream"] == ["0", unknown, "2"]
        explicit = told["explicit"]
        assert explicit["simple"] == explicit["simple_int8"] == [[7] * 16, [3] * 16]
        assert (
            "contents field must not be specified when using raw_input_contents for 'INPUT0' for "
            "model 'simple_int8'" in explicit["both"]
        )
        assert bytes.fromhex(explicit["simple_string"]) == b"\1\0\0\0006" * 16
