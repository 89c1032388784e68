"""The native transport: network threads in Rust hand over whole lists of calls."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import ladle_native

from ladle.server.call import Gate, Handler, Methods, NonBlocking, Streaming
from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.limits import ByteBudget, Limits
from ladle.server.transport.addresses import (
    AddressInUse,
    bind,
    bind_host,
    check_address,
    in_use,
    make_way,
)
from ladle.server.transport.credentials import Pem
from ladle.server.transport.native.methods import Streams, Unary
from ladle.server.transport.native.options import MAX_CONNECTIONS, connection_options
from ladle.server.transport.native.pools import Pools
from ladle.server.transport.threads import SteadyPool

logger = logging.getLogger(__name__)

# Calls that wait for a thread hold their requests, which count; past this many they are refused.
_CALLS_PER_THREAD = 128
# For health, beside all others.
_OWN_ROOM = 1024
# How long the statuses of calls that are cut off have to be sent.
_LAST_S = 0.5
_MOST_AT_ONCE = 1024
_BACKLOG = 4096
# One of them carries 100,000 small calls a second: more than Python answers.
_NETWORK_THREADS = 1
_LONG_S = 3600.0
_COMPLAIN_EVERY_S = 60.0
# So often Python's thread goes on after a fault of ours; one that never stops would fill the log.
_MOST_FAULTS = 1000


class NativeTransport:
    """Serves methods on TCP ports and Unix sockets.

    Calls of blocking handlers take one of `max_threads` threads each. All others begin in the one
    thread that takes calls from the network threads, and are answered from anywhere.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        max_threads: int,
        max_waiting: int = 256,
        limits: Limits | None = None,
        options: Sequence[tuple[str, Any]] = (),
        credentials: Pem | None = None,
        gate: Gate | None = None,
        compressed_requests: bool = False,
    ) -> None:
        """Make a transport that listens nowhere yet, and has no network threads.

        Args:
            methods: what it serves.
            max_threads: how many calls of blocking handlers are handled at a time.
            max_waiting: how many calls may wait at a time for what is still to come, beside them.
            limits: what requests may take; several transports may share them. By default what
                gRPC itself can take.
            options: gRPC's channel arguments. Those that `options.py` lacks have no effect.
            credentials: put all addresses behind TLS, Unix sockets too, as upstream does.
            gate: is asked of every call, whatever it is to; without one all are let through.
            compressed_requests: take compressed messages, which are inflated within the limits.

        Raises:
            ValueError: An option has a value that it can't have.
        """
        limits = self.limits = limits or Limits((1 << 31) - 1, ByteBudget(1 << 62))
        given = connection_options(options)
        self._shares_ports = given.shares_ports
        self._max_connections = given.max_connections
        self._turned_away = 0
        self._complained = -_COMPLAIN_EVERY_S
        self._working = SteadyPool(max_threads, "grpc")
        self._waiting = SteadyPool(max_waiting, "waiting")
        self._gate = gate
        self._threads: list[threading.Thread] = []
        self._sockets: list[tuple[str, int]] = []  # Unix sockets: path and inode
        self._stop_at: float | None = None
        self._process: int | None = None
        pools = Pools(working=self._working, waiting=self._waiting)
        self._streams = Streams(pools, limits)
        self._network = ladle_native.Network(
            [
                (
                    path,
                    isinstance(method, Streaming),
                    getattr(method, "has_own_room", False),
                    _alike(method),
                    self._streams.beginning(method)
                    if isinstance(method, Streaming)
                    else Unary(method, pools, limits).begin,
                )
                for path, method in methods.items()
            ],
            _native_budget(limits.budget),
            now=time.monotonic(),
            max_request_bytes=limits.max_request_bytes,
            max_calls=max_threads * _CALLS_PER_THREAD,
            max_own_calls=_OWN_ROOM,
            gated=gate is not None,
            compressed=compressed_requests,
            threads=_NETWORK_THREADS,
            max_connections=given.max_connections,
            max_concurrent_streams=given.max_concurrent_streams,
            max_metadata_bytes=given.max_metadata_bytes,
            keepalive_s=given.keepalive_s,
            keepalive_timeout_s=given.keepalive_timeout_s,
            max_age_s=given.max_age_s,
            max_age_grace_s=given.max_age_grace_s,
            tls=credentials,
        )

    @property
    def calls(self) -> int:
        """How many calls have come since `start`, refused ones included."""
        return self._network.begun

    def check(self, address: str) -> None:
        """Find out whether an address could be had; nobody can connect to it yet.

        Raises:
            AddressInUse: The address can't be had.
        """
        check_address(address, reuse_port=self._shares_ports)

    def listen(self, address: str) -> int:
        """Bind an address, `0.0.0.0:8500` or `unix:/path`, and return the port that it got.

        `fd:5` is a socket that is bound already, and belongs to the transport from now on.

        Raises:
            AddressInUse: It can't be bound.
        """
        path = address.removeprefix("unix:")
        if path != address:
            with _bound_path(path) as listening:
                self._network.listen(listening.detach(), True)
            self._sockets.append((path, os.stat(path).st_ino))
            return 0
        with _bound_port(address, shared=self._shares_ports) as listening:
            port: int = listening.getsockname()[1]
            self._network.listen(listening.detach(), False)
        return port

    def start(self) -> None:
        """Take calls from now on; returns at once."""
        self._process = os.getpid()
        # Neither this thread nor those of the network yield when they are woken: on a busy machine
        # a lone caller would wait 2 ms instead of 0.2, and many callers are answered as fast.
        thread = threading.Thread(target=self._take, name="take", daemon=True)
        try:
            thread.start()
            self._threads.append(thread)
            self._network.start()
        except BaseException:
            self._network.close()  # nothing is left running
            raise

    def enter_lame_duck(self) -> None:
        """Go on taking connections and calls, but ask callers to connect anew; never blocks."""
        if not self._is_a_forks:
            self._network.enter_lame_duck()

    def drain(self, grace_s: float) -> None:
        """Take no connections, and give calls under way `grace_s` seconds; returns at once."""
        if self._stop_at is None and not self._is_a_forks:
            self._stop_at = time.monotonic() + grace_s
            self._streams.stop()
            self._network.drain()

    def stop(self, grace_s: float = 0.0) -> None:
        """Drain, unless `drain` was called before, and return when every call has ended.

        In a forked child nothing is done: the calls and the threads are its parent's.
        """
        if self._is_a_forks:
            return
        self.drain(grace_s)
        assert self._stop_at is not None  # drain sets it
        if not self._network.wait_until_left(max(0.0, self._stop_at - time.monotonic())):
            self._network.end_calls(
                Unavailable("the server has stopped before the answer was there: ask another")
            )
            self._network.wait_until_left(_LAST_S)
        self._network.close()
        for thread in self._threads:
            thread.join()
        for executor in (self._working, self._waiting):
            executor.shutdown(wait=False, cancel_futures=True)
        for path, inode in self._sockets:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)

    @property
    def _is_a_forks(self) -> bool:
        """Whether this is a copy in a forked child, where locks may be held for ever."""
        return self._process not in (None, os.getpid())

    def _take(self) -> None:
        """Begin calls and tell streams what happens, until the network is closed."""
        for _ in range(_MOST_FAULTS):
            try:
                self._take_all()
                return
            except BaseException:  # a panic of Rust's is no Exception
                logger.exception("what came could not be taken")
        logger.critical("no more calls are taken: each time it failed")

    def _take_all(self) -> None:
        take, tell = self._network.take, self._streams.tell
        while (taken := take(_MOST_AT_ONCE, _LONG_S)) is not None:
            begun, events, arrived, refused = taken
            for begin, call in begun:
                begin(call)
            for kind, call_id, message in events:
                tell(kind, call_id, message)
            for call in arrived:
                self._let_through(call)
            for reason, code, text, count in refused:
                self._count_refused(reason, code, text, count)
            # What was taken is others' by now, and must not live until the next comes.
            begin = call = message = None  # type: ignore[assignment]
            del taken, begun, events, arrived, refused

    def _let_through(self, call: ladle_native.Call) -> None:
        assert self._gate is not None  # only gated calls wait
        try:
            self._gate(call.path, call.metadata("authorization"))
        except ServingError as error:
            call.fail(error)
        except Exception:
            # Whatever went wrong, nobody gets past.
            logger.exception("a call's token could not be checked")
            call.fail(ServingError("the server failed on this request", Code.INTERNAL))
        else:
            call.admit()

    def _count_refused(self, reason: str, code: int, text: str, count: int) -> None:
        if reason == "connections":
            self._complain(count)
            return
        if reason == "fault":
            logger.error("a call or a connection has ended by a fault of ours: %s", text)
            return
        error = ServingError(text, Code(code))
        error.reason = reason
        self.limits.refused(error, count)

    def _complain(self, count: int) -> None:
        """Say, once a minute at most, that connections were turned away."""
        self._turned_away += count
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_S:
            self._complained = now
            logger.warning(
                "connections were turned away: there are as many as may be max=%d turned_away=%d "
                "option=%s",
                self._max_connections,
                self._turned_away,
                MAX_CONNECTIONS,
            )


