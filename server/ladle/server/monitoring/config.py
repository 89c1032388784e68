"""`--monitoring_config_file`: whether and where metrics are to be read."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf import text_format

from ladle.protos.serving_pb import MonitoringConfig
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.regular_file import read_text

DEFAULT_PATH = "/monitoring/prometheus/metrics"

_MAX_BYTES = 1 << 20
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def read_path(file: Path | None) -> str | None:
    """Return the path at which metrics are served; None if they are not to be.

    Without a file they are; a file has to say so, as upstream's does.

    Raises:
        InvalidArgument: It can't be read, or is no MonitoringConfig, or names no such path.
    """
    if file is None:
        return DEFAULT_PATH
    try:
        monitoring = text_format.Parse(read_text(file, _MAX_BYTES), MonitoringConfig())
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None
    except text_format.ParseError as error:
        raise InvalidArgument(
            f"{file}: expected a MonitoringConfig in text format: {error}"
        ) from None
    config = monitoring.prometheus_config
    if not config.enable:
        return None
    path: str = config.path or DEFAULT_PATH
    if not _PATH.fullmatch(path) or path.lower().startswith("/v1/"):
        raise InvalidArgument(
            f"{file}: path: expected one such as {DEFAULT_PATH}, and none below /v1, got {path!r}"
        )
    return path
