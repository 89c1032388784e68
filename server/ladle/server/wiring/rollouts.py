"""The roll-outs of a server: their file, who is watched, and what runs on shadows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from ladle.server.config import Config
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Entry, ServingMap
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.polling import Poller
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.rollout.split import BUCKETS, Rollout, buckets_at
from ladle.server.monitoring.metrics import Metrics
from ladle.server.settings.rollout_file import RolloutFile
from ladle.server.wiring.rollout_guard import RolloutGuard
from ladle.server.wiring.startup import StartupError
from ladle.store.store import Store
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

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
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Read the file, and have what it says in force.

        Args:
            config: names the file.
            manager: has the router.
            serving: where the versions and their labels are.
            metrics: what is counted of them.
            open_store: returns the bucket of a URL.
            wall: seconds since 1970.

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
        self._serving = serving
        self._wall = wall
        self._held_under: dict[str, float | None] = {}  # by model: when its labels were changed
        self._poller = Poller(self.step, name="roll-outs", wait_s=_POLL_WAIT_S)
        if self._is_asked_for:
            try:
                self.replace(self._file.read())
            except InvalidArgument as error:
                raise StartupError(f"--rollout_file: {error.message}") from None

    def replace(self, rollouts: Iterable[Rollout]) -> None:
        """Put others in place of all that there were."""
        rollouts = tuple(rollouts)
        held = self._router.held
        self._router.replace(rollouts)
        for rollout in rollouts:
            # Time has gone on since it was held: it would get a later step's part at once.
            if rollout.steps is not None and rollout.model in held:
                self._router.hold(rollout.model, *held[rollout.model])
        self.shadows.replace({each.model: each.shadow for each in rollouts if each.shadow})
        self.take_steps()

    def step(self) -> None:
        """Give each canary the part that is due, and hold those that do worse than they may."""
        self._release_what_is_labelled_anew()
        self.take_steps()
        self._guard.step()
        self._held_under = {
            model: self._held_under.get(model, self._serving.labelled_s(model))
            for model in self._router.held
        }

    def _release_what_is_labelled_anew(self) -> None:
        """Let steps begin once more where the labels were written since."""
        for model, labelled_s in self._held_under.items():
            rollout = self._router.rollouts.get(model)
            has_steps = rollout is not None and rollout.steps is not None
            if has_steps and self._serving.labelled_s(model) != labelled_s:
                self._router.release(model)

    def take_steps(self) -> None:
        """Give each canary that has steps the part that is due by now."""
        for rollout in self._router.rollouts.values():
            if rollout.steps is None:
                continue
            began_s = self._serving.labelled_s(rollout.model)
            since_s = None if began_s is None else self._wall() - began_s
            buckets = buckets_at(rollout.steps, since_s)
            if buckets != rollout.canary_buckets:
                self._router.give(rollout, buckets)
                logger.info(
                    "roll-out model=%s canary gets %g %%", rollout.model, buckets * 100 / BUCKETS
                )

    def start(self) -> None:
        """Look at the file and at versions on trial from now on."""
        if self._is_asked_for:
            self._file.start()
            self._poller.start()

    def stop(self) -> None:
        """End both, and run nothing more on shadows."""
        self._file.stop()
        self._poller.stop()
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
