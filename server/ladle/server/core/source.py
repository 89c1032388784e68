"""The source: looks at base paths, and tells the manager which versions are aspired."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.versions import Latest, VersionPolicy, aspired

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MonitoredModel:
    """A model's name, where its versions lie, and which of them are wanted."""

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)


class FileSystemSource:
    """Polls the base paths of models and states what it finds, one model at a time.

    A base path that can't be read says nothing: what is served stays, and the other models go
    on. Upstream gives up the poll of all models then (tensorflow/serving issue 2189).
    """

    def __init__(
        self,
        models: Iterable[MonitoredModel],
        aspire: Callable[[str, Mapping[int, Path]], None],
        *,
        poll_wait_s: float,
        clock: Clock | None = None,
    ) -> None:
        """Take what to look at; nothing is read before `start`.

        Args:
            models: what to look at.
            aspire: told, from the polling thread, the wanted versions of a model and their folders.
            poll_wait_s: seconds between polls; 0 polls once, at the start; less never polls.
            clock: for tests.
        """
        self._models = tuple(models)
        self._aspire = aspire
        self._poll_wait_s = poll_wait_s
        self._clock = clock or MonotonicClock()
        self._wake = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._problems: dict[str, str] = {}

    def start(self) -> None:
        """Poll once, in the caller's thread, then go on in one of its own."""
        if self._poll_wait_s < 0:
            return
        self.step()
        if self._poll_wait_s > 0:
            self._thread = threading.Thread(target=self._run, name="file system source")
            self._thread.start()

    def stop(self) -> None:
        """End polling and join the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> None:
        """Look at every base path once."""
        for model in self._models:
            try:
                with os.scandir(model.base_path) as children:
                    names = [child.name for child in children]
            except OSError as error:
                self._report(model.name, f"could not read base path {model.base_path}: {error}")
                continue
            wanted = aspired(names, model.policy)
            if wanted:
                self._report(model.name, None)
            else:
                self._report(
                    model.name,
                    f"no versions under base path {model.base_path}: "
                    "expected a folder whose name is a number, such as 1",
                )
            self._aspire(model.name, {v: model.base_path / name for v, name in wanted.items()})

    def _report(self, name: str, problem: str | None) -> None:
        """Log a model's problem when it comes, not at every poll."""
        if problem is not None and self._problems.get(name) != problem:
            logger.warning("%s model=%s", problem, name)
        if problem is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = problem

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopped:
                    self._clock.wait(self._wake, self._poll_wait_s)
                if self._stopped:
                    return
            self.step()
