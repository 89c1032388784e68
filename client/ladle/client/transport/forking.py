"""Keeps gRPC usable in a child process that was forked from a process with clients.

gRPC's core can be forked only while no other thread is inside it; otherwise the child may hang
whatever its timeouts are. So a fork waits a moment for the calls of this process to end, and holds
back new ones. If a call does not end in time, the child's clients raise at once.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from threading import Condition

DRAIN_S = 1.0
"""How long a fork waits for calls in flight."""

_ADVICE = (
    "start the process before the first call, or by multiprocessing's "
    '"spawn" or "forkserver" method'
)


class ForkGate:
    """Counts the uses of gRPC in this process, and holds them back during a fork. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.generation = 0
        """How many forks lie between this process and the one that imported ladle."""
        self.problem = ""
        """Why gRPC does not work in this process; empty if it does."""
        self.asyncio_problem = ""
        """Why gRPC's asyncio does not work in this process; empty if it does."""
        self._now = now
        self._calls = 0
        self._streams = 0
        self._asyncio_clients = 0
        self._condition = Condition()
        self._is_forking = False

    def enter(self) -> None:
        """Begin a call of a bounded time; blocks while another thread forks."""
        with self._condition:
            while self._is_forking:
                self._condition.wait()
            self._calls += 1

    def leave(self) -> None:
        """End such a call."""
        with self._condition:
            self._calls -= 1
            if self._is_forking:
                self._condition.notify_all()

    def open_stream(self) -> None:
        """Begin a use that may last; a fork does not wait for it, and the child gets a problem."""
        with self._condition:
            self._streams += 1

    def close_stream(self) -> None:
        """End such a use."""
        with self._condition:
            self._streams -= 1

    def open_asyncio(self) -> None:
        """Note that an event loop of this process has channels, whose thread no fork copies."""
        with self._condition:
            self._asyncio_clients += 1

    def close_asyncio(self) -> None:
        """Note that the channels of one event loop are closed."""
        with self._condition:
            self._asyncio_clients -= 1

    def check(self, generation: int, what: str) -> None:
        """Check that `what` was begun in this process.

        Raises:
            RuntimeError: It was begun in the parent, whose threads and calls don't exist here.
        """
        if generation != self.generation:
            raise RuntimeError(f"{what}: begun before this process was forked; begin it here anew")

    def before_fork(self) -> None:
        """Hold back new calls, and wait for those in flight. The lock is kept during the fork."""
        self._condition.acquire()
        self._is_forking = True
        if not self._streams:
            deadline = self._now() + DRAIN_S
            while self._calls and (left_s := deadline - self._now()) > 0:
                self._condition.wait(left_s)

    def after_fork_in_parent(self) -> None:
        """Let calls go on."""
        self._is_forking = False
        self._condition.notify_all()
        self._condition.release()

    def after_fork_in_child(self) -> None:
        """Start counting anew, since no other thread of the parent exists here."""
        if self._calls or self._streams:
            self.problem = (
                "this process was forked while other threads of its parent were calling, so gRPC "
                f"does not work in it; {_ADVICE}"
            )
        if self._asyncio_clients:
            self.asyncio_problem = (
                "this process was forked while an AsyncClient of its parent was open, so gRPC's "
                f"asyncio does not work in it; close the AsyncClient before the fork, {_ADVICE}"
            )
        if self.problem or self.asyncio_problem:
            # What the parent's threads were at work on has lost its stack. Python crashed where its
            # garbage collection went over that, or freed what gRPC was using.
            gc.freeze()
        self.generation += 1
        self._calls = self._streams = self._asyncio_clients = 0
        self._condition = Condition()  # the parent's threads may have held parts of the old one
        self._is_forking = False


GATE = ForkGate()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=GATE.before_fork,
        after_in_parent=GATE.after_fork_in_parent,
        after_in_child=GATE.after_fork_in_child,
    )
