"""Callers who mean harm, and a machine with no more to give: good callers are answered."""

from __future__ import annotations

import contextlib
import os
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
from server.transport.native.harms import harms
from server.transport.native.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    Connection,
    frame,
    headers,
    message,
    window_update,
)
from transports import TRANSPORTS, LimitedTransport, require

from ladle.server.call import Call, NonBlocking
from ladle.server.limits import ByteBudget, Limits

LISTS_DESCRIPTORS = Path("/proc/self/fd").exists()
ROOM = 1 << 20
HARMS = harms("/a/B", b"x" * 1000, ROOM)
SERVER = """
import os, resource, sys
from ladle.server.call import NonBlocking
from ladle.server.limits import ByteBudget, Limits
from ladle.server.transport.native.transport import NativeTransport

transport = NativeTransport(
    {
        "/a/B": NonBlocking(lambda call: call.respond(call.request)),
        "/a/Silent": NonBlocking(lambda call: print("came", flush=True)),
    },
    max_threads=1,
    limits=Limits(1 << 20, ByteBudget(1 << 20)),
    compressed_requests=True,
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
    transport = TRANSPORTS["native"](
        {"/a/B": NonBlocking(echo)},
        max_threads=1,
        limits=Limits(ROOM, ByteBudget(ROOM)),
        compressed_requests=True,
    )
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
    ("path", "announced"), [("/a/None", 9), ("/a/B", ROOM + 1)], ids=["no method", "too large"]
)
def test_requests_that_come_after_their_refusals_leave_the_connection_alone(
    server: tuple[LimitedTransport, int], path: str, announced: int
) -> None:
    """Honest callers do so, where the network is slow or the server quick."""
    _, port = server
    rest = b""
    with Connection(port) as connection:
        for number in range(3000):
            stream = 2 * number + 1
            begun = frame(DATA, 0, stream, b"\0" + announced.to_bytes(4, "big"))
            connection.send(rest + frame(HEADERS, END_HEADERS, stream, headers(path)) + begun)
            connection.wait_for(HEADERS)
            rest = frame(DATA, END_STREAM, stream, b"rest")
        last = 2 * 3000 + 1
        good = frame(DATA, END_STREAM, last, message(b"good"))
        connection.send(rest + frame(HEADERS, END_HEADERS, last, headers("/a/B")) + good)
        assert connection.wait_for(DATA) == message(b"good")


@pytest.mark.parametrize("kind", HARMS)
def test_harm_costs_others_nothing_and_leaves_nothing(
    server: tuple[LimitedTransport, int], kind: str
) -> None:
    transport, port = server
    harm = HARMS[kind]
    descriptors = len(os.listdir("/proc/self/fd")) if LISTS_DESCRIPTORS else 0
    with Connection(port) as connection:
        with contextlib.suppress(OSError):  # it may have hung up already
            connection.send(harm.frames)
            if harm.half_closed:
                connection.half_close()
        until(lambda: is_answered(port))
        if harm.ends:
            connection.read_to_the_end()
    until(lambda: transport.limits.budget.used == 0)
    assert is_answered(port)
    if LISTS_DESCRIPTORS:
        until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_an_honest_caller_may_ask_for_signs_of_life_and_windows_beside_its_calls(
    server: tuple[LimitedTransport, int],
) -> None:
    """More such frames than a flood may have, but each beside a request."""
    _, port = server
    with Connection(port) as connection:
        for number in range(1, 1000, 2):
            connection.send(
                frame(HEADERS, END_HEADERS, number, headers("/a/B"))
                + frame(DATA, END_STREAM, number, message(b"x"))
                + frame(PING, 0, 0, b"12345678") * 5
                + window_update(0, 15) * 5
                + frame(PRIORITY, 0, number, bytes(5)) * 5
            )
            assert connection.wait_for(DATA) == message(b"x")


@pytest.mark.skipif(not LISTS_DESCRIPTORS, reason="only Linux tells what a process holds there")
def test_all_harms_together_leave_memory_threads_and_descriptors_where_they_were(
    serving: Callable[[int], tuple[subprocess.Popen[str], int]],
) -> None:
    """Without the bounds, each kind alone takes more than all of them may."""
    process, port = serving(0)
    assert is_answered(port)
    proc = Path(f"/proc/{process.pid}")

    def held() -> dict[str, int]:
        told = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return {name: int(told[name].split()[0]) for name in ("VmHWM", "Threads")} | {
            "descriptors": len(list((proc / "fd").iterdir()))
        }

    def harm(callers: int) -> None:
        with ExitStack() as stack:
            for each in HARMS.values():
                for _ in range(callers):
                    with contextlib.suppress(OSError):
                        stack.enter_context(Connection(port, timeout_s=1)).send(each.frames)
            until(lambda: is_answered(port))

    harm(callers=1)  # what a first time takes stays
    until(lambda: held()["descriptors"] < 20)
    before = held()
    harm(callers=3)
    until(lambda: held()["descriptors"] <= before["descriptors"])
    after = held()
    assert after["Threads"] <= before["Threads"] + 2, "two may inflate, and stay"
    assert after["VmHWM"] - before["VmHWM"] < 32 << 10, "KiB"
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")


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


@pytest.mark.skipif(not LISTS_DESCRIPTORS, reason="only Linux tells what a process holds there")
def test_an_idle_connection_takes_little_memory(
    serving: Callable[[int], tuple[subprocess.Popen[str], int]],
) -> None:
    process, port = serving(0)
    status = Path(f"/proc/{process.pid}/status")
    call = frame(HEADERS, END_HEADERS, 1, headers("/a/B")) + frame(
        DATA, END_STREAM, 1, message(b"")
    )

    def resident_kib() -> int:
        told = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(told["VmRSS"].split()[0])

    with ExitStack() as stack:

        def connect(count: int) -> None:
            for _ in range(count):
                connection = stack.enter_context(Connection(port))
                connection.send(call)
                connection.wait_for(DATA)

        connect(100)  # what the first ones take stays
        before = resident_kib()
        connect(300)
        assert (resident_kib() - before) / 300 < 64


@pytest.mark.skipif(not LISTS_DESCRIPTORS, reason="only Linux lists descriptors there")
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
