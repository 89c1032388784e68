"""FakeServing in a process of its own, with health checks: to be killed, or drained by SIGTERM.

Usage: fake_server.py PORT VERSION FOLDER, where port 0 stands for a free one.
"""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[2]))

from client.fakes import FakeServing, Handler, image_version

GRACE_S = 20.0


def main() -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(ThreadPoolExecutor(8))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    serving = FakeServing({int(sys.argv[2]): image_version(255)})
    server.add_generic_rpc_handlers([Handler(serving, lambda _: None)])
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    stopping.wait()
    servicer.enter_graceful_shutdown()
    server.stop(GRACE_S).wait()


if __name__ == "__main__":
    main()
