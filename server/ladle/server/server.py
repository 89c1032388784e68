"""The server: puts source, manager, services and transport together, and takes them down again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc

from ladle.protos.versions import version_of
from ladle.server.batching_parameters import BatchingConfig, BatchingLoader
from ladle.server.call import Methods
from ladle.server.config import Config
from ladle.server.config_file import ConfigFile
from ladle.server.core.access import Access
from ladle.server.core.base_path import Check
from ladle.server.core.batch_plan import BatchOptions
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle import TransitionPolicy
from ladle.server.core.manager import Manager, ManagerOptions
from ladle.server.core.model_config import ModelConfig
from ladle.server.core.observation import (
    Fanout,
    Observation,
    Observer,
    Unobserved,
    observed_load,
)
from ladle.server.core.reloading import ModelSet
from ladle.server.core.servable import Model, ServableId
from ladle.server.core.source import FileSystemSource
from ladle.server.monitoring.access_log import AccessLog
from ladle.server.monitoring.config import read_path
from ladle.server.monitoring.exposition import Exposition
from ladle.server.monitoring.log_files import Rotation
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.request_log import LogOptions, RequestLogs
from ladle.server.monitoring.snapshot import ModelSnapshot, snapshot
from ladle.server.monitoring.tracing import Tracing, configured_tracer
from ladle.server.readiness import Readiness
from ladle.server.rpc.guard import gate
from ladle.server.rpc.services import methods
from ladle.server.saved_model.wholeness import missing
from ladle.server.tokens_file import TokensFile
from ladle.server.transport import unix_socket
from ladle.server.transport.addresses import AddressInUse, check
from ladle.server.transport.credentials import (
    CredentialsError,
    read_context,
    read_credentials,
)
from ladle.server.transport.grpcio import GrpcioTransport
from ladle.server.warmup.replay import WarmupOptions, warm_up

if TYPE_CHECKING:
    from ladle.server.http_server import HttpServer

logger = logging.getLogger(__name__)

ModelLoader: TypeAlias = "Callable[[ServableId, Path], Model]"
"""Loads a version from its folder, warm-up included; blocks, and raises ServingError."""

# How long a stopping server goes on taking requests at most, and how long none must have come.
_LONGEST_NOTICE_S = 5.0
_QUIET_S = 1.0
# How long models that are idle may take to unload, even where no grace is left.
_UNLOAD_S = 1.0
# How many requests may wait for first versions; each has a thread, which costs little but room.
_MAX_WAITING_REQUESTS = 256


class StartupError(Exception):
    """The server can't start; the message says why, in one line."""


