"""What the blocking client and the asyncio client share: settings, and how calls are built."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from threading import Lock
from typing import Any, TypeVar

import grpc

from ladle.client.calls import flows
from ladle.client.calls.effects import Flow
from ladle.client.calls.fleet import Fleet
from ladle.client.calls.metadata_cache import MetadataCache
from ladle.client.calls.protocols import ProtocolName, protocol_named
from ladle.client.calls.retry import Hedge, Retry
from ladle.client.calls.retry_loop import RetryLoop, drive
from ladle.client.errors import DeadlineExceeded
from ladle.client.inputs.arrays import Inputs, as_arrays
from ladle.client.inputs.conversion import Normalize
from ladle.client.inputs.examples import Examples, Features
from ladle.client.messages import requests
from ladle.client.messages.metadata import CallMetadata, checked
from ladle.client.transport import tracing
from ladle.client.transport.addresses import check_address, is_this_machine
from ladle.client.transport.connection import (
    TLS,
    BearerToken,
    ChannelOptions,
    Token,
    is_in_fleet,
    is_several,
)
from ladle.client.transport.connection import channel_options as options_of
from ladle.client.transport.forking import GATE

T = TypeVar("T")

# Asks ladle's server for arrays that can be viewed without a copy; other servers ignore it.
_METADATA = (("ladle-tensor-content", "true"),)


_REMAKING = Lock()
_OF_PARENTS: list[dict[str, Any]] = []


def _after_fork() -> None:
    global _REMAKING
    _REMAKING = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class BaseClient:
    """The settings of a client, and the retry loops of its calls."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        protocol: ProtocolName = "tfs",
        timeout: float = 30.0,
        tls: TLS | bool | None = None,
        token: Token | None = None,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        coalesce_ms: float = 0.0,
        connections: int = 1,
        gzip: bool = False,
        keepalive_s: float = 300.0,
        max_message_bytes: int = requests.MAX_MESSAGE_BYTES,
        options: ChannelOptions = (),
    ) -> None:
        """Make a client without connecting.

        `address` is the address of a server, such as `localhost:8500`; a list of addresses; or a
        gRPC target that stands for several servers, such as `dns:///models.internal:8500`. Calls
        go to several servers in turn, and skip those whose health check fails.

        Args:
            address: The servers.
            protocol: What they speak: "tfs" is TensorFlow Serving's protocol with ladle's own
                methods, "v2" the Open Inference Protocol, of Triton, KServe and MLServer. All
                servers of one client speak one protocol.
            timeout: In seconds, for calls without a timeout of their own.
            tls: True for TLS with the certificate authorities that gRPC brings, a TLS for others or
                for mTLS, False or None for no TLS.
            token: Sent as a bearer token with each call. Without TLS anybody on the network path
                can read the token, so a client without TLS needs an explicit `tls=False`.
            retry: How calls are retried that no server processed; see Retry.
            hedge: When a slow prediction is also sent to a second server; None for never.
            coalesce_ms: How long a prediction waits for others of the same kind, from other
                threads or tasks, to share a request with them. Each caller gets its own rows, and a
                bad prediction fails alone. Only for models that answer each row by itself. 0 for
                no coalescing.
            connections: The connections to each address. One carries about 100 calls at once;
                further calls wait.
            gzip: Compress requests; useful where the network is slower than the processor.
            keepalive_s: How often a connection with calls in flight is probed, in seconds. By
                default gRPC's servers close a connection that probes more often than every 300 s.
            max_message_bytes: The limit of requests and answers; by default protobuf's, 2 GiB.
            options: gRPC's channel options, which replace ladle's own.

        Raises:
            TypeError: An argument is of another type.
            ValueError: An argument is out of its range.
            OSError: A file that `tls` names can't be read.
        """
        self._protocol = protocol_named(protocol)
        if not isinstance(address, Iterable):
            raise TypeError(
                f"address: expected text, such as localhost:8500, or several, got {address!r}"
            )
        addresses = (address,) if isinstance(address, str) else tuple(address)
        if not addresses or not all(addresses):
            raise ValueError(f"address: expected at least one, and none empty, got {address!r}")
        for each in addresses:
            check_address(each, has_tls=bool(tls))
        for name, number in (
            ("coalesce_ms", coalesce_ms),
            ("connections", connections),
            ("keepalive_s", keepalive_s),
            ("max_message_bytes", max_message_bytes),
        ):
            check_number(name, number)
        if not 0 < max_message_bytes <= requests.MAX_MESSAGE_BYTES:
            raise ValueError(
                f"max_message_bytes: expected 1 to {requests.MAX_MESSAGE_BYTES}, "
                f"got {max_message_bytes}"
            )
        if not 0 <= coalesce_ms <= 1000:
            raise ValueError(f"coalesce_ms: expected 0 to 1000, got {coalesce_ms}")
        if connections < 1:
            raise ValueError(f"connections: expected 1 or more, got {connections}")
        if not 0 < keepalive_s < 1 << 21:  # gRPC counts milliseconds in 32 bits
            raise ValueError(
                f"keepalive_s: expected more than 0 and below 2**21, got {keepalive_s}"
            )
        if token is not None and tls is None:
            raise ValueError(
                "token: without TLS anybody on the network path can read it; pass tls=True, "
                "or tls=False to send it anyway"
            )
        self._timeout = checked_timeout(timeout)
        self._max_message_bytes = max_message_bytes
        self._addresses, self._retry, self._hedge = addresses, retry or Retry(), hedge
        self._is_closed = False
        self._now = time.monotonic
        self._token = None if token is None else BearerToken(token)
        self._gather_s = coalesce_ms / 1000
        self._compression = grpc.Compression.Gzip if gzip else None
        custom = tls if isinstance(tls, TLS) else TLS()
        self._tls = custom.read() if tls else None
        self._channel_options = [
            options_of(
                in_fleet=is_in_fleet(address, addresses),
                is_local=is_this_machine(address),
                connections=connections,
                max_message_bytes=max_message_bytes,
                keepalive_s=keepalive_s,
                server_name=custom.server_name,
                given=options,
            )
            for address in addresses
        ]
        self._connections = connections
        # What makes an equal client, in another process too.
        self._arguments: dict[str, Any] = {
            "address": address,
            "protocol": protocol,
            "timeout": timeout,
            "tls": tls,
            "token": token,
            "retry": retry,
            "hedge": hedge,
            "coalesce_ms": coalesce_ms,
            "connections": connections,
            "gzip": gzip,
            "keepalive_s": keepalive_s,
            "max_message_bytes": max_message_bytes,
            "options": options,
        }
        self._set_up()

    def __reduce__(self) -> tuple[Callable[..., BaseClient], tuple[Any, ...]]:
        """Pickle the settings; the copy is a client of the same addresses that is not connected.

        Raises:
            TypeError: The settings hold a secret, or the client is closed.
        """
        if self._is_closed:
            raise TypeError(f"{self}: a closed client can't be pickled or copied")
        name = type(self).__name__
        if isinstance(self._arguments["token"], str):
            raise TypeError(
                f"{name}: a client with a token as text can't be pickled, since the pickle would "
                "hold the secret; pass the path of a file as the token, or make the client where "
                "it is used"
            )
        if isinstance(self._arguments["tls"], TLS) and isinstance(
            self._arguments["tls"].key, bytes
        ):
            raise TypeError(
                f"{name}: a client with a private key as bytes can't be pickled, since the pickle "
                "would hold the secret; pass the path of its file, or make the client where it is "
                "used"
            )
        return _remake, (type(self), self._arguments)

    def __repr__(self) -> str:
        addresses = ", ".join(f'"{address}"' for address in self._addresses)
        listed = addresses if len(self._addresses) == 1 else f"[{addresses}]"
        return f"{type(self).__name__}({listed})" + (" (closed)" if self._is_closed else "")

    def _set_up(self) -> None:
        """Make all state that changes: in a new client, and again in a forked process."""
        self._generation = GATE.generation
        self._lock = Lock()
        self._fleet = Fleet(self._addresses, retry=self._retry, hedge=self._hedge)
        self._known = MetadataCache()
        self._unary_only = {i for i, address in enumerate(self._addresses) if is_several(address)}
        # The addresses known to lack PredictInChunks.
        everywhere = range(len(self._addresses))
        self._chunkless: set[int] = set() if self._protocol.has_chunks else {*everywhere}
        self._turns = itertools.count()

    def _check_process(self) -> None:
        """Make a client of the parent process usable in this one.

        Raises:
            RuntimeError: gRPC does not work in this process.
        """
        if GATE.problem:
            raise RuntimeError(f"{self}: {GATE.problem}")
        if self._generation != GATE.generation:
            with _REMAKING:
                if self._generation != GATE.generation:
                    # The parent's state stays alive: to close its channels could hang here.
                    _OF_PARENTS.append(dict(vars(self)))
                    self._set_up()

    def _own_options(self, address: int) -> ChannelOptions:
        """Return the options of an address's channels."""
        options = self._channel_options[address]
        if not self._generation:
            return options
        # Channels of equal options share connections, and this process has copies of its parent's.
        return [*options, ("ladle.fork_generation", self._generation)]

    def _channel_credentials(self) -> grpc.ChannelCredentials | None:
        return None if self._tls is None else self._tls.credentials()

    def _retry_loop(
        self,
        flow: Flow[T],
        timeout: float | None,
        *,
        patient: bool = False,
        once: bool = False,
        only: int | None = None,
    ) -> RetryLoop[T]:
        """Return the retry loop of a flow; its deadline counts from now.

        With `only`, an address's index, all calls go to that address.
        """
        if self._is_closed:
            raise ValueError(f"{self}: a closed client makes no calls")
        self._check_process()
        deadline = self._now() + self._timeout_s(timeout)
        fleet = self._fleet if only is None else self._fleet.only(only)
        return drive(flow, fleet, deadline, self._now, patient=patient, once=once)

    def _timeout_s(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)

    def _left_s(self, deadline: float, what: object) -> float:
        left_s = deadline - self._now()
        if left_s <= 0:
            raise DeadlineExceeded(f"{what}: the timeout passed before all of it was there")
        return left_s

    def _metadata(self, callers: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, str], ...]:
        token = () if self._token is None else self._token.metadata()
        return _METADATA + token + tracing.context() + callers

    def _connection(self) -> int:
        """Return which of an address's connections the next call uses."""
        return next(self._turns) % self._connections if self._connections > 1 else 0

    def _predict_call(
        self,
        model: str,
        inputs: Inputs,
        version: int | None,
        label: str | None,
        signature: str | None,
        outputs: str | Sequence[str] | None,
        normalize: Normalize,
        metadata: CallMetadata | None,
    ) -> flows.PredictCall:
        self._check_process()
        return flows.PredictCall(
            target=requests.servable(model, version, label),
            inputs=as_arrays(inputs),
            protocol=self._protocol,
            signature=signature or "",
            outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs or ()),
            normalize=normalize,
            max_bytes=self._max_message_bytes,
            metadata=checked(metadata),
        )

    def _examples_call(
        self,
        what: str,
        model: str,
        examples: Examples,
        version: int | None,
        label: str | None,
        context: Features | None,
        metadata: CallMetadata | None,
    ) -> flows.ExamplesCall:
        self._protocol.check_examples(what)
        return flows.ExamplesCall(
            target=requests.servable(model, version, label),
            examples=examples,
            context=context,
            max_bytes=self._max_message_bytes,
            metadata=checked(metadata),
        )


def _remake(kind: type[BaseClient], arguments: dict[str, Any]) -> BaseClient:
    return kind(**arguments)


def check_number(name: str, number: object) -> None:
    """Check that an argument is a number.

    Raises:
        TypeError: It is something else, such as text.
    """
    if isinstance(number, bool) or not isinstance(number, Real):
        given = f'"{number}"' if isinstance(number, str) else type(number).__name__
        raise TypeError(f"{name}: expected a number, got {given}")


def checked_timeout(timeout: float) -> float:
    """Return a timeout in seconds as it is.

    Raises:
        TypeError: It is no number.
        ValueError: It is not positive and finite.
    """
    check_number("timeout", timeout)
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout: expected seconds, more than 0 and finite, got {timeout}")
    return timeout
