"""What the client that blocks and the one that awaits have in common: all but the waiting."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import TypeVar

import grpc

from ladle.client import calls, flows, requests, tracing
from ladle.client.cache import MetadataCache
from ladle.client.connection import TLS, BearerToken, ChannelOptions, Token, is_in_fleet, is_several
from ladle.client.connection import channel_options as options_of
from ladle.client.errors import DeadlineExceeded, from_rpc_error
from ladle.client.examples import Examples, Features
from ladle.client.fleet import Fleet
from ladle.client.flows import Flow
from ladle.client.inputs import Inputs, as_given
from ladle.client.retry import Hedge, Retry
from ladle.client.steps import Normalize

T = TypeVar("T")

# Asks ladle for arrays that can be viewed without a copy; other servers take no notice.
_METADATA = (("ladle-tensor-content", "true"),)
_PUSHBACK = "grpc-retry-pushback-ms"


class BaseClient:
    """The settings of a client, and the conversations that it has."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
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

        `address` is a server's, such as `localhost:8500`; a list of them; or a gRPC target that
        stands for several, such as `dns:///models.internal:8500`. Calls go to several in turn,
        and past those whose health check says no.

        Args:
            address: Where the servers are.
            timeout: Seconds, for the calls that give none.
            tls: True for TLS by gRPC's own authorities, a TLS for others or for mTLS, False or
                None for none.
            token: Sent as a bearer token with each call. Without TLS anybody on the way can read
                it, so that takes `tls=False`.
            retry: How calls that no server could take are made again; see Retry.
            hedge: Have predictions that take long asked of another server too; None for never.
            coalesce_ms: How long a prediction waits for others of the same kind, from other
                threads or tasks, to go in one request with them; each gets its own rows, and a bad
                one fails alone. 0 for not at all.
            connections: How many to each address. One carries about 100 calls at once; from there
                on, calls wait for each other.
            gzip: Compress what is sent; pays where the network is slower than the processor.
            keepalive_s: How often a connection with calls under way is probed. gRPC's servers
                hang up on who probes more often than every 300 s, unless told to allow it.
            max_message_bytes: Bounds requests and answers; by default what protobuf holds, 2 GiB.
            options: gRPC's channel options, which come before ladle's own.

        Raises:
            ValueError: One of these makes no sense.
            OSError: A file that `tls` names can't be read.
        """
        addresses = (address,) if isinstance(address, str) else tuple(address)
        if not addresses or not all(addresses):
            raise ValueError(f"address: expected at least one, and none empty, got {address!r}")
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
                "token: without TLS anybody on the way can read it; pass tls=True, "
                "or tls=False to send it all the same"
            )
        self._timeout = checked_timeout(timeout)
        self._max_message_bytes = max_message_bytes
        self._fleet = Fleet(addresses, retry=retry or Retry(), hedge=hedge)
        self._known = MetadataCache()
        self._is_closed = False
        self._unary_only = {index for index, address in enumerate(addresses) if is_several(address)}
        self._chunkless: set[int] = set()  # those found out to have no answers in chunks
        self._now = time.monotonic
        self._token = None if token is None else BearerToken(token)
        self._gather_s = coalesce_ms / 1000
        self._compression = grpc.Compression.Gzip if gzip else None
        custom = tls if isinstance(tls, TLS) else TLS()
        self._credentials = custom.credentials() if tls else None
        self._turns = itertools.count()
        self._channel_options = [
            options_of(
                in_fleet=is_in_fleet(address, addresses),
                connections=connections,
                max_message_bytes=max_message_bytes,
                keepalive_s=keepalive_s,
                server_name=custom.server_name,
                given=options,
            )
            for address in addresses
        ]
        self._connections = connections
        self._set_up()

    def __repr__(self) -> str:
        addresses = ", ".join(f'"{address}"' for address in self._fleet.addresses)
        listed = addresses if len(self._fleet.addresses) == 1 else f"[{addresses}]"
        return f"{type(self).__name__}({listed})" + (" (closed)" if self._is_closed else "")

    def _set_up(self) -> None:
        """Make what the kind of client needs beside."""

    def _conversation(
        self,
        flow: Flow[T],
        timeout: float | None,
        *,
        patient: bool = False,
        once: bool = False,
        only: int | None = None,
    ) -> calls.Conversation[T]:
        """Return what gets `flow` to its result; its deadline counts from now.

        `only` is the index of the one address that may be asked.
        """
        if self._is_closed:
            raise ValueError(f"{self}: a closed client makes no calls")
        deadline = self._now() + self._timeout_s(timeout)
        fleet = self._fleet if only is None else self._fleet.only(only)
        return calls.conversation(flow, fleet, deadline, self._now, patient=patient, once=once)

    def _timeout_s(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)

    def _left_s(self, deadline: float, what: object) -> float:
        left_s = deadline - self._now()
        if left_s <= 0:
            raise DeadlineExceeded(f"{what}: the timeout passed before all of it was there")
        return left_s

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = () if self._token is None else self._token.metadata()
        return _METADATA + token + tracing.context()

    def _connection(self) -> int:
        """Return which of an address's connections the next call takes."""
        return next(self._turns) % self._connections if self._connections > 1 else 0

    def _wanted(
        self,
        model: str,
        inputs: Inputs,
        version: int | None,
        label: str | None,
        signature: str | None,
        outputs: str | Sequence[str] | None,
        normalize: Normalize,
    ) -> flows.Wanted:
        return flows.Wanted(
            asked=requests.servable(model, version, label),
            given=as_given(inputs),
            signature=signature or "",
            outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs or ()),
            normalize=normalize,
            max_bytes=self._max_message_bytes,
        )

    def _on_examples(
        self,
        model: str,
        examples: Examples,
        version: int | None,
        label: str | None,
        context: Features | None,
    ) -> flows.OnExamples:
        return flows.OnExamples(
            asked=requests.servable(model, version, label),
            examples=examples,
            context=context,
            max_bytes=self._max_message_bytes,
        )


def failure(error: grpc.RpcError, asked: str) -> calls.Failure:
    """Return what came of a call that gRPC says has failed."""
    trailing = getattr(error, "trailing_metadata", None)
    pushback = None
    for key, value in (trailing() if trailing else None) or ():
        if key == _PUSHBACK:
            pushback = value if isinstance(value, str) else value.decode("latin-1")
    return calls.Failure(from_rpc_error(error, asked), pushback)


def checked_timeout(timeout: float) -> float:
    """Return a timeout in seconds as it is.

    Raises:
        ValueError: It is not positive and finite.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout: expected seconds, more than 0 and finite, got {timeout}")
    return timeout
