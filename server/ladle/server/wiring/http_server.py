"""The HTTP side of a server: the REST interface, probes, and whatever else has a URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection

from ladle.server.call import Methods
from ladle.server.core.access import Access
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.observation import Observer
from ladle.server.limits import Limits
from ladle.server.rest.app import App, AppOptions
from ladle.server.rest.calls import Pools, Services
from ladle.server.rest.json.process import JsonProcesses
from ladle.server.rest.models import Models
from ladle.server.rest.open_inference.routes import open_inference_routes
from ladle.server.rest.page.overview import Figures
from ladle.server.rest.page.status_page import MergeStatus, StatusPage
from ladle.server.rest.probes import probes
from ladle.server.rest.routes import Route, taken
from ladle.server.transport.http.transport import HttpTransport
from ladle.server.transport.threads import SteadyPool


class PathTaken(Exception):
    """A route can't be had; the message says which."""


class HttpServer:
    """Serves HTTP beside gRPC, on the same models. Order of calls: `listen`, `start`, `stop`."""

    def __init__(
        self,
        manager: Manager,
        methods: Methods,
        *,
        limits: Limits,
        names: Callable[[], Collection[str]],
        is_ready: Callable[[], bool],
        figures: Figures = dict,
        transport: str = "",
        merge_status: MergeStatus | None = None,
        max_threads: int = 8,
        max_waiting: int = 256,
        options: AppOptions | None = None,
        metrics: Route | None = None,
        open_inference: bool = False,
        access: Access | None = None,
        observer: Observer | None = None,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 4096,
        reuse_port: bool = False,
    ) -> None:
        """Make a server that listens nowhere yet.

        Args:
            manager: where the models are.
            methods: the services, which answer here as they do over gRPC.
            limits: what requests may take; shared with the gRPC transport.
            names: returns the models that are configured.
            is_ready: whether the server as a whole is to get requests.
            figures: returns how the models do, for the status page.
            transport: what serves gRPC, for the status page.
            merge_status: makes of this worker's status that of all workers; None: there are no
                others.
            max_threads: how many large bodies are read or written at a time.
            max_waiting: how many calls may wait at a time for what is still to come.
            options: how to answer.
            metrics: the route of the metrics, at a path of its own; None: there is none.
            open_inference: whether the URLs of the Open Inference Protocol are there.
            access: who may call what; by default what Access says without tokens.
            observer: gets each request.
            tls: put the port behind TLS.
            max_connections: how many are served at a time, idle ones included.
            reuse_port: share the port with other processes that do the same.

        Raises:
            PathTaken: Something else answers where the metrics should.
        """
        self._working = SteadyPool(max_threads, "rest")
        self._waiting = SteadyPool(max_waiting, "rest-waiting")
        self._processes = JsonProcesses(cpus())
        services = Services(methods, Pools(self._working, self._waiting, self._processes))
        always = [route.path for route in probes(is_ready)]
        routes = [*Models(manager, services).routes, *probes(is_ready)]
        if open_inference:
            routes += open_inference_routes(manager, services, names, is_ready)
            always += ["/v2/health/live", "/v2/health/ready"]
        if metrics is not None:
            routes.append(metrics)
        page = StatusPage(
            manager,
            services,
            names,
            is_ready=is_ready,
            figures=figures,
            transport=transport,
            merge=merge_status,
            others=routes,
            metrics_path=metrics.path if metrics else "",
            by_token=access is not None and access.by_token,
        )
        others = [route for route in [*routes, *page.routes] if route is not metrics]
        if metrics is not None and taken(metrics, others):
            raise PathTaken(f"something else answers at {metrics.path}")
        routes += page.routes
        self.own_status = page.own_status
        """Returns what the status page says of this process."""
        self.app = App(routes, services, limits, options, access, observer)
        """What answers; its routes can be enumerated."""
        self._transport = HttpTransport(
            self.app,
            tls=tls,
            max_connections=max_connections,
            always=always,
            reuse_port=reuse_port,
        )
        self._scheme = "https" if tls else "http"

    @property
    def requests(self) -> int:
        """How many requests have come."""
        return self.app.requests

    def check(self, port: int) -> None:
        """Find out whether a port can be had; nobody can connect yet.

        Raises:
            AddressInUse: It can't be bound.
        """
        self._transport.check(port)

    def listen(self, port: int, descriptor: int | None = None) -> str:
        """Bind a port, 0 for any that is free; return the address, `http://0.0.0.0:8501`.

        With the descriptor of a socket that is bound already, listen on that.

        Raises:
            AddressInUse: It can't be bound.
        """
        return f"{self._scheme}://0.0.0.0:{self._transport.listen(port, descriptor)}"

    def start(self) -> None:
        """Take requests from now on; returns at once."""
        self._transport.start()

    def enter_lame_duck(self) -> None:
        """Go on answering, but ask callers to come back on another connection."""
        self.app.closing = True

    def begin_stop(self, grace_s: float) -> None:
        """Refuse new requests, and give those under way `grace_s` seconds; returns at once."""
        self._transport.begin_stop(grace_s)

    def stop(self, grace_s: float) -> None:
        """As `begin_stop`, and return when all have ended, or been cut off."""
        self._transport.stop(grace_s)
        for executor in (self._working, self._waiting):
            executor.shutdown(wait=False, cancel_futures=True)
        self._processes.close()
