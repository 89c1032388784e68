"""A stop loses nothing of what callers send who watch no health."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import grpc
from fakes import TIMEOUT_S
from transports import TRANSPORTS, LimitedTransport, require

from ladle.server.call import NonBlocking

STOPS = 6
CALLS_BETWEEN = 200


def started(port: int = 0) -> tuple[LimitedTransport, int]:
    method = NonBlocking(lambda call: call.respond(b""))
    transport = TRANSPORTS["native"]({"/a/B": method}, max_threads=1)
    port = transport.listen(f"127.0.0.1:{port}")
    transport.start()
    return transport, port


class Calls:
    """Eight calls at a time, without end, and what became of them."""

    def __init__(self, call: Any) -> None:
        self.outcomes: Counter[str] = Counter()
        self._call = call
        self._changed = threading.Condition()
        self._stopping = False
        self._under_way = 0

    def start(self) -> None:
        for _ in range(8):
            self._send()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            assert self._changed.wait_for(lambda: not self._under_way, TIMEOUT_S)

    def wait_for(self, count: int) -> None:
        """Block until so many more have ended."""
        with self._changed:
            until = self.outcomes.total() + count
            assert self._changed.wait_for(lambda: self.outcomes.total() >= until, TIMEOUT_S)

    def _send(self) -> None:
        with self._changed:
            if self._stopping:
                return
            self._under_way += 1
        self._call.future(b"", timeout=TIMEOUT_S).add_done_callback(self._ended)

    def _ended(self, future: Any) -> None:
        with self._changed:
            self._under_way -= 1
            self.outcomes[f"{future.code().name} {future.details()}".strip()] += 1
            self._changed.notify_all()
        self._send()


def test_servers_that_stop_in_turn_under_round_robin_lose_no_call() -> None:
    """GOAWAY goes out first, and what comes until a caller has seen it is answered.

    What was not taken any more is sent again by gRPC itself, which GOAWAY allows.
    """
    require("native")
    servers = [started() for _ in range(2)]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in servers)
    options = [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        call(b"", timeout=TIMEOUT_S, wait_for_ready=True)
        calls = Calls(call)
        calls.start()
        for number in range(STOPS):
            calls.wait_for(CALLS_BETWEEN)
            transport, port = servers[number % 2]
            transport.stop(TIMEOUT_S)
            servers[number % 2] = started(port)
            # The other one stops only once this one is found again.
            began = servers[number % 2][0].calls
            while servers[number % 2][0].calls == began:
                calls.wait_for(1)
        calls.stop()
    for transport, _ in servers:
        transport.stop()

    assert set(calls.outcomes) == {"OK"}
