"""What a Config's settings and files mean, found out before anything is made of it."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import grpc

from ladle.protos.files.versions import version_of, without_versions
from ladle.server.config import Config
from ladle.server.core.access import Access, Tokens
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import ManagerOptions
from ladle.server.core.lifecycle.states import TransitionPolicy
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.sources.version_policy import Latest
from ladle.server.monitoring.config import read_path
from ladle.server.settings import triton_model
from ladle.server.settings.batching_parameters import BatchingConfig
from ladle.server.settings.model_config_file import ConfigFile
from ladle.server.settings.platform_config import PlatformConfig, read_platform_config
from ladle.server.settings.tokens_file import TokensFile
from ladle.server.settings.triton_repository import ModelRepository
from ladle.server.transport.credentials import (
    CredentialsError,
    Pem,
    read_context,
    read_credentials,
    read_pem,
)
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

MAX_WAITING_REQUESTS = 256
"""How many requests may wait for first versions; each has a thread, which costs little but room."""


class StartupError(Exception):
    """The server can't start; the message says why, in one line."""


@dataclass(frozen=True)
class Tls:
    """What a server proves itself with."""

    grpc: grpc.ServerCredentials
    pem: Pem
    http: ssl.SSLContext | None
    """None where there is no HTTP."""


def tls(config: Config) -> Tls | None:
    """Return what `--ssl_config_file` says; None without it.

    Raises:
        StartupError: It is of no use.
    """
    if not config.ssl_config_file:
        return None
    file = Path(config.ssl_config_file)
    try:
        context = read_context(file) if config.rest_api_port != 0 else None
        return Tls(read_credentials(file), read_pem(file), context)
    except CredentialsError as error:
        raise StartupError(str(error)) from error


def access(config: Config) -> tuple[Access, TokensFile]:
    """Return who may call what, and the file that changes it later; poll it only if `by_token`.

    Raises:
        StartupError: `--auth_tokens_file` is of no use.
    """
    by_token = bool(config.auth_tokens_file)
    access = Access(Tokens({}) if by_token else None, allow_remote_admin=config.allow_remote_admin)
    file = TokensFile(Path(config.auth_tokens_file), access.replace)
    if not by_token:
        return access, file
    if not config.ssl_config_file:
        logger.warning("without --ssl_config_file anybody on the way can read the callers' tokens")
    try:
        access.replace(file.read())
    except InvalidArgument as error:
        raise StartupError(f"--auth_tokens_file: {error.message}") from None
    return access, file


def metrics_path(config: Config) -> str | None:
    """Return the path at which metrics are served; None if they are not to be.

    Raises:
        StartupError: `--monitoring_config_file` is of no use.
    """
    file = config.monitoring_config_file
    if file and config.rest_api_port == 0:
        logger.warning("--monitoring_config_file does nothing without --rest_api_port")
    try:
        return read_path(Path(file) if file else None)
    except InvalidArgument as error:
        raise StartupError(f"--monitoring_config_file: {error.message}") from None


def first_models(
    config: Config, config_file: ConfigFile, repository: ModelRepository
) -> tuple[ModelConfig, ...]:
    """Return what is to be served.

    Raises:
        StartupError: The single model has no versions, or the model config file or the model
            repository is of no use.
    """
    if config.model_repository:
        try:
            return repository.read()
        except InvalidArgument as error:
            raise StartupError(f"--model_repository: {error.message}") from None
    if config.model_root and not config.model_config_file:
        return ()
    if not config.model_config_file:
        base_path = config.base_path
        if isinstance(base_path, StoreUrl):
            return (ModelConfig(config.model_name, base_path),)
        _check_base_path(base_path)
        try:
            described = triton_model.read(base_path)
        except InvalidArgument as error:
            raise StartupError(f"--model_base_path: {error.message}") from None
        policy = described.policy if described is not None else None
        return (ModelConfig(config.model_name, base_path, policy or Latest()),)
    try:
        return config_file.read()
    except InvalidArgument as error:
        raise StartupError(f"--model_config_file: {error.message}") from None


def model_repository(
    config: Config, replace_models: Callable[[tuple[ModelConfig, ...]], object]
) -> ModelRepository:
    """Return what looks for the models of `--model_repository`, and puts them in place."""
    is_polled = config.model_control_mode == "poll"
    return ModelRepository(
        Path(config.model_repository),
        replace_models,
        poll_wait_s=config.file_system_poll_wait_seconds if is_polled else 0.0,
        only=config.loaded_models,
    )


def manager_options(config: Config) -> ManagerOptions:
    """Return how versions come and go."""
    return ManagerOptions(
        policy=cast(TransitionPolicy, config.aspired_version_policy),
        # Loads in Python hold its lock: one at a time takes less from the requests.
        max_concurrent_loads=config.num_load_threads
        or (1 if config.loads_on_demand else 4 * cpus()),
        max_load_retries=config.max_num_load_retries,
        longest_retry_wait_s=config.load_retry_interval_micros / 1e6,
        max_waiting_requests=MAX_WAITING_REQUESTS,
        max_waiting_for_one=MAX_WAITING_REQUESTS // (4 if config.loads_on_demand else 1),
    )


def with_platform(config: Config) -> tuple[Config, PlatformConfig]:
    """Return the settings with those of `--platform_config_file`, and what has no flag of it.

    Raises:
        StartupError: The file is of no use, or contradicts a flag.
    """
    if not config.platform_config_file:
        return config, PlatformConfig()
    try:
        platform = read_platform_config(Path(config.platform_config_file))
    except InvalidArgument as error:
        raise StartupError(f"--platform_config_file: {error.message}") from None
    for field, twice, flag in (
        ("session_config", platform.session, "tensorflow_session_config_file"),
        ("batching_parameters", platform.batching, "batching_parameters_file"),
    ):
        if twice is not None and getattr(config, flag):
            raise StartupError(
                f"--platform_config_file sets {field}: expected it or --{flag}, got both"
            )
    for name in platform.without_effect:
        logger.warning("--platform_config_file: %s does nothing here", name)
    try:
        return replace(config, **platform.flags), platform
    except ValueError as error:
        raise StartupError(f"--platform_config_file: {error}") from None


def batching_config(config: Config, platform: PlatformConfig) -> BatchingConfig:
    """Return where the parameters of batches come from."""
    return BatchingConfig(
        enabled=config.enable_batching,
        file=Path(config.batching_parameters_file) if config.batching_parameters_file else None,
        options=platform.batching,
        per_model=config.enable_per_model_batching_parameters,
        unbatched=config.unbatched,
        # So that a flood on one model leaves room for requests to another.
        max_enqueued_bytes=config.max_inflight_bytes // 2,
        aging_s=config.low_priority_max_wait_seconds,
    )


def _check_base_path(base_path: Path) -> None:
    """Refuse a base path without versions at once, so that nobody waits for it."""
    try:
        children = [child.name for child in base_path.iterdir()]
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupError(
            f"--model_base_path: expected a folder of numbered versions, got {base_path}: {reason}"
        ) from None
    if not any(version_of(name) is not None for name in children):
        raise StartupError(f"--model_base_path: {without_versions(base_path, children)}")
