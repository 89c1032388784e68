"""The server: puts source, manager, services and transport together, and takes them down again."""

from __future__ import annotations

import logging
from pathlib import Path

from ladle.server.config import Config
from ladle.server.core.batching import BatchingServable, BatchOptions
from ladle.server.core.manager import Loader, Manager
from ladle.server.core.servable import Servable, ServableId
from ladle.server.core.source import FileSystemSource, MonitoredModel
from ladle.server.core.versions import version_of
from ladle.server.rpc.services import methods
from ladle.server.transport.grpcio import GrpcioTransport
from ladle.server.warmup.replay import WarmupOptions, warm_up

logger = logging.getLogger(__name__)


class StartupError(Exception):
    """The server can't start; the message says why, in one line."""


class Server:
    """A model server in this process.

    Order of calls: `start`, then `stop`, once each. Both block.
    """

    def __init__(self, config: Config, *, load: Loader | None = None) -> None:
        """`load` makes a servable of a version's folder; by default TensorFlow does."""
        self._config = config
        load = _warmed(load or _saved_model_loader(config), config)
        self._manager = Manager(_batched(load, config))
        self._source = FileSystemSource(
            [MonitoredModel(config.model_name, config.base_path)],
            self._manager.aspire,
            poll_wait_s=config.file_system_poll_wait_seconds,
        )
        self._transport = GrpcioTransport(
            methods(
                self._manager,
                tensor_content=config.enable_serialization_as_tensor_content,
                check_method_names=config.enable_signature_method_name_check,
            ),
            max_threads=config.grpc_max_threads,
            options=config.channel_arguments,
        )
        self.addresses: tuple[str, ...] = ()
        """Where the server listens, once it has started: `0.0.0.0:8500`, `unix:/path`."""

    def start(self) -> None:
        """Bind the addresses, load the model, and take requests.

        Raises:
            StartupError: The base path holds no version, or none that can be loaded.
            AddressInUse: An address can't be bound.
        """
        _check_base_path(self._config.base_path)
        self.addresses = tuple(self._listen())
        self._source.start()
        name = self._config.model_name
        self._manager.wait_until_settled([name], timeout_s=None)
        statuses = self._manager.status(name)
        if all(status.error is not None for status in statuses):
            self.stop()
            raise StartupError(f"model {name!r} did not load: {statuses[0].error}")
        self._transport.start()

    def stop(self) -> None:
        """Finish the requests under way, refuse new ones, and unload; bounded by the grace."""
        grace_s = self._config.drain_grace_seconds
        self._transport.stop(grace_s)
        self._source.stop()
        if not self._manager.stop(grace_s):
            logger.warning("unloading was not done within drain_grace_seconds=%s", grace_s)

    def _listen(self) -> list[str]:
        config = self._config
        addresses = []
        if config.port != 0:
            port = self._transport.listen(f"0.0.0.0:{config.port or 0}")
            addresses.append(f"0.0.0.0:{port}")
        if config.grpc_socket_path:
            self._transport.listen(f"unix:{config.grpc_socket_path}")
            addresses.append(f"unix:{config.grpc_socket_path}")
        return addresses


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


def _saved_model_loader(config: Config) -> Loader:
    from ladle.server.saved_model.loading import LoadOptions, load_saved_model

    both = config.tensorflow_session_parallelism
    options = LoadOptions(
        tags=config.tags,
        intra_op_threads=both or config.tensorflow_intra_op_parallelism,
        inter_op_threads=both or config.tensorflow_inter_op_parallelism,
    )
    return lambda servable_id, path: load_saved_model(servable_id, path, options)


def _warmed(load: Loader, config: Config) -> Loader:
    if not config.enable_model_warmup:
        return load
    options = WarmupOptions(
        iterations=config.num_request_iterations_for_warmup or 1,
        batch_sizes=(1,) if config.enable_batching else (),
        check_method_names=config.enable_signature_method_name_check,
    )

    def load_warmed(servable_id: ServableId, path: Path) -> Servable:
        servable = load(servable_id, path)
        try:
            warm_up(servable_id, path, servable, options)
        except BaseException:
            servable.close()
            raise
        return servable

    return load_warmed


def _batched(load: Loader, config: Config) -> Loader:
    if not config.enable_batching:
        return load
    options = BatchOptions()

    def load_batched(servable_id: ServableId, path: Path) -> Servable:
        return BatchingServable(load(servable_id, path), options)

    return load_batched
