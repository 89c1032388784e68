"""Clients in processes that are forked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from client.fakes import FakeServing, image_version, listening
from fakes import TIMEOUT_S
from numpy.typing import NDArray

from ladle.client.testing import FunctionModel, FunctionServer
from ladle.client.transport.forking import DRAIN_S, ForkGate

CHILDREN = 10

# Forks processes, in what `mode` says; prints the outcomes of the calls in each.
PROGRAM = """
import asyncio, gc, os, signal, sys, threading
import numpy as np
from ladle.client import AsyncClient, Client

address, mode, children = sys.argv[1:]
x = np.zeros((1, 2, 2), np.uint8) if mode == "PredictStream" else np.zeros((1, 2), np.float32)
client = Client(address, timeout=20)

def attempt(make):
    try:
        client = make()
        for _ in range(3):
            client.predict("m", x)
        return "answered"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def run_async(client=None):
    async def predict():
        async with client or AsyncClient(address, timeout=20) as used:
            await used.predict("m", x)
    asyncio.run(predict())

def attempt_async(client=None):
    try:
        run_async(client)
        return "answered"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def call_for_ever():
    while True:
        client.predict("m", x)

if mode != "unused":
    client.predict("m", x)
if mode == "calling":
    for _ in range(4):
        threading.Thread(target=call_for_ever, daemon=True).start()
if mode == "stuck":
    threading.Thread(target=client.predict, args=("stuck", x), daemon=True).start()
    sys.stdin.readline()
if mode in ("streaming", "PredictStream"):
    stream = client.stream("m", [x] * 100, window=2)
    next(stream)
if mode == "asyncio":
    loop = asyncio.new_event_loop()
    other = AsyncClient(address)
    loop.run_until_complete(other.predict("m", x))
def in_flight(client, make):
    threading.Thread(target=asyncio.run, args=(make(client),), daemon=True).start()
    sys.stdin.readline()

async def stick(client):
    await client.predict("stuck", x)

async def stream_and_stick(client):
    async for _ in client.stream("m", [x] * 100, window=2):
        await client.predict("stuck", x)

if mode in ("asyncio in flight", "asyncio streaming"):
    other = AsyncClient(address, timeout=20)
    in_flight(other, stick if mode == "asyncio in flight" else stream_and_stick)
if mode == "asyncio ended":
    run_async()
if mode == "asyncio dropped":
    dropped = AsyncClient(address)
    asyncio.run(dropped.predict("m", x))
    del dropped
    gc.collect()

read, write = os.pipe()
pids = []
for _ in range(int(children)):
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        if mode in ("asyncio in flight", "asyncio streaming"):
            outcomes = [attempt_async(), attempt_async(other), attempt(lambda: client)]
        elif mode.startswith("asyncio"):
            outcomes = [attempt_async()]
        elif mode in ("streaming", "PredictStream"):
            outcomes = [attempt(lambda: client), attempt(lambda: next(stream))]
        else:
            outcomes = [attempt(lambda: client), attempt(lambda: Client(address, timeout=20))]
        os.write(write, "".join(f"{outcome}\\n" for outcome in outcomes).encode())
        os._exit(0)
    pids.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in pids]
os.close(write)
with open(read) as told:
    print(told.read(), end="")
