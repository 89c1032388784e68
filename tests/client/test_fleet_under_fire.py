"""Servers that die and leave under steady load, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from ladle.client import Client

PIXELS = np.full((1, 2, 2), 51, np.uint8)
CALLERS = 8
PATIENCE_S = 60.0


@contextmanager
def running(address: str = "127.0.0.1:0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a fake server; gives its process and address, and kills it at the end."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fake_server.py")), address],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


class Load:
    """Predicts in several threads until it is stopped, and counts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopped = False
        self._progress = threading.Condition()
        self.answered = 0
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._predict) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Wait until so many more predictions are answered, or one has failed."""
        with self._progress:
            goal = self.answered + more
            assert self._progress.wait_for(
                lambda: self.answered >= goal or self.failures, PATIENCE_S
            )

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _predict(self) -> None:
        while not self._stopped and not self.failures:
            try:
                prediction = self._client.predict("m", PIXELS)
                assert prediction["scores"].shape == (1, 2)
            except Exception as error:
                self.failures.append(error)
            with self._progress:
                self.answered += 1
                self._progress.notify_all()


@pytest.mark.e2e
def test_a_server_that_is_killed_and_one_that_is_drained_fail_no_call() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(running()) for _ in range(3)]
        client = stack.enter_context(Client([address for _, address in servers]))
        load = Load(client)
        stack.callback(load.stop)
        load.wait_for(300)
        servers[0][0].send_signal(signal.SIGKILL)
        load.wait_for(300)
        servers[1][0].send_signal(signal.SIGTERM)
        servers[1][0].wait(PATIENCE_S)
        load.wait_for(300)
        load.stop()
        assert load.failures == []


@pytest.mark.e2e
def test_a_stream_outlives_its_server() -> None:
    """The server is killed in mid-stream and started anew: nothing is lost, nothing comes twice."""
    with ExitStack() as stack:
        process, address = stack.enter_context(running())
        client = stack.enter_context(Client(address, timeout=PATIENCE_S))
        inputs = (np.full((1, 2, 2), value, np.uint8) for value in range(200))
        values = []
        for prediction in client.stream("m", inputs, window=8):
            values.append(round(float(prediction["scores"][0, 0]) * 255))
            if len(values) == 50:
                process.kill()
                process.wait(PATIENCE_S)
                stack.enter_context(running(address))
        assert values == [*range(200)]