def _alike(
    method: Handler | NonBlocking | Streaming,
) -> tuple[list[tuple[list[int], int | None]], int | None, list[str]] | None:
    alike = method.alike if isinstance(method, NonBlocking) else None
    if alike is None:
        return None
    contents = [(list(path.fields), path.key) for path in alike.contents]
    return contents, alike.echo, list(alike.metadata)


def _native_budget(budget: ByteBudget) -> ladle_native.Budget:
    """Have what network threads count in count for all who share the budget."""
    if not isinstance(budget.counter, ladle_native.Budget):
        budget.count_with(ladle_native.Budget(budget.limit))
    assert isinstance(budget.counter, ladle_native.Budget)  # it is now
    return budget.counter


def _bound_path(path: str) -> socket.socket:
    make_way(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise AddressInUse(f"can't listen on unix:{path}: {error.strerror or error}") from None
    return listening


def _bound_port(address: str, *, shared: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    if host == "fd":
        listening = socket.socket(fileno=int(port))
        port = str(listening.getsockname()[1])
    elif host == "0.0.0.0":  # IPv6's interfaces, too, as for gRPC
        listening = bind(int(port), "port", reuse_port=shared)
    else:
        listening = bind_host(host.strip("[]"), int(port), reuse_port=shared)
    try:
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise in_use(int(port), "port", error) from None
    return listening
