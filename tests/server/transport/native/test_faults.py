"""What befalls a process and its connections: good callers are answered beside it, or after it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal, until
from server.conftest import Identities
from server.transport.native.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    Connection,
    frame,
    headers,
    message,
)
from transports import TRANSPORTS, LimitedTransport, require

from ladle.server.call import Call, NonBlocking
from ladle.server.limits import ByteBudget, Limits

SERVER = """
import os, resource, sys, threading
from ladle.server.call import NonBlocking
from ladle.server.transport.native.transport import NativeTransport

def make():
    transport = NativeTransport(
        {"/a/B": NonBlocking(lambda call: call.respond(b"%d" % len(call.request)))},
        max_threads=1,
        compressed_requests=True,
    )
    return transport, transport.listen("127.0.0.1:0")

transport, port = make()
transport.start()
"""
WITHOUT_THREADS = """
other, _ = make()
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)  # root has no such limit
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    threading.Thread(target=int).start()
    print("threads can be had", flush=True)
except RuntimeError:
    try:
        other.start()
        print("it has started", flush=True)
    except (OSError, RuntimeError) as error:
        print("refused:", type(error).__name__, flush=True)
"""
FORKED = """
def forked(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(forked(int), forked(transport.enter_lame_duck), forked(transport.stop), flush=True)
"""
SIGNALLED = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
"""
TELLS_TIME = """
import time
transport.stop()
transport = NativeTransport(
    {
        "/a/Time": NonBlocking(lambda call: call.respond(b"%d" % time.time())),
        "/a/Never": NonBlocking(lambda call: None),
    },
    max_threads=1,
)
port = transport.listen("127.0.0.1:0")
transport.start()
"""
# As if somebody set the machine's clock a year ahead while the file is there.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && access(getenv("AHEAD"), F_OK) == 0)
        now->tv_sec += 31536000;
    return result;
}
"""
SERVE = """
print(port, flush=True)
sys.stdin.readline()
transport.stop(10)
"""

Serving = Callable[..., tuple["subprocess.Popen[str]", list[str]]]


def echo(call: Call) -> None:
    call.respond(call.request)


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Runs a server in a process of its own; returns it, and what it says up to its port."""
    require("native")
    processes: list[subprocess.Popen[str]] = []

    def start(fault: str = "", **variables: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            # Python warns of a fork among threads, which is what is tried.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SERVER + fault + SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        processes.append(process)
        assert process.stdout is not None
        said = [process.stdout.readline().strip()]
        while said[-1] and not said[-1].isdigit():
            said.append(process.stdout.readline().strip())
        return process, said

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Starts a transport that echoes, and returns its port."""
    require("native")
    started: list[LimitedTransport] = []

    def start(handler: Callable[[Call], None] = echo, **options: Any) -> int:
        transport = TRANSPORTS["native"]({"/a/B": NonBlocking(handler)}, max_threads=1, **options)
        port = transport.listen("127.0.0.1:0")
        transport.start()
        started.append(transport)
        return port

    yield start
    for transport in started:
        transport.stop()


def calling(channel: grpc.Channel) -> Any:
    return channel.unary_unary("/a/B", None, None)


def test_a_process_that_was_stopped_goes_on_with_the_callers_who_are_still_there(
    serving: Serving,
) -> None:
    process, (port,) = serving()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = calling(channel)
        assert call(b"1", timeout=TIMEOUT_S) == b"1"
        process.send_signal(signal.SIGSTOP)
        patient = call.future(b"22", timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=0.05)
        assert refusal(raised.value)[0] == "DEADLINE_EXCEEDED"
        process.send_signal(signal.SIGCONT)

        assert patient.result() == b"2"
        assert call(b"", timeout=TIMEOUT_S) == b"0"
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")
    assert process.returncode == 0


def test_signals_disturb_no_call(serving: Serving) -> None:
    """Each interrupts what the process waits for."""
    process, (port,) = serving(SIGNALLED)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = calling(channel)
        for number in range(100):
            for _ in range(5):
                process.send_signal(signal.SIGUSR1)
            assert call(bytes(number), timeout=TIMEOUT_S) == b"%d" % number
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems load libraries otherwise")
def test_a_clock_that_jumps_ends_no_call_and_keeps_none(serving: Serving, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no cc to make a clock with")
    source, library, ahead = (tmp_path / name for name in ("clock.c", "clock.so", "ahead"))
    source.write_text(JUMPING_CLOCK)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    _, (port,) = serving(TELLS_TIME, LD_PRELOAD=str(library), AHEAD=str(ahead))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary("/a/Time", None, None)
        never: Any = channel.unary_unary("/a/Never", None, None)
        patient = never.future(b"", timeout=TIMEOUT_S)
        before = int(ask(b"", timeout=TIMEOUT_S))
        for jump in (lambda: ahead.write_bytes(b""), ahead.unlink):
            jump()
            with pytest.raises(grpc.RpcError) as raised:
                never(b"", timeout=0.1)
            assert refusal(raised.value)[0] == "DEADLINE_EXCEEDED"
            now = int(ask(b"", timeout=TIMEOUT_S))
            assert (now - before > 300 * 86_400) == ahead.exists(), "the clock has jumped"
        assert not patient.done()
        patient.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound threads otherwise")
def test_where_no_thread_can_be_had_callers_are_answered_and_no_other_server_starts(
    serving: Serving,
) -> None:
    process, (outcome, port) = serving(WITHOUT_THREADS)
    if outcome == "threads can be had":
        pytest.skip("this system does not keep RLIMIT_NPROC")
    assert outcome in ("refused: OSError", "refused: RuntimeError")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = calling(channel)
        assert call(b"small", timeout=TIMEOUT_S) == b"5"
        # Large messages are inflated by other threads.
        large = bytes(1 << 20)
        inflated = call(large, compression=grpc.Compression.Gzip, timeout=TIMEOUT_S)
        assert inflated == b"%d" % (1 << 20)
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")


def test_forked_children_end_and_take_nothing_from_their_parent(serving: Serving) -> None:
    """Not even one that stops its copy of the transport."""
    process, (children, port) = serving(FORKED)
    assert children == "0 0 0"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert calling(channel)(b"1", timeout=TIMEOUT_S) == b"1"
    assert process.communicate("\n", timeout=TIMEOUT_S) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["none", "begun"])
def test_handshakes_that_never_end_cost_others_nothing_and_are_few_after_a_second(
    start: Callable[..., int], identities: Identities, tmp_path: Path, greeting: bytes
) -> None:
    path = tmp_path / "ssl.pbtxt"
    path.write_text(str(identities.config()))
    port = start(tls=path)
    credentials = grpc.ssl_channel_credentials(identities.authority.certificate.encode())
    with ExitStack() as silent:
        waiting = []
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            connection.sendall(greeting)
            waiting.append(silent.enter_context(connection))
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            assert calling(channel)(b"good", timeout=TIMEOUT_S) == b"good"

        def ended() -> int:
            polling = select.poll()
            for each in waiting:
                polling.register(each, select.POLLIN)
            return len(polling.poll(0))

        until(lambda: ended() >= 300 - 256)
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            assert calling(channel)(b"good", timeout=TIMEOUT_S) == b"good"


def test_a_caller_who_half_closes_a_connection_has_left_its_calls(
    start: Callable[..., int],
) -> None:
    """So it is with gRPC: without a way to read, nothing of HTTP/2 can go on."""
    came, over = threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        call.on_end(over.set)
        came.set()

    with socket.create_connection(("127.0.0.1", start(hold)), TIMEOUT_S) as caller:
        caller.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0)
            + frame(HEADERS, END_HEADERS, 1, headers("/a/B"))
            + frame(DATA, END_STREAM, 1, message(b"x"))
        )
        assert came.wait(TIMEOUT_S)
        caller.shutdown(socket.SHUT_WR)
        assert over.wait(TIMEOUT_S)
        while caller.recv(4096):
            pass  # the server ends it, too


def test_a_call_that_its_caller_never_ends_is_answered_and_over(
    start: Callable[..., int],
) -> None:
    """The message is all there; what else may come does not matter."""
    port = start()
    with Connection(port) as connection:
        for number in range(1, 600, 2):  # twice as many as there are places
            connection.send(
                frame(HEADERS, END_HEADERS, number, headers("/a/B"))
                + frame(DATA, 0, number, message(b"x"))
            )
            assert connection.wait_for(DATA) == message(b"x")


def test_while_python_takes_nothing_messages_are_refused_past_the_budget(
    start: Callable[..., int],
) -> None:
    reading, writing = os.pipe()

    def block(call: Call) -> None:
        os.read(reading, 1)
        call.respond(b"")

    budget = ByteBudget(1_000_000)
    port = start(block, limits=Limits(200_000, budget))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [calling(channel).future(bytes(100_000), timeout=TIMEOUT_S) for _ in range(20)]
        try:
            until(lambda: sum(call.done() for call in calls) == 10)
            assert budget.used == 1_000_000
        finally:
            os.write(writing, bytes(20))
        outcomes = [call.exception() for call in calls]
    codes = [refusal(error)[0] for error in outcomes if error is not None]
    assert codes == ["RESOURCE_EXHAUSTED"] * 10
    until(lambda: budget.used == 0)
    os.close(reading)
    os.close(writing)
