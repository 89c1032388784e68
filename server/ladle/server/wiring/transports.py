"""Which transport serves gRPC, and the HTTP side: made of a Config, listening nowhere yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ladle.server.call import Methods, Transport
from ladle.server.config import Config
from ladle.server.core.access import Access
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.machine.scheduling import starting_such_as_yield
from ladle.server.core.observation import Observation, Observer
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.guard import gate
from ladle.server.transport.descriptors import (
    affordable_connections,
    affordable_grpc_connections,
    raise_limit,
)
from ladle.server.transport.grpcio.transport import GrpcioTransport
from ladle.server.transport.native.options import MAX_CONNECTIONS, unknown
from ladle.server.wiring.choice import Choice, Unavailable, find
from ladle.server.wiring.startup import MAX_WAITING_REQUESTS, StartupError, Tls

if TYPE_CHECKING:
    from ladle.server.rest.page.overview import Figures
    from ladle.server.rest.page.status_page import MergeStatus
    from ladle.server.wiring.http_server import HttpServer

logger = logging.getLogger(__name__)


def limits(config: Config, observer: Observer) -> Limits:
    """Return what requests may take, over gRPC and HTTP together; `observer` hears of refusals."""

    def refused(error: ServingError, count: int) -> None:
        if observer.takes_many:
            Observation("", "GRPC", b"").end_alike(count, error, observer)
            return
        for _ in range(count):
            Observation("", "GRPC", b"").end(error, observer)

    return Limits(config.max_request_bytes, ByteBudget(config.max_inflight_bytes), refused)


def chosen(config: Config) -> Choice:
    """Return which transport serves gRPC, and say it in one line of the log.

    Raises:
        StartupError: The transport that was asked for can't be had.
    """
    try:
        choice = find(config.transport, unknown(config.channel_arguments))
    except Unavailable as error:
        raise StartupError(str(error)) from None
    level = logging.WARNING if choice.is_second_best else logging.INFO
    logger.log(level, "gRPC is served by the transport %s: %s", choice.name, choice.why)
    return choice


def grpc_transport(
    config: Config,
    name: str,
    methods: Methods,
    limits: Limits,
    *,
    access: Access,
    observer: Observer,
    tls: Tls | None,
) -> Transport:
    """Return what serves gRPC.

    Args:
        config: the settings.
        name: `native` or `grpcio`, as `chosen` returned it.
        methods: what is served.
        limits: what requests may take.
        access: who may call what.
        observer: hears of calls that are not let through.
        tls: put all addresses behind TLS.

    Raises:
        StartupError: An option is wrong.
    """
    limit = raise_limit()
    http = affordable_connections(config.rest_api_max_connections, limit)
    # Of two values for one name the first counts.
    default = (MAX_CONNECTIONS, affordable_grpc_connections(http, limit))
    arguments = (*config.channel_arguments, default)
    if name == "native":
        # Imported late: it is there only where its package is installed.
        from ladle.server.transport.native.transport import NativeTransport

        try:
            return NativeTransport(
                methods,
                max_threads=config.grpc_max_threads,
                max_waiting=MAX_WAITING_REQUESTS + 1,  # one to refuse the others
                limits=limits,
                options=arguments,
                credentials=tls.pem if tls else None,
                gate=gate(access, observer),
                compressed_requests=config.grpc_compressed_requests,
            )
        except ValueError as error:
            raise StartupError(str(error)) from None
    with starting_such_as_yield():  # the threads of network events
        return GrpcioTransport(
            methods,
            max_threads=config.grpc_max_threads,
            max_waiting=MAX_WAITING_REQUESTS + 1,  # one to refuse the others
            limits=limits,
            options=arguments,
            credentials=tls.grpc if tls else None,
            gate=gate(access, observer),
            compressed_requests=config.grpc_compressed_requests,
        )


def http_server(
    config: Config,
    methods: Methods,
    limits: Limits,
    manager: Manager,
    *,
    access: Access,
    observer: Observer,
    tls: Tls | None,
    names: Callable[[], Collection[str]],
    is_ready: Callable[[], bool],
    figures: Figures,
    metrics_path: str | None,
    exposition: Callable[[], bytes],
    transport: str,
    merge_status: MergeStatus | None = None,
) -> HttpServer | None:
    """Return what serves HTTP; None if it is not asked for.

    Args:
        config: the settings.
        methods: what is served.
        limits: what requests may take.
        manager: where the models are.
        access: who may call what.
        observer: gets each request.
        tls: put the port behind TLS.
        names: returns the models that are configured.
        is_ready: whether the server as a whole is to get requests.
        figures: returns how the models do, for the status page.
        metrics_path: where metrics are; None: nowhere.
        exposition: returns them.
        transport: what serves gRPC, for the status page.
        merge_status: makes of this worker's status that of all workers; None: there are no others.

    Raises:
        StartupError: Something else is where metrics should be.
    """
    if config.rest_api_port == 0:
        return None
    # Imported late: who asks for no HTTP should not wait for it.
    from ladle.server.rest.app import AppOptions
    from ladle.server.rest.monitoring import metrics_route
    from ladle.server.wiring.http_server import HttpServer, PathTaken

    try:
        return HttpServer(
            manager,
            methods,
            limits=limits,
            metrics=metrics_route(metrics_path, exposition) if metrics_path else None,
            open_inference=config.enable_open_inference,
            access=access,
            observer=observer,
            names=names,
            figures=figures,
            transport=transport,
            merge_status=merge_status,
            is_ready=is_ready,
            max_threads=config.rest_api_num_threads,
            max_waiting=MAX_WAITING_REQUESTS + 1,
            options=AppOptions(
                timeout_s=config.rest_api_timeout_in_ms / 1000,
                cors=config.rest_api_enable_cors_support,
                allowed_hosts=config.hosts,
            ),
            tls=tls.http if tls else None,
            max_connections=affordable_connections(config.rest_api_max_connections, raise_limit()),
            reuse_port=config.reuse_port,
        )
    except PathTaken as error:
        raise StartupError(f"--monitoring_config_file: path: {error}") from None
