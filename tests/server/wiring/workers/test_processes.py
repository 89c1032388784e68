"""`ladle serve --workers=2`, as an operator sees it: deaths, reloads, metrics, ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e.serving import COMMAND, ServerProcess, serve_in_vain
from fakes import TIMEOUT_S, until
from saved_models import write_half_plus_two

from ladle.client import Client
from ladle.protos.serving_pb import ReloadConfigRequest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="--workers is for Linux"),
]

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("models") / "half"
    write_half_plus_two(base_path / "1")
    return base_path


def workers_of(pid: int) -> set[int]:
    """The processes that one has started and that have not ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if is_alive(int(child))}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def fetch(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(server.url + path, timeout=TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text


def ready(server: ServerProcess) -> int:
    workers: dict[str, Any] = json.loads(fetch(server, "/status.json"))["server"]["workers"]
    assert workers["expected"] == 2
    return int(workers["ready"])


def answered(server: ServerProcess) -> int:
    """How many requests were answered, by the metrics of any worker."""
    text = fetch(server, "/monitoring/prometheus/metrics")
    found = re.search(r'ladle_requests_total\{model="half".*method="Predict".*\} (\d+)', text)
    return int(found[1]) if found else 0


def predict(server: ServerProcess, times: int) -> None:
    for _ in range(times):
        with Client(server.address) as client:  # connections of its own
            assert client.predict("half", {"x": [[1.0]]})["y"].tolist() == [[2.5]]


def reload(server: ServerProcess, base_path: Path, version: int) -> None:
    request = ReloadConfigRequest()
    model = request.config.model_config_list.config.add(
        name="half", base_path=str(base_path), model_platform="tensorflow"
    )
    model.version_labels["stable"] = version
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(RELOAD, None, None)
        call(request.SerializeToString(), timeout=TIMEOUT_S)


def test_two_workers_serve_as_one_and_one_of_them_can_die(base_path: Path) -> None:
    with ServerProcess("half", base_path, "--rest_api_port=auto", "--workers=2") as server:
        until(lambda: ready(server) == 2)
        before = workers_of(server.pid)
        assert len(before) == 2
        predict(server, 12)
        for _ in range(4):  # by any worker, once it has heard the others
            until(lambda: answered(server) == 12)

        killed = min(before)
        subprocess.run(["kill", "-KILL", str(killed)], check=True)
        until(lambda: len(workers_of(server.pid) - {killed}) == 2)
        predict(server, 6)
        until(lambda: answered(server) == 18)

        with pytest.raises(grpc.RpcError) as refused:
            reload(server, base_path, version=7)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        reload(server, base_path, version=1)
        for _ in range(6):
            with Client(server.address) as client:
                assert client.predict("half", {"x": [[1.0]]}, label="stable").version == 1

        code, log = server.stop()
        assert code == 0, log
        assert "was ended by SIGKILL" in log
        assert workers_of_ended(log) == set()


def workers_of_ended(log: str) -> set[int]:
    """The workers that a log names and that have not ended."""
    return {int(pid) for pid in re.findall(r"starts pid=(\d+)", log) if is_alive(int(pid))}


def test_workers_end_with_their_supervisor_and_leave_the_port(base_path: Path) -> None:
    with socket.socket() as reserved:  # so that nobody else takes the port before the supervisor
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("", 0))
        port = reserved.getsockname()[1]
        flags = [f"--port={port}", "--reuse_port", f"--model_base_path={base_path}"]
        supervisor = subprocess.Popen(
            [*COMMAND, *flags, "--workers=2"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert supervisor.stderr is not None
        pids: list[int] = []
        while len(pids) < 2:
            line = supervisor.stderr.readline()
            assert line, "the supervisor has ended"
            pids += map(int, re.findall(rb"starts pid=(\d+)", line))
        supervisor.send_signal(signal.SIGKILL)
        supervisor.communicate(timeout=2 * TIMEOUT_S)  # the workers have its standard error
        until(lambda: not any(map(is_alive, pids)))
    with socket.socket() as again:
        again.bind(("", port))


def test_a_start_that_can_not_succeed_ends_with_one_line(tmp_path: Path) -> None:
    flags = ("--port=auto", "--workers=2", f"--model_base_path={tmp_path}")
    code, said = serve_in_vain(*flags)
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("ladle serve:")]
    assert "--model_base_path" in line
    assert "Traceback" not in said
