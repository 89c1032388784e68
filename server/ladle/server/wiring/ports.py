"""The addresses of a server: gRPC's, and HTTP's where it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ladle.server.call import Methods
from ladle.server.config import Config
from ladle.server.core.access import Access
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.scheduling import starting_such_as_yield
from ladle.server.rpc.guard import gate
from ladle.server.transport import unix_socket
from ladle.server.transport.addresses import AddressInUse, check
from ladle.server.transport.grpcio.transport import GrpcioTransport
from ladle.server.wiring.startup import MAX_WAITING_REQUESTS, StartupError, Tls

if TYPE_CHECKING:
    from ladle.server.rest.overview import Load
    from ladle.server.wiring.http_server import HttpServer

# How long none must have come before new requests are refused.
_QUIET_S = 1.0


class Ports:
    """Both sides, on the same methods and within the same limits.

    Order of calls: `check`, `open`, `wait_until_quiet`, `stop`; any may be left out.
    """

    def __init__(
        self,
        config: Config,
        methods: Methods,
        manager: Manager,
        *,
        access: Access,
        tls: Tls | None,
        observer: Observer,
        names: Callable[[], Collection[str]],
        load: Load,
        metrics_path: str | None,
        exposition: Callable[[], bytes],
    ) -> None:
        """Listen nowhere yet.

        Args:
            config: the settings.
            methods: what is served.
            manager: where the models are.
            access: who may call what.
            tls: put all addresses behind TLS.
            observer: hears of each request.
            names: returns the models that are configured.
            load: returns how the models do, for the status page.
            metrics_path: where metrics are, over HTTP; None: nowhere.
            exposition: returns them.

        Raises:
            StartupError: Something else is where metrics should be.
        """
        self._config = config
        with starting_such_as_yield():  # the threads of network events
            self.grpc = GrpcioTransport(
                methods,
                max_request_bytes=config.max_request_bytes,
                max_inflight_bytes=config.max_inflight_bytes,
                max_threads=config.grpc_max_threads,
                max_waiting=MAX_WAITING_REQUESTS + 1,  # one to refuse the others
                options=config.channel_arguments,
                credentials=tls.grpc if tls else None,
                gate=gate(access, observer),
                refused=lambda error: Observation("", "GRPC", b"").end(error, observer),
            )
        self.http: HttpServer | None = None
        if config.rest_api_port == 0:
            return
        # Imported late: who asks for no HTTP should not wait for starlette.
        from ladle.server.rest.app import AppOptions
        from ladle.server.rest.monitoring import metrics_route
        from ladle.server.wiring.http_server import HttpServer, PathTaken

        try:
            self.http = HttpServer(
                manager,
                methods,
                limits=self.grpc.limits,
                more_routes=[metrics_route(metrics_path, exposition)] if metrics_path else [],
                access=access,
                observer=observer,
                names=names,
                load=load,
                is_ready=lambda: self.grpc.health.serves(""),
                max_threads=config.rest_api_num_threads,
                max_waiting=MAX_WAITING_REQUESTS + 1,
                options=AppOptions(
                    timeout_s=config.rest_api_timeout_in_ms / 1000,
                    cors=config.rest_api_enable_cors_support,
                ),
                tls=tls.http if tls else None,
            )
        except PathTaken as error:
            raise StartupError(f"--monitoring_config_file: path: {error}") from None

    def check(self) -> None:
        """Find out whether the addresses can be had; nobody can connect yet.

        Raises:
            AddressInUse: One can't be had.
        """
        config = self._config
        # Whoever has gRPC ask for SO_REUSEPORT shares the port.
        if config.port and not dict(config.channel_arguments).get("grpc.so_reuseport"):
            check(config.port, "port")
        path = config.grpc_socket_path
        if path and (problem := unix_socket.make_way(path)):
            raise AddressInUse(f"can't listen on unix:{path}: {problem}")
        if config.rest_api_port:
            check(config.rest_api_port, "rest_api_port")

    def open(self) -> tuple[str, ...]:
        """Bind the addresses, take requests, and return where.

        Raises:
            AddressInUse: One can't be had.
        """
        config = self._config
        addresses = []
        if config.port != 0:
            port = self.grpc.listen(f"0.0.0.0:{config.port or 0}")
            addresses.append(f"0.0.0.0:{port}")
        if config.grpc_socket_path:
            self.grpc.listen(f"unix:{config.grpc_socket_path}")
            addresses.append(f"unix:{config.grpc_socket_path}")
        if self.http is not None:
            addresses.append(self.http.listen(config.rest_api_port or 0))
        with starting_such_as_yield():  # the thread that polls
            self.grpc.start()
        if self.http is not None:
            self.http.start()
        return tuple(addresses)

    def send_away(self) -> None:
        """Go on taking requests, but tell callers to take the next ones elsewhere."""
        if self.http is not None:
            self.http.send_away()
        self.grpc.health.shut_down()  # last: whoever has seen it is sent away

    def wait_until_quiet(self, longest_s: float) -> None:
        """Go on taking requests until none has come for a second, or `longest_s` have passed."""
        http = self.http
        self.grpc.wait_until_quiet(_QUIET_S, longest_s, lambda: http.requests if http else 0)

    def stop(self, grace_s: float) -> None:
        """Refuse new requests, give those under way `grace_s` seconds, and return at their end."""
        started = time.monotonic()
        if self.http is not None:
            self.http.begin_stop(grace_s)  # both sides have the same time
        self.grpc.stop(grace_s)
        if self.http is not None:
            self.http.stop(max(0.0, grace_s - (time.monotonic() - started)))
