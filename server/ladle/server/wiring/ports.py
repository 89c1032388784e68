"""The addresses of a server: gRPC's, and HTTP's where it is asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ladle.server.call import Transport
from ladle.server.config import Config

if TYPE_CHECKING:
    from ladle.server.wiring.http_server import HttpServer

# How long none must have come before new requests are refused.
_QUIET_S = 1.0


@dataclass(frozen=True)
class Passed:
    """Descriptors of sockets that are bound already, which this process was given."""

    grpc: int | None = None
    http: int | None = None


class Ports:
    """Both sides of a server, gRPC and HTTP, as one.

    Order of calls: `check`, `open`, `enter_lame_duck`, `wait_until_quiet`, `stop`; any may be left
    out.
    """

    def __init__(
        self,
        config: Config,
        grpc: Transport,
        http: HttpServer | None,
        passed: Passed | None = None,
    ) -> None:
        """Take both sides, which listen nowhere yet.

        Args:
            config: the settings.
            grpc: gRPC's side.
            http: HTTP's; None if it is not asked for.
            passed: sockets to listen on in place of ports.
        """
        self._config = config
        self._passed = passed or Passed()
        self._grpc = grpc
        self._http = http

    def check(self) -> None:
        """Find out whether the addresses can be had; nobody can connect yet.

        Raises:
            AddressInUse: One can't be had.
        """
        for address in self._grpc_addresses():
            self._grpc.check(address)
        if self._http is not None and self._passed.http is None:
            self._http.check(self._config.rest_api_port or 0)

    def open(self) -> tuple[str, ...]:
        """Bind the addresses, take requests, and return where.

        Raises:
            AddressInUse: One can't be had.
        """
        addresses = []
        for address in self._grpc_addresses():
            port = self._grpc.listen(address)
            addresses.append(f"0.0.0.0:{port}" if port else address)
        if self._http is not None:
            port = self._config.rest_api_port or 0
            addresses.append(self._http.listen(port, self._passed.http))
        self._grpc.start()
        if self._http is not None:
            self._http.start()
        return tuple(addresses)

    def enter_lame_duck(self) -> None:
        """Go on taking requests, but ask callers to send the next ones elsewhere."""
        if self._http is not None:
            self._http.enter_lame_duck()
        self._grpc.enter_lame_duck()

    def wait_until_quiet(self, longest_s: float) -> None:
        """Go on taking requests until none has come for a second, or `longest_s` have passed."""
        until = time.monotonic() + longest_s
        before = -1
        while (come := self._come()) != before and time.monotonic() < until:
            before = come
            time.sleep(max(0.0, min(_QUIET_S, until - time.monotonic())))

    def stop(self, grace_s: float) -> None:
        """Refuse new requests, give those under way `grace_s` seconds, and return at their end."""
        started = time.monotonic()
        if self._http is not None:
            self._http.begin_stop(grace_s)  # both sides have the same time
        self._grpc.drain(grace_s)
        self._grpc.stop()
        if self._http is not None:
            self._http.stop(max(0.0, grace_s - (time.monotonic() - started)))

    def _come(self) -> int:
        return self._grpc.calls + (self._http.requests if self._http is not None else 0)

    def _grpc_addresses(self) -> list[str]:
        config = self._config
        addresses = []
        if self._passed.grpc is not None:
            addresses.append(f"fd:{self._passed.grpc}")
        elif config.port != 0:
            addresses.append(f"0.0.0.0:{config.port or 0}")
        if config.grpc_socket_path:
            addresses.append(f"unix:{config.grpc_socket_path}")
        return addresses


class NoPorts:
    """The addresses of a server that listens nowhere; see `Ports`."""

    def check(self) -> None:
        """Do nothing: there is no address."""

    def open(self) -> tuple[str, ...]:
        """Return no address."""
        return ()

    def enter_lame_duck(self) -> None:
        """Do nothing: nobody is connected."""

    def wait_until_quiet(self, longest_s: float) -> None:
        """Return at once."""

    def stop(self, grace_s: float) -> None:
        """Do nothing: whoever has the methods ends its calls."""
