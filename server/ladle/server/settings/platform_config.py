"""`--platform_config_file`: how models of the platform `tensorflow` are loaded, as upstream has it.

Most of what it sets has a flag of its own here; where the file sets a field, the file counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ladle.protos.services import pool
from ladle.protos.serving_pb import (
    PlatformConfigMap,
    SavedModelBundleSourceAdapterConfig,
    SessionBundleConfig,
)
from ladle.protos.tensorflow_pb import ConfigProto
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.regular_file import read_text
from ladle.server.settings.batching_parameters import batch_options

_MAX_BYTES = 1 << 20
_PLATFORM = "tensorflow"

# For each field of SessionBundleConfig that has a flag: the flag, and the flag's value.
_FLAGS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "saved_model_tags": ("saved_model_tags", ",".join),
    "enable_model_warmup": ("enable_model_warmup", bool),
    "prefer_tflite_model": ("prefer_tflite_model", bool),
    "num_tflite_interpreters_per_pool": ("num_tflite_interpreters_per_pool", int),
    "num_tflite_pools": ("num_tflite_pools", int),
    "enable_per_model_batching_params": ("enable_per_model_batching_parameters", bool),
    "mixed_precision": ("mixed_precision", str),
}


@dataclass(frozen=True)
class PlatformConfig:
    """What the file says."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    """Values of flags, by the flags' names."""
    session: ConfigProto | None = None
    """How sessions are made; None leaves it to the flags."""
    batching: BatchOptions | None = None
    """How requests are batched, for which the user vouches; None leaves it to the flags."""
    without_effect: tuple[str, ...] = ()
    """Fields and platforms that the file sets and that mean nothing here."""


def read_platform_config(file: Path) -> PlatformConfig:
    """Return what a PlatformConfigMap in text format says.

    Raises:
        InvalidArgument: It can't be read, or is no such thing, or says nothing of `tensorflow`.
    """
    try:
        return parse(read_text(file, _MAX_BYTES))
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None


def parse(text: str) -> PlatformConfig:
    """As `read_platform_config`, of the file's text."""
    try:
        given = text_format.Parse(text, PlatformConfigMap(), descriptor_pool=pool())
    except text_format.ParseError as error:
        raise InvalidArgument(f"expected a PlatformConfigMap in text format: {error}") from None
    if _PLATFORM not in given.platform_configs:
        raise InvalidArgument(
            f"expected a platform {_PLATFORM!r}, got {sorted(given.platform_configs)}"
        )
    adapter = SavedModelBundleSourceAdapterConfig()
    packed = given.platform_configs[_PLATFORM].source_adapter_config
    if not packed.Unpack(adapter):
        raise InvalidArgument(
            f"{_PLATFORM}: expected a {adapter.DESCRIPTOR.full_name}, "
            f"got {packed.type_url or 'none'}"
        )
    others = [f"platform {name}" for name in given.platform_configs if name != _PLATFORM]
    return _of_bundle(adapter.legacy_config, sorted(others))


def _of_bundle(bundle: SessionBundleConfig, without_effect: list[str]) -> PlatformConfig:
    flags: dict[str, Any] = {}
    session: ConfigProto | None = None
    batching: BatchOptions | None = None
    for descriptor, value in bundle.ListFields():
        name = descriptor.name
        if name in _FLAGS:
            flag, of = _FLAGS[name]
            flags[flag] = of(value)
        elif name == "session_config":
            session = value
        elif name == "batching_parameters":
            batching = batch_options(value)
        elif name == "model_warmup_options":
            for inner, _ in value.ListFields():
                if inner.name == "num_request_iterations":
                    iterations = value.num_request_iterations.value
                    flags["num_request_iterations_for_warmup"] = iterations
                else:
                    without_effect.append(f"{name}.{inner.name}")
        else:
            without_effect.append(name)
    return PlatformConfig(flags, session, batching, tuple(without_effect))
