"""The examples of proxies: each takes its file; a server that drains behind one fails no call."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import yaml
from fakes import TIMEOUT_S, FakeLoader, FakeServable, until

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server import Config, Server
from ladle.server.core.servable_id import ServableId

PROXIES = Path(__file__).resolve().parents[2] / "deploy" / "proxies"
# How many calls go through after the end of the drain.
CALLS = 50


def binary(name: str, source: str = "`.ci/debian-packages` installs it") -> str:
    """Where a proxy is; the test is skipped where there is none."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name) or shutil.which(name, path=f"{beside}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name}; {source}")
    return found


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def written(name: str, folder: Path, addresses: Mapping[str, str]) -> Path:
    """Write the file `name` with its addresses replaced, and return where."""
    text = (PROXIES / name).read_text()
    for given, other in addresses.items():
        assert given in text, given
        text = text.replace(given, other)
    path = folder / name
    path.write_text(text)
    return path


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[list[Server], list[FakeServable]]]:
    (folder / "m" / "1").mkdir(parents=True)
    with ExitStack() as stack:
        servers, servables = [], []
        for _ in range(2):
            config = Config(
                port=None,
                rest_api_port=None,
                model_name="m",
                model_base_path=str(folder / "m"),
                drain_grace_seconds=9,
                enable_batching=False,  # a comparison would be one more run, and look like a call
            )
            loader = FakeLoader()
            server = Server(config, load=loader)
            server.start()
            servables.append(loader.loaded[ServableId("m", 1)])
            stack.callback(server.stop, lame_duck=False)
            servers.append(server)
        yield servers, servables


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def grpc_call(port: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What predicts by gRPC without retries, and what ends it."""
    options = [("grpc.enable_retries", 0)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    method: Any = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        PredictRequest.SerializeToString,
        PredictResponse.FromString,
    )
    request = PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 2), np.float32)))
    return lambda: method(request, timeout=TIMEOUT_S), channel.close


def http_call(port: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What predicts by REST, and what ends it."""
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S)

    def ask() -> None:
        client.post("/v1/models/m:predict", json={"instances": [[1, 2]]}).raise_for_status()

    return ask, client.close


COMMANDS = {
    "haproxy": ("haproxy.cfg", ["-db", "-f"]),
    "nginx": (
        "nginx.conf",
        ["-g", "daemon off; pid nginx.pid; error_log stderr;", "-p", ".", "-c"],
    ),
    "envoy": ("envoy.yaml", ["--disable-hot-restart", "--concurrency", "1", "-c"]),
}
# The lame duck of the tests is three seconds long, and one where no more requests come.
SOONER = {
    "haproxy": {" port 8501 inter 1s": " inter 100ms"},
    "envoy": {" interval: 1s": " interval: 0.1s"},
}


@pytest.mark.parametrize("proxy", COMMANDS)
def test_a_server_that_drains_behind_a_proxy_fails_no_call(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = binary(proxy)
    name, arguments = COMMANDS[proxy]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    ports = {"8600": free_port(), "8601": free_port()}
    with two_servers(tmp_path) as (servers, servables):
        addresses = {port: str(other) for port, other in ports.items()}
        for number, server in enumerate(servers, 1):
            grpc_port, http_port = (a.rpartition(":")[2] for a in server.addresses)
            checked = f" port {http_port}" if proxy == "haproxy" else ""
            between = ", port_value: " if proxy == "envoy" else ":"
            for given, own in ("8500", grpc_port), ("8501", http_port):
                addresses[f"ladle-{number}{between}{given}"] = f"127.0.0.1{between}{own}{checked}"
        addresses |= SOONER.get(proxy, {})
        path = written(name, tmp_path, addresses)
        with ExitStack() as stack:
            stack.enter_context(running([program, *arguments, str(path)]))
            by_grpc, close_grpc = grpc_call(ports["8600"])
            stack.callback(close_grpc)
            by_http, close_http = http_call(ports["8601"])
            stack.callback(close_http)
            for call in by_grpc, by_http:
                reach_all(call, servables)
            drained = threading.Thread(target=servers[0].stop)
            drained.start()
            left = CALLS
            while left:
                by_grpc()
                by_http()
                left -= not drained.is_alive()
            drained.join()


def reach_all(call: Callable[[], Any], servables: list[FakeServable]) -> None:
    """Call until every server has answered: then the proxy has found all of them healthy."""
    before = [len(servable.batches) for servable in servables]
    until(
        lambda: (
            answers(call)
            and all(len(s.batches) > b for s, b in zip(servables, before, strict=True))
        )
    )


def answers(call: Callable[[], Any]) -> bool:
    try:
        call()
    except (grpc.RpcError, httpx.HTTPError):
        return False
    return True


def test_the_proxies_are_alike() -> None:
    """All have the same ports, and check health more often than a drain lasts."""
    clusters = yaml.safe_load((PROXIES / "envoy.yaml").read_text())["static_resources"]["clusters"]
    for cluster in clusters:
        (check,) = cluster["health_checks"]
        assert int(check["interval"][:-1]) * check["unhealthy_threshold"] < 5
    for path in PROXIES.iterdir():
        text = path.read_text()
        for named in "8600", "8601", "8500", "8501", "ladle-1", "ladle-2":
            assert named in text, (path, named)
