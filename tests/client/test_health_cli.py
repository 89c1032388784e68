from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ladle.client.health_cli import main

Status = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server that serves, but for its model `sick`."""
    servicer = health.HealthServicer()
    servicer.set("", Status.SERVING)
    servicer.set("sick", Status.NOT_SERVING)
    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(executor)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_server_that_serves_is_success(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([address]) == 0
    assert capsys.readouterr().out == f"{address}: serving\n"


def test_a_model_that_does_not_serve_is_failure(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, "--service", "sick"]) == 1
    assert capsys.readouterr().out == f"{address} (sick): not serving\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--service", "unheard-of"], "(unheard-of): "),
        (["--ca", "/no/such.pem"], "/no/such.pem"),
        (["--server-name", "models.test"], "Check at "),
        (["--tls"], "Check at "),
    ],
)
def test_what_goes_wrong_is_one_line(
    address: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert len(shown.err.splitlines()) == 1


def test_where_nobody_listens_is_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1", "--timeout", "0.2"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_half_a_pair_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for half in ("--certificate", "--key"):
        with pytest.raises(SystemExit, match="2"):
            main([half, "/no/such.pem"])
        assert "--certificate and --key: expected both or neither" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_has_to_be_one(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--timeout", seconds])
    assert "expected seconds, more than 0" in capsys.readouterr().err
