"""The plain transport: grpcio's synchronous server by its public parts, a thread for each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

from ladle.server.call import Gate, Methods
from ladle.server.core.errors import Unavailable
from ladle.server.core.machine.scheduling import starting_such_as_yield
from ladle.server.limits import ByteBudget, Limits
from ladle.server.transport.addresses import AddressInUse, check_address, make_way
from ladle.server.transport.grpcio.admission import Admission, Room
from ladle.server.transport.grpcio.handlers import Rooms, RpcHandlers
from ladle.server.transport.grpcio.interceptor import GateInterceptor
from ladle.server.transport.grpcio.stream import Idling, Pools
from ladle.server.transport.threads import SteadyPool

# Most calls wait for a batch, and so there may be many for each thread that works.
_CALLS_PER_THREAD = 128
# Each call holds a thread, so there are no more of them on any machine.
_MOST_CALLS = 1 << 12
# For health, beside all others.
_OWN_ROOM = 1024
# A caller with more calls than that keeps them until the first ones have ended, and loses none.
# Upstream lets one connection take all that there is.
_STREAMS_PER_CONNECTION = 1024
# What gRPC itself holds for us to take. Past its own 1,000 it would end calls as CANCELLED.
_PENDING = 1 << 14
_IDENTITY = 1 << 0  # of gRPC's compression algorithms
# How long the statuses of calls that are cut off have to be sent.
_LAST_S = 0.5
# How often it is looked for calls that send no message.
_SILENCE_POLL_S = 5.0


class GrpcioTransport:
    """Serves methods on TCP ports and Unix sockets.

    Each call blocks a thread until it is answered, and a stream that waits for a message blocks
    another. Threads are started as they are needed.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        max_threads: int,
        max_waiting: int = 256,
        limits: Limits | None = None,
        options: Sequence[tuple[str, Any]] = (),
        credentials: grpc.ServerCredentials | None = None,
        gate: Gate | None = None,
        compressed_requests: bool = False,
    ) -> None:
        """Make a transport that listens nowhere yet.

        Args:
            methods: what it serves.
            max_threads: how many calls of blocking handlers are handled at a time.
            max_waiting: how many calls may wait at a time for what is still to come, beside them.
            limits: what requests may take; several transports may share them. By default what
                gRPC itself can take.
            options: gRPC's own channel arguments.
            credentials: put all addresses behind TLS, Unix sockets too, as upstream does.
            gate: decides about every call, to any method; without one all are let through.
            compressed_requests: take compressed messages. gRPC inflates each whole before its size
                is known: one of 200 KB may take 200 MB.
        """
        limits = self.limits = limits or Limits((1 << 31) - 1, ByteBudget(1 << 62))
        self._credentials = credentials
        self._shares_ports = bool(dict(options).get("grpc.so_reuseport"))
        places = min(max_threads * _CALLS_PER_THREAD, _MOST_CALLS)
        with starting_such_as_yield():  # and so do those that they start
            self._rooms = Rooms(
                waiting=Room(places, "grpc", Admission(places, limits.refused)),
                blocking=Room(max_threads, "blocking", Admission(places, limits.refused)),
                own=Room(_OWN_ROOM, "health", Admission(_OWN_ROOM, limits.refused)),
            )
            self._pools = Pools(
                working=SteadyPool(max_threads, "working"),
                waiting=SteadyPool(max_waiting, "waiting"),
                reading=SteadyPool(places + _OWN_ROOM, "reading"),
            )
        self._idling = Idling()
        self._handlers = RpcHandlers(methods, self._rooms, self._pools, self._idling, limits)
        self._stopping = threading.Event()
        self._stopped: threading.Event | None = None
        self._until = 0.0
        self._server = grpc.server(
            self._rooms.waiting,
            handlers=[self._handlers],
            interceptors=[GateInterceptor(gate, self._handlers.refusing)] if gate else [],
            options=[
                *options,  # of two values for one name gRPC takes the first
                ("grpc.max_receive_message_length", limits.max_received_bytes),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server on the port would share it without a word.
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
                # It would refuse honest calls: a stream whose call has ended for its caller counts
                # until its thread here is through. What waits here is bounded below.
                ("grpc.http.overload_protection", 0),
                ("grpc.server.max_pending_requests", _PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _PENDING),
                *(
                    []
                    if compressed_requests
                    else [("grpc.compression_enabled_algorithms_bitset", _IDENTITY)]
                ),
            ],
            # All that there is room for, and as many that wait to be refused.
            maximum_concurrent_rpcs=2 * (2 * places + _OWN_ROOM),
        )

    @property
    def calls(self) -> int:
        """How many calls have come since `start`."""
        return self._handlers.calls

    def check(self, address: str) -> None:
        """Find out whether an address could be had; nobody can connect to it yet.

        Raises:
            AddressInUse: The address can't be had.
        """
        check_address(address, reuse_port=self._shares_ports)

    def listen(self, address: str) -> int:
        """Bind an address, `0.0.0.0:8500` or `unix:/path`, and return the port that it got.

        Raises:
            AddressInUse: It can't be bound.
        """
        path = address.removeprefix("unix:")
        if path != address:
            make_way(path)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise AddressInUse(
                f"can't listen on {address}: the port is taken by another process, or not allowed; "
                "--port=auto finds a free one"
            )
        return 0 if path != address else port

    def start(self) -> None:
        """Take calls from now on; returns at once."""
        with starting_such_as_yield():  # the thread that polls
            self._server.start()
            self._idling.start()
        threading.Thread(target=self._end_silent, name="grpc silence", daemon=True).start()

    def _end_silent(self) -> None:
        while not self._stopping.wait(_SILENCE_POLL_S):
            for room in self._rooms:
                room.admission.end_silent()

    def enter_lame_duck(self) -> None:
        """Go on as before: grpcio can ask callers to go elsewhere only where it ends."""

    def drain(self, grace_s: float) -> None:
        """Refuse new calls, and give those under way `grace_s` seconds; returns at once."""
        self._stopping.set()
        if self._stopped is None:
            # What is left when the grace is over is ended by `stop`, and only then by gRPC.
            self._stopped = self._server.stop(grace_s + _LAST_S)
            self._until = time.monotonic() + grace_s
            for room in self._rooms:
                room.admission.stop()

    def stop(self, grace_s: float = 0.0) -> None:
        """Drain, unless `drain` was called before, and return when every call has ended."""
        self.drain(grace_s)
        assert self._stopped is not None  # drain sets it
        if not self._stopped.wait(max(0.0, self._until - time.monotonic())):
            error = Unavailable("the server has stopped before the answer was there: ask another")
            for room in self._rooms:
                room.admission.end_all(error)
            self._stopped.wait()
        self._idling.stop()
        self._handlers.stop()
        for pool in (*self._rooms, *self._pools):
            pool.shutdown(wait=False, cancel_futures=True)