class Server:
    """A model server in this process.

    Order of calls: `start`, or `open` and then `wait_for_models`; then `stop`. All block.
    """

    def __init__(
        self,
        config: Config,
        *,
        load: ModelLoader | None = None,
        check: Check | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Take how to make a servable of a version's folder; by default TensorFlow does.

        Args:
            config: the settings.
            load: loads a version.
            check: says what a version lacks to be whole; with a `load` of the caller's, nothing.
            observer: hears of requests, runs and loads.

        Raises:
            StartupError: A file that the config names is of no use.
        """
        self._config = config
        check = check or (missing if load is None else lambda _: None)
        self.metrics = Metrics(
            lambda: self._models.models,
            lambda name, version: self._manager.is_available(name, version),
        )
        """Everything counted."""
        self._request_logs = RequestLogs(
            lambda: self._models.models,
            self.metrics,
            LogOptions(
                rotation=Rotation(
                    max_file_bytes=config.request_log_max_file_bytes,
                    max_files=config.request_log_max_files,
                )
            ),
        )
        self._access_log = _access_log(config, self.metrics)
        observer = Fanout(
            [
                observer or Unobserved(),
                *([Tracing(tracer)] if (tracer := configured_tracer()) else []),
                *([self._access_log] if self._access_log else []),
                self._request_logs,
                self.metrics,
            ]
        )
        load = _warmed(
            load or _saved_model_loader(config),
            config,
            lambda path: self._batching.options(path),
            observer,
        )
        load = observed_load(load, observer)
        self._batching = BatchingLoader(load, _batching(config), observer=observer)
        self._manager = Manager(self._batching, _manager_options(config))
        self._source = FileSystemSource(
            self._manager,
            poll_wait_s=config.file_system_poll_wait_seconds,
            check=check,
        )
        self._models = ModelSet(
            self._manager,
            self._source,
            allow_unavailable_labels=config.allow_version_labels_for_unavailable_models,
        )
        self._config_file = ConfigFile(
            Path(config.model_config_file),
            self._models.replace,
            poll_wait_s=config.model_config_file_poll_wait_seconds,
        )
        self._tokens_file = TokensFile(
            Path(config.auth_tokens_file), lambda tokens: self._access.replace(tokens)
        )
        self._access = self._read_access()
        served = methods(
            self._manager,
            self._models,
            tensor_content=config.enable_serialization_as_tensor_content,
            check_method_names=config.enable_signature_method_name_check,
            access=self._access,
            observer=observer,
            counters=self.metrics.totals,
        )
        self._transport = GrpcioTransport(
            served,
            max_request_bytes=config.max_request_bytes,
            max_inflight_bytes=config.max_inflight_bytes,
            max_threads=config.grpc_max_threads,
            max_waiting=_MAX_WAITING_REQUESTS + 1,  # one to refuse the others
            options=config.channel_arguments,
            credentials=_credentials(config),
            gate=gate(self._access, observer),
            refused=lambda error: Observation("", "GRPC", b"").end(error, observer),
        )
        self.exposition = Exposition(self.metrics, self._manager)
        """Returns all metrics in Prometheus's text format; takes some milliseconds."""
        self._http = self._http_server(served, observer)
        readiness = Readiness(
            self._manager, lambda: self._models.models.keys(), self._transport.health.set
        )
        self._manager.add_listener(readiness.model_changed)
        self.addresses: tuple[str, ...] = ()
        """Where the server listens, once it has started: `0.0.0.0:8500`, `unix:/path`,
        `http://0.0.0.0:8501`."""

    def snapshot(self) -> dict[str, ModelSnapshot]:
        """Return how each model does at this moment, by name; takes about a millisecond."""
        return snapshot(self.metrics, self._manager)

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
        use is told before anything is loaded all the same.

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
        models = self._first_models()
        try:
            self._batching.start()
        except InvalidArgument as error:
            raise StartupError(f"--batching_parameters_file: {error.message}") from None
        self._check_addresses()
        self._models.begin(models)
        if not self._config.wait_for_models:
            self._take_requests()
        self._source.start()
        if self._config.model_config_file:
            self._config_file.start()
        if self._access.by_token:
            self._tokens_file.start()
        if self._config.wait_for_models:
            self.wait_for_models()
            self._take_requests()

    def wait_for_models(self) -> None:
        """Block until every model that was configured at the start is up or has failed.

        Raises:
            StartupError: The single model has failed; the server is stopped then. Of a model
                config file's models those that fail leave the others alone.
        """
        if self._config.file_system_poll_wait_seconds < 0:
            return  # nothing is loaded before somebody asks for a re-scan
        self._manager.wait_until_settled(self._models.models, timeout_s=None)
        name = self._config.model_name
        if self._config.model_config_file or self._manager.is_available(name):
            return
        problem = self._manager.problem(name)
        if problem is not None:
            self._halt()
            raise StartupError(f"model {name!r} did not load: {problem}")

    def stop(self, *, notice: bool = True) -> bool:
        """Drain and unload, within the config's drain_grace_seconds, and a second for unloading.

        Health turns NOT_SERVING first. With `notice`, requests are still taken after that, so that
        load balancers see it in time: for a third of the grace, 5 s at most, but only until none
        has come for a second. Then new ones are refused, and those under way finish.

        Returns False if something was still running when the time was over.
        """
        deadline = time.monotonic() + self._config.drain_grace_seconds
        self._transport.health.shut_down()
        self._source.stop()
        self._config_file.stop()
        if notice:
            notice_s = min(_LONGEST_NOTICE_S, self._config.drain_grace_seconds / 3)
            if self._http is not None:
                self._http.send_away()
            self._transport.wait_until_quiet(
                _QUIET_S, notice_s, lambda: self._http.requests if self._http else 0
            )
        return self._halt(max(0.0, deadline - time.monotonic()))

    def _halt(self, grace_s: float = 0.0) -> bool:
        started = time.monotonic()
        self._source.stop()
        self._config_file.stop()
        self._tokens_file.stop()
        self._batching.stop()
        if self._http is not None:
            self._http.begin_stop(grace_s)  # both sides have the same time
        self._transport.stop(grace_s)
        if self._http is not None:
            self._http.stop(max(0.0, grace_s - (time.monotonic() - started)))
        remaining_s = grace_s - (time.monotonic() - started)
        unloaded = self._manager.stop(max(_UNLOAD_S, remaining_s))
        self._request_logs.stop(_UNLOAD_S)
        if self._access_log is not None:
            self._access_log.stop(_UNLOAD_S)
        if not unloaded:
            logger.warning("something still runs after the %g s of the grace", grace_s)
        return unloaded

    def _read_access(self) -> Access:
        config = self._config
        if not config.auth_tokens_file:
            return Access(allow_remote_admin=config.allow_remote_admin)
        if not config.ssl_config_file:
            logger.warning(
                "without --ssl_config_file anybody on the way can read the callers' tokens"
            )
        try:
            return Access(self._tokens_file.read())
        except InvalidArgument as error:
            raise StartupError(f"--auth_tokens_file: {error.message}") from None

    def _take_requests(self) -> None:
        self.addresses = tuple(self._listen())
        self._transport.start()
        if self._http is not None:
            self._http.start()

    def _http_server(self, served: Methods, observer: Observer) -> HttpServer | None:
        config = self._config
        metrics_path = _metrics_path(config)
        if config.rest_api_port == 0:
            if config.monitoring_config_file:
                logger.warning("--monitoring_config_file does nothing without --rest_api_port")
            return None
        from ladle.server.http_server import HttpServer, PathTaken
        from ladle.server.rest.app import AppOptions
        from ladle.server.rest.monitoring import metrics_route

        try:
            return HttpServer(
                self._manager,
                served,
                limits=self._transport.limits,
                more_routes=[metrics_route(metrics_path, self.exposition)] if metrics_path else [],
                access=self._access,
                observer=observer,
                names=lambda: self._models.models.keys(),
                load=lambda: {name: asdict(model) for name, model in self.snapshot().items()},
                is_ready=lambda: self._transport.health.serves(""),
                max_threads=config.rest_api_num_threads,
                max_waiting=_MAX_WAITING_REQUESTS + 1,
                options=AppOptions(
                    timeout_s=config.rest_api_timeout_in_ms / 1000,
                    cors=config.rest_api_enable_cors_support,
                ),
                tls=read_context(Path(config.ssl_config_file)) if config.ssl_config_file else None,
            )
        except PathTaken as error:
            raise StartupError(f"--monitoring_config_file: path: {error}") from None

    def _first_models(self) -> tuple[ModelConfig, ...]:
        config = self._config
        if not config.model_config_file:
            _check_base_path(config.base_path)
            return (ModelConfig(config.model_name, config.base_path),)
        try:
            return self._config_file.read()
        except InvalidArgument as error:
            raise StartupError(f"--model_config_file: {error.message}") from None

    def _check_addresses(self) -> None:
        config = self._config
        # Whoever has gRPC ask for SO_REUSEPORT shares the port.
        if config.port and not dict(config.channel_arguments).get("grpc.so_reuseport"):
            check(config.port, "port")
        path = config.grpc_socket_path
        if path and (problem := unix_socket.make_way(path)):
            raise AddressInUse(f"can't listen on unix:{path}: {problem}")
        if config.rest_api_port:
            check(config.rest_api_port, "rest_api_port")

    def _listen(self) -> list[str]:
        config = self._config
        addresses = []
        if config.port != 0:
            port = self._transport.listen(f"0.0.0.0:{config.port or 0}")
            addresses.append(f"0.0.0.0:{port}")
        if config.grpc_socket_path:
            self._transport.listen(f"unix:{config.grpc_socket_path}")
            addresses.append(f"unix:{config.grpc_socket_path}")
        if self._http is not None:
            addresses.append(self._http.listen(config.rest_api_port or 0))
        return addresses


def _credentials(config: Config) -> grpc.ServerCredentials | None:
    if not config.ssl_config_file:
        return None
    try:
        return read_credentials(Path(config.ssl_config_file))
    except CredentialsError as error:
        raise StartupError(str(error)) from error


def _access_log(config: Config, metrics: Metrics) -> AccessLog | None:
    if not config.access_log:
        return None
    try:
        return AccessLog(config.access_log, config.log_format, metrics)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupError(
            f"--access_log: {config.access_log} can't be written: {reason}"
        ) from None


def _metrics_path(config: Config) -> str | None:
    file = config.monitoring_config_file
    try:
        return read_path(Path(file) if file else None)
    except InvalidArgument as error:
        raise StartupError(f"--monitoring_config_file: {error.message}") from None


def _check_base_path(base_path: Path) -> None:
    """Say at once what would otherwise be waited for in vain."""
    try:
        children = [child.name for child in base_path.iterdir()]
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupError(
            f"--model_base_path: expected a folder of numbered versions, got {base_path}: {reason}"
        ) from None
    if not any(version_of(name) is not None for name in children):
        raise StartupError(
            f"--model_base_path: expected a folder named by a number, such as {base_path / '1'}, "
            f"and found none in {base_path}"
        )


def _manager_options(config: Config) -> ManagerOptions:
    return ManagerOptions(
        policy=cast(TransitionPolicy, config.aspired_version_policy),
        max_concurrent_loads=config.num_load_threads or 4 * (os.cpu_count() or 1),
        max_load_retries=config.max_num_load_retries,
        longest_retry_wait_s=config.load_retry_interval_micros / 1e6,
        max_waiting_requests=_MAX_WAITING_REQUESTS,
    )


def _saved_model_loader(config: Config) -> ModelLoader:
    from ladle.server.saved_model.loading import LoadOptions, load_saved_model
    from ladle.server.saved_model.session_config import SessionOptions, session_config
    from ladle.server.saved_model.tflite import MODEL_FILE, load_tflite

    both = config.tensorflow_session_parallelism
    file = config.tensorflow_session_config_file
    session = SessionOptions(
        config_file=Path(file) if file else None,
        intra_op_threads=both or config.tensorflow_intra_op_parallelism,
        inter_op_threads=both or config.tensorflow_inter_op_parallelism,
        gpu_memory_fraction=config.per_process_gpu_memory_fraction,
        xla_on_cpu=config.xla_cpu_compilation_enabled,
        xla_on_gpu=config.xla_gpu_compilation_enabled,
        bfloat16=config.mixed_precision == "bfloat16",
    )
    try:
        options = LoadOptions(tags=config.tags, config=session_config(session))
    except InvalidArgument as error:
        raise StartupError(f"--tensorflow_session_config_file {error.message}") from error
    interpreters = config.num_tflite_pools * config.num_tflite_interpreters_per_pool

    def load(servable_id: ServableId, path: Path) -> Model:
        if config.prefer_tflite_model and (path / MODEL_FILE).is_file():
            return load_tflite(
                servable_id, path, interpreters=interpreters, threads=session.intra_op_threads
            )
        return load_saved_model(servable_id, path, options)

    return load


def _warmed(
    load: ModelLoader,
    config: Config,
    batch_options: Callable[[Path], BatchOptions | None],
    observer: Observer,
) -> ModelLoader:
    if not config.enable_model_warmup:
        return load

    def load_warmed(servable_id: ServableId, path: Path) -> Model:
        batches = batch_options(path)
        options = WarmupOptions(
            iterations=config.num_request_iterations_for_warmup or 1,
            batch_sizes=(1, *batches.allowed_batch_sizes) if batches else (),
            check_method_names=config.enable_signature_method_name_check,
        )
        servable = load(servable_id, path)
        try:
            warm_up(servable_id, path, servable, options, observer)
        except BaseException:
            servable.close()
            raise
        return servable

    return load_warmed


def _batching(config: Config) -> BatchingConfig:
    return BatchingConfig(
        enabled=config.enable_batching,
        file=Path(config.batching_parameters_file) if config.batching_parameters_file else None,
        per_model=config.enable_per_model_batching_parameters,
        # So that a flood on one model leaves room for requests to another.
        max_enqueued_bytes=config.max_inflight_bytes // 2,
    )
