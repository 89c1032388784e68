"""What is refused beside --workers, what each worker is told, and the ports that they share."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from ladle.server.config import Config
from ladle.server.core.machine.cpus import part
from ladle.server.transport.addresses import AddressInUse
from ladle.server.wiring.workers.supervising.ports import bind_ports
from ladle.server.wiring.workers.supervising.processes import how_ended
from ladle.server.wiring.workers.supervising.refusals import problem
from ladle.server.wiring.workers.supervising.settings import worker_settings

PORTS = {"transport": "native", "grpc_port": 8500, "http_port": 8501}


def config(**flags: Any) -> Config:
    return Config(**{"model_base_path": "m", "workers": 2, **flags})


def settings(given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    given = {"model_base_path": "m", "workers": 2, **(given or {})}
    found = worker_settings(given, **{**PORTS, "late": False, **more})
    Config(**found)  # which can be had
    return found


def test_each_refusal_is_a_sentence(tmp_path: Path) -> None:
    here: dict[str, Any] = {"platform": "linux", "environment": {}, "devices": tmp_path}
    assert problem(config(), **here) == ""
    assert "expected 1 on darwin" in problem(config(), **{**here, "platform": "darwin"})
    assert "--grpc_socket_path" in problem(config(grpc_socket_path="/x"), **here)
    assert "--model_root" in problem(config(max_loaded_models=5), **here)
    (tmp_path / "nvidia0").touch()
    assert "CUDA_VISIBLE_DEVICES=-1" in problem(config(), **here)
    assert problem(config(), **{**here, "environment": {"CUDA_VISIBLE_DEVICES": "-1"}}) == ""


@pytest.mark.parametrize("workers", [0, 65])
def test_their_number_has_bounds(workers: int) -> None:
    with pytest.raises(ValueError, match="--workers: expected"):
        config(workers=workers)


def test_a_worker_has_the_ports_that_were_bound_and_the_flags_as_they_were() -> None:
    given = {"port": None, "rest_api_port": None, "max_request_bytes": 5}
    found = settings(given)
    assert (found["port"], found["rest_api_port"]) == (8500, 8501)
    assert found["max_request_bytes"] == 5


def test_one_that_others_serve_beside_opens_its_ports_late() -> None:
    assert settings(late=True)["wait_for_models"]
    assert not settings(late=False)["wait_for_models"]
    assert settings({"wait_for_models": True}, late=False)["wait_for_models"]


def test_connections_end_in_the_long_run_unless_somebody_says_when() -> None:
    assert Config(**settings()).channel_arguments == (
        ("grpc.max_connection_age_ms", 300_000),
        ("grpc.max_connection_age_grace_ms", 30_000),
    )
    given = {"grpc_channel_arguments": "grpc.max_connection_age_ms=1000,"}
    assert Config(**settings(given)).channel_arguments == (
        ("grpc.max_connection_age_ms", 1000),
        ("grpc.max_connection_age_grace_ms", 30_000),
    )


def test_grpcio_shares_the_port_by_the_system() -> None:
    found = Config(**settings(transport="grpcio"))
    assert ("grpc.so_reuseport", 1) in found.channel_arguments
    assert ("grpc.so_reuseport", 1) not in Config(**settings()).channel_arguments


@pytest.mark.parametrize(
    ("processors", "processes", "expected"), [(8, 2, 4), (8, 3, 3), (2, 4, 1), (1, 1, 1)]
)
def test_processors_are_shared_out(processors: int, processes: int, expected: int) -> None:
    assert part(processors, processes) == expected


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_port_of_another_server_is_found_out_even_if_it_would_be_shared(transport: str) -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("::", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"port {port}"):
            bind_ports(config(port=port), transport)
        with pytest.raises(AddressInUse, match="--rest_api_port=auto"):
            bind_ports(config(port=None, rest_api_port=port), transport)


def test_nobody_can_connect_before_a_worker_listens() -> None:
    ports = bind_ports(config(port=None, rest_api_port=None), "native")
    try:
        for port in (ports.grpc_port, ports.http_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        assert set(ports.passed) == {"grpc", "http"}
        assert ports.addresses == [
            f"0.0.0.0:{ports.grpc_port}",
            f"http://0.0.0.0:{ports.http_port}",
        ]
    finally:
        ports.close()


def test_without_http_there_is_one_address() -> None:
    ports = bind_ports(config(port=None), "grpcio")
    try:
        assert (ports.http_port, ports.passed, len(ports.addresses)) == (0, {}, 1)
    finally:
        ports.close()


def test_how_a_process_ended_is_said_in_words() -> None:
    assert how_ended(3 << 8) == "ended with status 3"
    assert how_ended(signal.SIGSEGV) == "was ended by SIGSEGV"
    assert "memory" in how_ended(signal.SIGKILL)
    assert os.WIFSIGNALED(signal.SIGKILL)
