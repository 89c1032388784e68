"""TensorFlow's own remote profiler, against a server under load."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from e2e.serving import ServerProcess

from ladle.client import Client

pytestmark = pytest.mark.e2e


def test_tensorflows_client_gets_a_trace_of_the_server_under_load(
    written_models: Path, tmp_path: Path
) -> None:
    import tensorflow as tf

    done = threading.Event()
    flag = "--file_system_poll_wait_seconds=0"
    with ServerProcess("half", written_models / "half_plus_two_tf2", flag) as server:

        def load() -> None:
            with Client(server.address) as client:
                while not done.is_set():
                    client.predict("half", {"x": np.ones((8, 1), np.float32)})

        thread = threading.Thread(target=load)
        thread.start()
        try:
            tf.profiler.experimental.client.trace(f"grpc://{server.address}", str(tmp_path), 1000)
        finally:
            done.set()
            thread.join()

    (trace,) = tmp_path.rglob("*xplane.pb")
    recorded = trace.read_bytes()
    assert b"/host:CPU" in recorded
    assert b"StatefulPartitionedCall" in recorded  # the model's own operation
