"""The roll-outs of a server: their file, who is watched, and what runs on shadows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ladle.server.config import Config
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Entry, ServingMap
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.rollout.split import Rollout
from ladle.server.monitoring.metrics import Metrics
from ladle.server.settings.rollout_file import RolloutFile
from ladle.server.wiring.rollout_guard import RolloutGuard
from ladle.server.wiring.startup import StartupError
from ladle.store.store import Store
from ladle.store.url import StoreUrl

_POLL_WAIT_S = 1.0


class Rollouts:
    """What `--rollout_file` asks for. Order of calls: `start` and `stop`; neither blocks."""

    def __init__(
        self,
        config: Config,
        manager: Manager,
        serving: ServingMap,
        metrics: Metrics,
        open_store: Callable[[StoreUrl], Store],
    ) -> None:
        """Read the file, and have what it says in force.

        Raises:
            StartupError: `--rollout_file` is of no use.
        """
        self._router = manager.router
        self._is_asked_for = bool(config.rollout_file)
        processors = cpus()
        self.shadows = ShadowRuns(
            serving,
            self._router,
            metrics.shadows,
            is_busy=lambda: is_busy(serving.available(), processors),
        )
        """Runs requests on other versions too."""
        path = config.rollouts
        is_far = isinstance(path, StoreUrl)
        self._file = RolloutFile(
            path,
            self.replace,
            poll_wait_s=config.remote_poll_wait_seconds if is_far else _POLL_WAIT_S,
            open_store=open_store,
        )
        self._guard = RolloutGuard(self._router, metrics, self.shadows)
        if self._is_asked_for:
            try:
                self.replace(self._file.read())
            except InvalidArgument as error:
                raise StartupError(f"--rollout_file: {error.message}") from None

    def replace(self, rollouts: Iterable[Rollout]) -> None:
        """Put others in place of all that there were."""
        rollouts = tuple(rollouts)
        self._router.replace(rollouts)
        self.shadows.replace({each.model: each.shadow for each in rollouts if each.shadow})

    def start(self) -> None:
        """Look at the file and at versions on trial from now on."""
        if self._is_asked_for:
            self._file.start()
            self._guard.start()

    def stop(self) -> None:
        """End both, and run nothing more on shadows."""
        self._file.stop()
        self._guard.stop()
        self.shadows.stop()


def is_busy(entries: Iterable[Entry], processors: int) -> bool:
    """Whether requests of callers need the processors.

    They do while any waits for a batch, or batches run on half of the processors or more.
    """
    running = 0
    for entry in entries:
        servable = entry.servable  # once: an unload takes it away at any moment
        if isinstance(servable, BatchingServable):
            depth = servable.depth
            if depth.requests:
                return True
            running += depth.running
    return running >= max(1, processors // 2)
