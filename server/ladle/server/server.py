"""The server: puts source, manager, services and ports together, and takes them down again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ladle.protos.files.integrity import find_missing
from ladle.server.config import Config
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.machine.slices import ShortSlices
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.model_set import Configured, ModelSet
from ladle.server.core.observation import Observer
from ladle.server.core.sources.base_path import Check
from ladle.server.core.sources.file_system import FileSystemSource
from ladle.server.core.sources.source import Source
from ladle.server.monitoring.catalogue import require_metrics
from ladle.server.monitoring.exposition import Exposition
from ladle.server.monitoring.snapshot import ModelSnapshot, snapshot
from ladle.server.rpc.health import Health
from ladle.server.rpc.services import methods
from ladle.server.settings.model_config_file import ConfigFile
from ladle.server.wiring import startup, transports
from ladle.server.wiring.loading import (
    ModelLoader,
    batching_loader,
    profiler,
    saved_model_loader,
)
from ladle.server.wiring.observers import Observers
from ladle.server.wiring.on_demand import OnDemand
from ladle.server.wiring.ports import NoPorts, Passed, Ports
from ladle.server.wiring.readiness import Readiness
from ladle.server.wiring.remote import RemoteModels
from ladle.server.wiring.rollouts import Rollouts
from ladle.server.wiring.startup import StartupError
from ladle.server.wiring.workers.serving.member import Member
from ladle.server.wiring.workers.serving.siblings import Siblings
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import StoreUrl

if TYPE_CHECKING:
    from ladle.server.wiring.http_server import HttpServer

logger = logging.getLogger(__name__)

# How long a stopping server goes on taking requests at most.
_LONGEST_LAME_DUCK_S = 5.0
# How long models that are idle may take to unload, even where no grace is left.
_UNLOAD_S = 1.0


class Server:
    """A model server in this process.

    Order of calls: `start`, or `open` and then `wait_for_models`; then `stop`. All block. `stop`
    may be called in another thread while `wait_for_models` waits.
    """

    def __init__(
        self,
        config: Config,
        *,
        load: ModelLoader | None = None,
        check: Check | None = None,
        observer: Observer | None = None,
        passed: Passed | None = None,
        siblings: Siblings | None = None,
        open_store: Callable[[StoreUrl], Store] = open_store,
        listens: bool = True,
        owns_process: bool = False,
    ) -> None:
        """Take how to make a servable of a version's folder; by default TensorFlow does.

        Args:
            config: the settings.
            load: loads a version.
            check: says what a version lacks to be whole; with a `load` of the caller's, nothing.
            observer: hears of requests, runs and loads.
            passed: sockets to listen on in place of ports.
            siblings: the other workers, where this is one of several.
            open_store: returns the bucket of a URL, in which models lie.
            listens: whether there are ports at all; without, only who has `methods` can ask.
            owns_process: whether the process is there for this server alone. Then it may change
                what is the whole process's: how long threads keep Python's lock during a load.

        Raises:
            StartupError: A file that the config names is of no use.
        """
        config, platform = startup.with_platform(config)
        self._config = config
        # All files are read before anything is made that would have to be stopped.
        self.access, self._tokens_file = startup.access(config)
        """Who may call what."""
        tls = startup.tls(config)
        metrics_path = startup.metrics_path(config)
        transport = transports.chosen(config).name if listens else ""
        check = check or (find_missing if load is None else lambda _: None)
        load = load or saved_model_loader(config, platform)

        # A start that fails and a stop may halt at the same time, in two threads.
        self._halting = threading.Lock()
        configured, serving = Configured(), ServingMap()
        self._observers = Observers(
            config,
            configured.models,
            serving.is_available,
            observer,
            worker=siblings.number if siblings is not None else None,
        )
        configured.add_listener(self._observers.models_changed)
        self.request_logs = self._observers.request_logs
        """The samples of requests that logging_config asks for."""
        self.metrics = self._observers.metrics
        """Everything counted."""
        observer = self._observers.all
        self._remote = RemoteModels(config, check, self.metrics.stores, open_store=open_store)
        load = self._remote.cache.holding(load)
        self._batching = batching_loader(config, platform, load, observer)
        self._on_demand = OnDemand(
            config, lambda models: self._models.found(models), check, open_store
        )
        load = self._on_demand.measured(self._batching)
        if owns_process:
            load = ShortSlices().held()(load)
        self.manager = Manager(
            load, startup.manager_options(config), serving=serving, others=siblings
        )
        """Every version of every model."""
        self._source: Source = FileSystemSource(
            self.manager,
            poll_wait_s=config.file_system_poll_wait_seconds,
            check=check,
            remote=self._remote.base,
            stored=self._remote.folders,
        )
        self._repository = startup.model_repository(config, lambda models: self._take_file(models))
        residents = self._on_demand.residents(self.manager, self._source, self.metrics.residency)
        self._models = ModelSet(
            self.manager,
            self._source,
            configured=configured,
            residents=residents,
            allow_unavailable_labels=config.allow_version_labels_for_unavailable_models,
            catalogue=self._repository if config.model_repository else None,
        )
        self._member = (
            Member(self._models, siblings, polls=config.polls_models)
            if siblings is not None
            else None
        )
        self._config_file = ConfigFile(
            config.config_file,
            self._take_file,
            poll_wait_s=config.model_config_file_poll_wait_seconds,
            open_store=open_store,
        )
        self._rollouts = Rollouts(config, self.manager, serving, self.metrics, open_store)
        self._health = Health()
        self.methods = methods(
            self.manager,
            self._models if self._member is None else self._member.models,
            tensor_content=config.enable_serialization_as_tensor_content,
            check_method_names=config.enable_signature_method_name_check,
            access=self.access,
            observer=observer,
            counters=self.metrics.totals,
            recorder=profiler(config),
            health=self._health,
            open_inference=config.enable_open_inference,
            statistics=self.metrics.statistics,
            shadows=self._rollouts.shadows,
        )
        """Everything that the server answers, by full method path."""
        require_metrics(self.methods)
        self.exposition = Exposition(self.metrics, self.manager, residents, others=siblings)
        """Returns all metrics in Prometheus's text format; takes some milliseconds."""
        self.http: HttpServer | None = None
        """The HTTP side; None if it is not asked for."""
        self._ports: Ports | NoPorts = NoPorts()
        if listens:
            limits = transports.limits(config, observer)
            try:
                self.http = transports.http_server(
                    config,
                    self.methods,
                    limits,
                    self.manager,
                    access=self.access,
                    observer=observer,
                    tls=tls,
                    names=configured.names,
                    is_ready=self.is_healthy,
                    figures=self._figures,
                    metrics_path=metrics_path,
                    exposition=self.exposition,
                    transport=transport,
                    merge_status=siblings.merged_status if siblings is not None else None,
                )
            except StartupError:
                self._observers.stop(_UNLOAD_S)
                raise
            grpc = transports.grpc_transport(
                *(config, transport, self.methods, limits),
                access=self.access,
                observer=observer,
                tls=tls,
            )
            self._ports = Ports(config, grpc, self.http, passed)
        self._readiness = Readiness(
            self.manager,
            configured.names,
            self._health.set,
            wanted=self._models.wanted if config.loads_on_demand else None,
            open_inference=config.enable_open_inference,
            strict=config.strict_readiness,
        )
        self.manager.add_listener(self._readiness.model_changed)
        if config.loads_on_demand:  # models that nothing happens to are there too
            configured.add_listener(lambda: self._readiness.model_changed(""))
        self.addresses: tuple[str, ...] = ()
        """Where the server listens, once it does: `0.0.0.0:8500`, `unix:/path`,
        `http://0.0.0.0:8501`."""

    def is_healthy(self) -> bool:
        """Whether the health service says that the server as a whole serves."""
        return self._health.serves("")

    def snapshot(self) -> dict[str, ModelSnapshot]:
        """Return how each model does at this moment, by name; takes about a millisecond."""
        return snapshot(self.metrics, self.manager, self._rollouts.shadows.standing)

    def _figures(self) -> dict[str, dict[str, Any]]:
        return {name: asdict(model) for name, model in self.snapshot().items()}

    def start(self) -> None:
        """Bind the addresses, take requests, and return once every model is up or has failed.

        Raises:
            StartupError: The single model's base path holds no version, or none that can be
                loaded; or the model config file is wrong.
            AddressInUse: An address can't be bound.
        """
        self.open()
        self.wait_for_models()

    def open(self) -> None:
        """Bind the addresses, take requests, and begin to load.

        Requests for models that are on their way wait for them. With `wait_for_models` in the
        config nobody can connect before every model is up or has failed; that an address is in
        use is raised before anything is loaded all the same.

        Raises:
            StartupError: There is nothing to load, or a file that the config names is wrong; the
                server is stopped then.
            AddressInUse: An address can't be bound; the server is stopped then.
        """
        try:
            self._open()
        except Exception:
            self._halt()
            raise

    def _open(self) -> None:
        put_first_models = self._first_models()
        try:
            self._batching.start()
        except InvalidArgument as error:
            raise StartupError(f"--batching_parameters_file: {error.message}") from None
        self._ports.check()
        put_first_models()
        if self._member is not None:
            self._member.answer(self.exposition, self.http.own_status if self.http else dict)
        if self._config.strict_readiness is not None:
            self._readiness.model_changed("")  # there may be no models whose changes would say it
        if not self._config.wait_for_models:
            self.addresses = self._open_ports()
        self._source.start()
        self._on_demand.start()
        if self._config.model_config_file:
            self._config_file.start()
        if self._config.model_repository:
            self._repository.start()
        self._rollouts.start()
        if self.access.by_token:
            self._tokens_file.start()
        if self._config.wait_for_models:
            self.wait_for_models()
            self.addresses = self._open_ports()

    def _open_ports(self) -> tuple[str, ...]:
        try:
            return self._ports.open()
        except (OSError, RuntimeError) as error:
            raise StartupError(f"the system has no room to serve requests: {error}") from None

    def _take_file(self, models: Iterable[ModelConfig]) -> None:
        """Put the models that a file states by now in place of all."""
        if self._member is not None:
            self._member.take_file(models)
        else:
            self._models.replace(models)

    def _first_models(self) -> Callable[[], None]:
        """Return what puts the first models in place."""
        read = partial(startup.first_models, self._config, self._config_file, self._repository)
        if self._member is not None:
            return self._member.join(read)
        return partial(self._models.apply_first, read(), self._on_demand.read())

    def wait_for_models(self) -> None:
        """Block until every model that was configured at the start is up or has failed.

        Raises:
            StartupError: The single model has failed; the server is stopped then. Of a model
                config file's models those that fail leave the others alone.
        """
        if self._config.file_system_poll_wait_seconds < 0:
            return  # nothing is loaded before somebody asks for a re-scan
        self.manager.wait_until_settled(self._models.wanted(), timeout_s=None)
        name = self._config.model_name
        if not self._config.model_base_path or self._config.model_config_file:
            return
        if name not in self._models.wanted():
            return  # a request has it loaded
        if self.manager.is_available(name):
            return
        problem = self.manager.problem(name)
        if problem is not None:
            self._halt()
            raise StartupError(f"model {name!r} did not load: {problem}")

    def stop(self, *, lame_duck: bool = True) -> bool:
        """Drain and unload, within the config's drain_grace_seconds, and a second for unloading.

        Health turns NOT_SERVING first. With `lame_duck`, the server still takes requests after
        that, so that load balancers see it in time: for a third of the grace, 5 s at most, but
        only until none has come for a second. Then new ones are refused, and those under way
        finish.

        Returns False if something was still running when the time was over.
        """
        began = time.monotonic()
        deadline = began + self._config.drain_grace_seconds
        self._ports.enter_lame_duck()
        self._health.enter_lame_duck()  # last: who has seen it finds all else as it should be
        self._source.stop()
        self._on_demand.stop()
        self._config_file.stop()
        self._repository.stop()
        if lame_duck and self.addresses:
            lame_duck_s = min(_LONGEST_LAME_DUCK_S, self._config.drain_grace_seconds / 3)
            self._ports.wait_until_quiet(lame_duck_s)
        unloaded = self._halt(max(0.0, deadline - time.monotonic()))
        if not unloaded:
            logger.warning(
                "something still runs %.1f s after the stop began, with --drain_grace_seconds=%g",
                time.monotonic() - began,
                self._config.drain_grace_seconds,
            )
        return unloaded

    def _halt(self, grace_s: float = 0.0) -> bool:
        with self._halting:
            started = time.monotonic()
            if self._member is not None:
                self._member.stop_waiting()
            self._source.stop()
            self._on_demand.stop()
            self._remote.stop()
            self._config_file.stop()
            self._repository.stop()
            self._rollouts.stop()
            self._tokens_file.stop()
            self._batching.stop()
            self._ports.stop(grace_s)
            remaining_s = grace_s - (time.monotonic() - started)
            unloaded = self.manager.stop(max(_UNLOAD_S, remaining_s))
            self._observers.stop(_UNLOAD_S)
            if self._member is not None:
                self._member.say_last(self.exposition)
        return unloaded
