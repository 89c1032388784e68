"""Everybody who gets a server's requests, runs and loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.server.config import Config
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.observation import Fanout, Observer
from ladle.server.monitoring.access_log import AccessLog
from ladle.server.monitoring.log_files import Rotation
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.request_log import LogOptions, RequestLogs
from ladle.server.monitoring.tracing import Tracing, configured_tracer
from ladle.server.wiring.startup import StartupError

# How many models have metrics of their own where thousands may be loaded in turn.
_NAMED = 100


class Observers:
    """Metrics, traces and logs, as a Config asks for them. `stop` comes last."""

    def __init__(
        self,
        config: Config,
        models: Callable[[], Mapping[str, ModelConfig]],
        is_served: Callable[[str, int], bool],
        more: Observer | None = None,
        worker: int | None = None,
    ) -> None:
        """Begin to listen.

        Args:
            config: the settings.
            models: returns what is configured.
            is_served: whether a version of a model answers.
            more: gets everything too, and first.
            worker: the number of this process, where it is one of several.

        Raises:
            StartupError: The access log can't be written.
        """
        self._models = models
        self.metrics = Metrics(
            models,
            is_served,
            max_models=config.metrics_models or (_NAMED if config.loads_on_demand else 0),
        )
        rotation = Rotation(
            max_file_bytes=config.request_log_max_file_bytes,
            max_files=config.request_log_max_files,
        )
        options = LogOptions(rotation=rotation, suffix="" if worker is None else f".w{worker}")
        self.request_logs = RequestLogs(models, self.metrics, options)
        self._access_log = _access_log(config, self.metrics, worker)
        tracer = configured_tracer()
        self._before: list[Observer] = [
            *([more] if more else []),
            *([Tracing(tracer)] if tracer else []),
            *([self._access_log] if self._access_log else []),
        ]
        self.all = Fanout([*self._before, self.metrics])
        """Calls each of them."""

    def models_changed(self) -> None:
        """Call the request logs at the end of each request while any model is to be logged."""
        is_logged = any(model.logging for model in self._models().values())
        request_logs = [self.request_logs] if is_logged else []
        self.all.replace([*self._before, *request_logs, self.metrics])

    def stop(self, timeout_s: float) -> None:
        """Write what waits to be written, each log within `timeout_s`."""
        self.request_logs.stop(timeout_s)
        if self._access_log is not None:
            self._access_log.stop(timeout_s)


def _access_log(config: Config, metrics: Metrics, worker: int | None) -> AccessLog | None:
    if not config.access_log:
        return None
    try:
        return AccessLog(config.access_log, config.log_format, metrics, worker=worker)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupError(
            f"--access_log: {config.access_log} can't be written: {reason}"
        ) from None
