"""Callers who mean harm, and a machine with no more to give: good callers are answered."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, until
from server.transport.native.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    Connection,
    frame,
    headers,
    literal,
    message,
)
from transports import TRANSPORTS, LimitedTransport, require

from ladle.server.call import Call, NonBlocking
from ladle.server.limits import ByteBudget, Limits

SERVER = """
import os, resource, sys
from ladle.server.call import NonBlocking
from ladle.server.transport.native.transport import NativeTransport

transport = NativeTransport(
    {
        "/a/B": NonBlocking(lambda call: call.respond(call.request)),
        "/a/Silent": NonBlocking(lambda call: print("came", flush=True)),
    },
    max_threads=1,
)
port = transport.listen("127.0.0.1:0")
transport.start()
if limit := int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + limit,) * 2)
print(port, flush=True)
sys.stdin.readline()
"""


def echo(call: Call) -> None:
    call.respond(call.request)


@pytest.fixture
def server() -> Iterator[tuple[LimitedTransport, int]]:
    require("native")
    limits = Limits(1 << 20, ByteBudget(1 << 20))
    transport = TRANSPORTS["native"]({"/a/B": NonBlocking(echo)}, max_threads=1, limits=limits)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    yield transport, port
    transport.stop()


def is_answered(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        try:
            return bool(call(b"good", timeout=TIMEOUT_S, wait_for_ready=True) == b"good")
        except grpc.RpcError:
            return False


@pytest.mark.parametrize(
    "flood",
    [
        frame(SETTINGS, 0, 0) * 40_000,
        frame(PING, 0, 0, b"12345678") * 40_000,
        # A field in the table, and then one byte for each time that it is meant.
        frame(
            HEADERS,
            END_HEADERS,
            1,
            headers("/a/B") + b"\x40" + literal("x", "y" * 100)[1:] + b"\xbe" * 16_000,
        ),
        # A message that never ends, on a stream that was never begun, and one that is closed.
        frame(HEADERS, END_HEADERS, 1, headers("/a/B"))
        + frame(DATA, END_STREAM, 3, message(b"x")) * 1000,
    ],
    ids=["settings", "pings", "headers that unpack to megabytes", "streams that are none"],
)
def test_a_flood_costs_others_nothing_and_leaves_nothing(
    server: tuple[LimitedTransport, int], flood: bytes
) -> None:
    transport, port = server
    with Connection(port) as connection:
        with contextlib.suppress(OSError):  # it may have hung up already
            connection.send(flood)  # and reads nothing
        assert is_answered(port)
    assert is_answered(port)
    until(lambda: transport.limits.budget.used == 0)


@pytest.fixture
def serving() -> Iterator[Callable[[int], tuple[subprocess.Popen[str], int]]]:
    """Starts a server in a process of its own; 0, or how many descriptors it has left."""
    require("native")
    processes: list[subprocess.Popen[str]] = []

    def start(descriptors: int) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists descriptors there")
def test_where_descriptors_run_out_callers_wait_and_are_answered_later(
    serving: Callable[[int], tuple[subprocess.Popen[str], int]],
) -> None:
    process, port = serving(8)
    with ExitStack() as idle:
        for _ in range(20):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/a/B", None, None)
            waiting = call.future(b"good", timeout=TIMEOUT_S, wait_for_ready=True)
            idle.close()
            assert waiting.result() == b"good"
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")


def test_an_interpreter_that_ends_with_calls_under_way_ends(
    serving: Callable[[int], tuple[subprocess.Popen[str], int]],
) -> None:
    """Nobody has stopped the transport: the main thread just returned."""
    process, port = serving(0)
    assert is_answered(port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        silent: Any = channel.unary_unary("/a/Silent", None, None)
        under_way = silent.future(b"", timeout=TIMEOUT_S)
        assert process.stdout is not None
        assert process.stdout.readline() == "came\n"
        assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")
        assert under_way.exception().code() is grpc.StatusCode.UNAVAILABLE
    assert process.returncode == 0