# gRPC's asyncio, forked amid a call, may end the child whatever the child does: by a fault, or by
# a check of its own that fails.
is_amid = mode in ("asyncio in flight", "asyncio streaming")
endings = (0, signal.SIGSEGV, signal.SIGABRT) if is_amid else (0,)
assert {*statuses} <= {*endings}, statuses
assert mode in ("stuck", "PredictStream") or attempt(lambda: client) == "answered"
os._exit(0)
"""


@contextmanager
def serving(stuck: threading.Event, entered: threading.Event) -> Iterator[str]:
    def wait(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        entered.set()
        stuck.wait(TIMEOUT_S)
        return {"y": inputs["x"]}

    signature: Any = {"inputs": {"x": ("float32", (-1, 2))}, "outputs": {"y": ("float32", (-1, 2))}}
    models = {
        "m": FunctionModel(lambda inputs: {"y": inputs["x"]}, **signature),
        "stuck": FunctionModel(wait, **signature),
    }
    with FunctionServer(models) as server:
        try:
            yield server.address
        finally:
            stuck.set()


def outcomes(mode: str, children: int = CHILDREN) -> list[str]:
    """Return what came of the children's calls."""
    stuck, entered = threading.Event(), threading.Event()
    with (
        serving(stuck, entered) as address,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, address, mode, str(children)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        if mode in ("stuck", "asyncio in flight", "asyncio streaming"):
            assert entered.wait(TIMEOUT_S)
        told, _ = process.communicate("go\n", timeout=TIMEOUT_S)
        assert process.returncode == 0, told
        return told.splitlines()


@pytest.mark.parametrize("mode", ["unused", "used", "calling"])
def test_a_client_made_before_a_fork_works_in_the_child(mode: str) -> None:
    assert outcomes(mode) == ["answered"] * 2 * CHILDREN


def test_a_fork_amid_a_call_that_does_not_end_raises_at_once() -> None:
    told = outcomes("stuck", children=2)
    assert len(told) == 4
    for line in told:
        assert line.startswith("RuntimeError: "), line
        assert "start the process before the first call" in line


def test_a_stream_of_the_parent_raises_in_the_child_where_the_client_works() -> None:
    told = sorted(outcomes("streaming"))
    refused = "RuntimeError: stream: begun before this process was forked; begin it here anew"
    assert told == [refused] * CHILDREN + ["answered"] * CHILDREN


def test_an_open_predict_stream_makes_the_child_raise_at_once() -> None:
    server = FakeServing({1: image_version(255)})
    server.has_streams = True
    with listening(server) as address:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, address, "PredictStream", "2"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert process.returncode == 0, process.stderr
    told = sorted(process.stdout.splitlines())
    assert [line.partition(":")[0] for line in told] == ["RuntimeError"] * 4
    assert sum("start the process before the first call" in line for line in told) == 2
    assert sum("begun before this process was forked" in line for line in told) == 2


def test_an_async_client_that_is_open_at_a_fork_makes_those_of_the_child_raise() -> None:
    for line in outcomes("asyncio"):
        assert "close the AsyncClient before the fork" in line


@pytest.mark.parametrize("mode", ["asyncio in flight", "asyncio streaming"])
def test_a_fork_amid_a_call_or_a_stream_of_an_async_client_answers_nothing(mode: str) -> None:
    """A child that lives raises at once; gRPC ends some of the others, and never all."""
    told = outcomes(mode, children=16)
    assert len(told) >= 3
    assert len(told) % 3 == 0
    for line in told:
        assert line.startswith("RuntimeError: "), line
        assert "fork" in line
        assert "start the process before the first call" in line


@pytest.mark.parametrize("mode", ["asyncio ended", "asyncio dropped"])
def test_an_async_client_that_was_closed_before_a_fork_leaves_the_child_free(mode: str) -> None:
    assert outcomes(mode) == ["answered"] * CHILDREN


class TestGate:
    def test_a_child_counts_anew(self) -> None:
        gate = ForkGate()
        gate.before_fork()
        gate.after_fork_in_child()
        assert gate.generation == 1
        assert not gate.problem
        assert not gate.asyncio_problem
        gate.enter()  # nobody holds the lock
        gate.leave()

    def test_a_fork_waits_for_calls_no_longer_than_it_may(self) -> None:
        times = iter([0.0, DRAIN_S - 0.001, DRAIN_S])
        gate = ForkGate(now=lambda: next(times))
        gate.enter()
        gate.before_fork()
        gate.after_fork_in_child()
        assert "forked while other threads" in gate.problem

    def test_a_fork_waits_for_a_call_to_end_and_holds_back_the_next(self) -> None:
        gate, happened = ForkGate(now=lambda: 0.0), list[str]()
        forking, next_call = threading.Event(), threading.Event()

        def fork() -> None:
            gate.before_fork()
            happened.append("forked")
            forking.set()
            next_call.wait(TIMEOUT_S)
            gate.after_fork_in_parent()

        def call() -> None:
            forking.wait(TIMEOUT_S)
            next_call.set()
            gate.enter()
            happened.append("called")
            gate.leave()

        gate.enter()
        threads = [threading.Thread(target=target) for target in (fork, call)]
        for thread in threads:
            thread.start()
        happened.append("ended")
        gate.leave()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert happened == ["ended", "forked", "called"]

    def test_a_stream_is_not_waited_for(self) -> None:
        def now() -> float:
            raise AssertionError("waited")

        gate = ForkGate(now)
        gate.open_stream()
        gate.before_fork()
        gate.after_fork_in_child()
        assert gate.problem

    def test_what_was_begun_in_the_parent_is_refused(self) -> None:
        gate = ForkGate()
        gate.check(0, "stream")
        gate.before_fork()
        gate.after_fork_in_child()
        with pytest.raises(RuntimeError, match="stream: begun before this process was forked"):
            gate.check(0, "stream")
