"""ladle on Ray Serve, a cluster of two nodes, and the clients of TensorFlow Serving and ladle."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fakes import until

from ladle.client import Client, DeadlineExceeded, InvalidInput, NotFound, Unimplemented

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-ray" / "bin" / "python"
PROGRAM = ROOT / "tests" / "conformance" / "ray_cluster.py"
OFFICIAL = ROOT / "tests" / "conformance" / "official_client.py"
IMAGES = np.zeros((3, 8, 8), np.uint8)


class Cluster:
    """The program in a process of its own."""

    def __init__(self, model: str, base_path: Path) -> None:
        self.base_path = base_path
        self.lines: list[str] = []
        config = ROOT / "deploy" / "ray" / "serve.yaml"
        self._process = subprocess.Popen(
            [str(PYTHON), str(PROGRAM), model, str(base_path), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.address = self._next()

    def deploy(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._next() == "deployed"

    def stop(self) -> None:
        """End the cluster, and read the rest of what it says."""
        rest, _ = self._process.communicate()
        self.lines += rest.splitlines()
        assert self._process.returncode == 0, "\n".join(self.lines[-30:])

    def _next(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if line.startswith("ray_cluster: "):
                return line.removeprefix("ray_cluster: ").strip()
        raise AssertionError("".join(self.lines[-30:]))


@pytest.fixture(scope="module")
def cluster(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON}; `make engines-test` makes it")
    base_path = tmp_path_factory.mktemp("ray") / "digits"
    shutil.copytree(digits, base_path)
    cluster = Cluster("digits", base_path)
    yield cluster
    cluster.stop()
    # Ray would log each failed request with a traceback, of the replica and of the proxy.
    assert not any("Servable not found" in line for line in cluster.lines)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, timeout=60) as client:
        yield client


def test_the_clients_of_tensorflow_serving_and_ladle_get_the_same(
    cluster: Cluster, conformance_python: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    done = subprocess.run(
        [
            *(conformance_python, str(OFFICIAL), "upstream", cluster.address, "digits"),
            str(tmp_path / "images.npy"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    upstream, ladle = told["upstream"], told["ladle"]
    assert "serving_uint8" in upstream.pop("signatures")
    np.testing.assert_allclose(ladle.pop("probabilities"), upstream.pop("probabilities"), atol=1e-5)
    assert ladle == upstream
    assert "Servable" in upstream["unknown"]


def test_statuses_arrive(client: Client) -> None:
    assert client.health()
    for _ in range(20):
        with pytest.raises(NotFound, match=r"Servable not found for request: Latest\(nope\)"):
            client.predict("nope", IMAGES)
    with pytest.raises(InvalidInput):
        client.predict("digits", IMAGES, outputs="nope")
    with pytest.raises(DeadlineExceeded):
        client.predict("digits", IMAGES, timeout=0.0005)
    with pytest.raises(Unimplemented, match="a reload reaches one replica of many"):
        client.reload({"digits": "/elsewhere"})
    with pytest.raises(Unimplemented):
        client.models()


def test_large_messages_and_streams_pass(client: Client) -> None:
    answer = client.predict("digits", np.zeros((20_000, 8, 8), np.float32), normalize=None)
    assert answer["probabilities"].shape == (20_000, 10)
    assert len(list(client.stream("digits", [IMAGES] * 50))) == 50


def test_a_redeploy_under_load_fails_no_request(cluster: Cluster, client: Client) -> None:
    stop = threading.Event()

    def ask() -> int:
        answered = 0
        while not stop.is_set():
            client.predict("digits", IMAGES)
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        cluster.deploy()
        stop.set()
        assert all(asked.result() > 0 for asked in asking)


def test_a_new_version_takes_over_in_every_replica_without_a_redeploy(
    cluster: Cluster, client: Client
) -> None:
    (old,) = (int(path.name) for path in cluster.base_path.iterdir() if path.name.isdigit())
    shutil.copytree(cluster.base_path / str(old), cluster.base_path / str(old + 1))

    def is_new() -> bool:
        return {client.predict("digits", IMAGES).version for _ in range(20)} == {old + 1}

    until(is_new)
