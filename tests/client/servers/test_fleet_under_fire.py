"""Servers that die and leave under steady load, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from ladle.client import Client

PIXELS = np.full((1, 2, 2), 51, np.uint8)
CALLERS = 8
TIMEOUT_S = 60.0


kinds = pytest.mark.parametrize("kind", ["ladle", "fake"])
"""Ladle's server takes streams, and the fake has nothing of ladle's."""


@contextmanager
def running(
    kind: str, folder: Path, *, version: int = 1, port: str = "0"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server; gives its process and address, and kills it at the end."""
    script = Path(__file__).with_name(f"{kind}_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), port, str(version), str(folder / str(version))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        process.stdout.close()


@contextmanager
def fleet(kind: str, folder: Path) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Start three servers, of versions 1, 2 and 3."""
    with ExitStack() as stack, ThreadPoolExecutor(3) as executor:
        starting = [running(kind, folder, version=version) for version in (1, 2, 3)]
        yield [*executor.map(stack.enter_context, starting)]


class Load:
    """Predicts in several threads until it is stopped, and counts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopped = False
        self._progress = threading.Condition()
        self.answered: Counter[int | None] = Counter()
        """How many predictions each version has answered, and so each server."""
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._predict) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Wait until so many more predictions are answered, or one has failed."""
        with self._progress:
            goal = self.answered.total() + more
            assert self._progress.wait_for(
                lambda: self.answered.total() >= goal or self.failures, TIMEOUT_S
            )

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _predict(self) -> None:
        while not self._stopped and not self.failures:
            try:
                prediction = self._client.predict("m", PIXELS)
                assert prediction["scores"].shape == (1, 2)
            except Exception as error:
                self.failures.append(error)
                version = None
            else:
                version = prediction.version
            with self._progress:
                self.answered[version] += 1
                self._progress.notify_all()


@pytest.mark.e2e
@kinds
def test_a_server_that_is_killed_and_one_that_is_drained_fail_no_call(
    kind: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(fleet(kind, tmp_path))
        client = stack.enter_context(Client([address for _, address in servers]))
        load = Load(client)
        stack.callback(load.stop)
        load.wait_for(300)
        servers[0][0].send_signal(signal.SIGKILL)
        load.wait_for(300)
        servers[1][0].send_signal(signal.SIGTERM)
        servers[1][0].wait(TIMEOUT_S)
        drained = load.answered[2]
        load.wait_for(300)
        load.stop()
        assert load.failures == []
        assert min(load.answered[version] for version in (1, 2, 3)) > 50  # all had their part
        assert load.answered[2] <= drained + CALLERS  # and who is gone has none
        assert [process.poll() is None for process, _ in servers] == [False, False, True]


@pytest.mark.e2e
def test_a_stream_over_a_fleet_outlives_two_of_its_servers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(fleet("ladle", tmp_path))
        addresses = [address for _, address in servers]
        calls: list[None] = []

        def token() -> str:
            calls.append(None)  # each call carries it
            return "token"

        client = stack.enter_context(Client(addresses, timeout=TIMEOUT_S, token=token, tls=False))
        inputs = (np.full((1, 2, 2), value % 256, np.uint8) for value in range(900))
        values, versions = [], set()
        for number, prediction in enumerate(client.stream("m", inputs, window=24)):
            values.append(round(float(prediction["scores"][0, 0]) * 255))
            versions.add(prediction.version)
            if number == 300:
                assert versions == {1, 2, 3}
                servers[0][0].send_signal(signal.SIGKILL)
            if number == 600:
                servers[1][0].send_signal(signal.SIGTERM)
        assert values == [value % 256 for value in range(900)]
        assert len(calls) < 100  # a few for the metadata and the streams, and none for an input


@pytest.mark.e2e
@kinds
def test_a_stream_outlives_its_server(kind: str, tmp_path: Path) -> None:
    """The server is killed in mid-stream and started anew: nothing is lost, nothing comes twice."""
    with ExitStack() as stack:
        process, address = stack.enter_context(running(kind, tmp_path))
        client = stack.enter_context(Client(address, timeout=TIMEOUT_S))
        inputs = (np.full((1, 2, 2), value, np.uint8) for value in range(200))
        values = []
        for prediction in client.stream("m", inputs, window=8):
            values.append(round(float(prediction["scores"][0, 0]) * 255))
            if len(values) == 50:
                process.kill()
                process.wait(TIMEOUT_S)
                stack.enter_context(running(kind, tmp_path, port=address.rpartition(":")[2]))
        assert values == [*range(200)]
