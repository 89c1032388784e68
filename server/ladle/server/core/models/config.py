"""Which models are served, as a ModelServerConfig states it, and which of its wishes are legal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format

from ladle.protos.services import pool
from ladle.protos.serving_pb import ModelConfig as ModelConfigProto
from ladle.protos.serving_pb import ModelServerConfig
from ladle.server.core.errors import FailedPrecondition, InvalidArgument
from ladle.server.core.sources.source import MonitoredModel
from ladle.server.core.sources.version_policy import All, Latest, Specific, VersionPolicy
from ladle.store.url import StoreUrl, is_url, parse_url

_TENSORFLOW = 1  # ModelType
_COLLECTOR = "file"  # upstream has no log collector of its own, and so no name for one


@dataclass(frozen=True)
class RequestLogging:
    """Which of a model's requests are logged, and where."""

    rate: float
    """The part of them, from 0 to 1."""
    filename_prefix: str
    """The start of the files' paths, absolute."""


@dataclass(frozen=True)
class ModelConfig:
    """One model: its name, where its versions lie, which are wanted, their labels, its log."""

    name: str
    base_path: Path | StoreUrl
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: RequestLogging | None = None

    @property
    def monitored(self) -> MonitoredModel:
        """What the source has to know of it."""
        # Labels beside the versions count only where the configuration has none.
        return MonitoredModel(
            self.name, self.base_path, self.policy, keeps_labelled=not self.labels
        )


def read_text(text: str) -> tuple[ModelConfig, ...]:
    """Return the models of a model config file.

    Raises:
        InvalidArgument: It is no ModelServerConfig in text format, or not a legal one.
    """
    try:
        proto = text_format.Parse(text, ModelServerConfig(), descriptor_pool=pool())
    except text_format.ParseError as error:
        # These words are what scripts around upstream look for.
        raise InvalidArgument(
            f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}"
        ) from None
    return from_proto(proto)


def from_proto(proto: ModelServerConfig) -> tuple[ModelConfig, ...]:
    """Return the models of a ModelServerConfig, which may be none.

    Raises:
        InvalidArgument: It lists no models, not even an empty list, or a model is not legal.
    """
    if proto.WhichOneof("config") != "model_config_list":
        raise InvalidArgument(
            "expected a ModelServerConfig with model_config_list, "
            f"got {proto.WhichOneof('config') or 'an empty one'}"
        )
    models = tuple(map(model_from_proto, proto.model_config_list.config))
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise InvalidArgument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        seen.add(model.name)
    return models


def model_from_proto(proto: ModelConfigProto) -> ModelConfig:
    """Return one model.

    Raises:
        InvalidArgument: A field is missing, or asks for what there is not.
    """
    name = proto.name
    if not name:
        raise InvalidArgument("expected a model with a name, got one without")
    base_path = _base_path(name, proto.base_path)
    if proto.model_type and proto.model_platform:
        raise InvalidArgument(
            f"Illegal setting both ModelServerConfig::model_type(deprecated) and "
            f"ModelServerConfig::model_platform for model {name}"
        )
    if proto.model_platform != "tensorflow" and proto.model_type != _TENSORFLOW:
        given = proto.model_platform or "none"
        raise InvalidArgument(f'model {name}: expected model_platform "tensorflow", got {given}')
    if negative := [label for label, version in proto.version_labels.items() if version < 0]:
        raise InvalidArgument(f"model {name}: label {negative[0]} has a negative version")
    return ModelConfig(
        name,
        base_path,
        _policy(proto),
        dict(proto.version_labels),
        _logging(proto) if proto.HasField("logging_config") else None,
    )


def to_proto(model: ModelConfig) -> ModelConfigProto:
    """Return what `model_from_proto` makes the same model of."""
    proto = ModelConfigProto(
        name=model.name,
        base_path=str(model.base_path),
        model_platform="tensorflow",
        version_labels=model.labels,
    )
    if model.logging is not None:
        proto.logging_config.sampling_config.sampling_rate = model.logging.rate
        collector = proto.logging_config.log_collector_config
        collector.type = _COLLECTOR
        collector.filename_prefix = model.logging.filename_prefix
    policy = proto.model_version_policy
    match model.policy:
        case All():
            policy.all.SetInParent()
        case Specific(versions):
            policy.specific.versions.extend(sorted(versions))
            policy.specific.SetInParent()
        case Latest(count):
            policy.latest.num_versions = count
    return proto


def check_labels(
    models: Iterable[ModelConfig],
    current: Mapping[str, Mapping[str, int]],
    is_available: Callable[[str, int], bool],
    *,
    allow_unavailable: bool,
) -> None:
    """Refuse labels that would point nowhere.

    A label may be put on a version that is available, and stay where it is. On another it may be
    put only with `allow_unavailable`, and only if it is new: moving one that is in use would take
    its version away from those who ask by label.

    Raises:
        FailedPrecondition: A label may not be put where `models` wants it.
    """
    for model in models:
        labels = current.get(model.name, {})
        for label, version in model.labels.items():
            if labels.get(label) == version or is_available(model.name, version):
                continue
            if not (allow_unavailable and label not in labels):
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {model.name}, "
                    f"which is not currently available for inference (label {label})"
                )


def _logging(proto: ModelConfigProto) -> RequestLogging:
    config = proto.logging_config
    where = f"model {proto.name}: logging_config"
    if config.HasField("custom_logging_config"):
        raise InvalidArgument(f"{where}: custom_logging_config: expected none, got one")
    if not config.HasField("log_collector_config"):
        # The words before the colon are upstream's.
        raise InvalidArgument(
            f"model {proto.name}: No request-logger-creator provided: expected a "
            "log_collector_config with a filename_prefix"
        )
    collector = config.log_collector_config
    if collector.type not in ("", _COLLECTOR):
        raise InvalidArgument(
            f'{where}: log_collector_config: expected type "{_COLLECTOR}", got {collector.type!r}'
        )
    prefix: str = collector.filename_prefix
    if not Path(prefix).is_absolute() or prefix.endswith("/") or "\0" in prefix:
        raise InvalidArgument(
            f"{where}: log_collector_config: filename_prefix: expected an absolute path with a "
            f"name at its end, got {prefix!r}"
        )
    rate: float = config.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise InvalidArgument(f"{where}: sampling_rate: expected 0 to 1, got {rate:g}")
    if config.sampling_config.per_task_sampling_configs:
        raise InvalidArgument(
            f"{where}: per_task_sampling_configs: expected none, as a server here knows of no tasks"
        )
    return RequestLogging(rate, prefix)


def _base_path(name: str, given: str) -> Path | StoreUrl:
    if is_url(given):
        try:
            return parse_url(given)
        except ValueError as error:
            raise InvalidArgument(f"model {name}: base_path: {error}") from None
    if not Path(given).is_absolute() or "\0" in given:
        raise InvalidArgument(
            f"Expected model {name} to have an absolute path or URI; got base_path()={given}"
        )
    return Path(given)


def _policy(proto: ModelConfigProto) -> VersionPolicy:
    policy = proto.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(max(1, policy.latest.num_versions))
