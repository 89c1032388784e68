"""Loads and unloads: what the registry says is next, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ladle.server.core.clock import Clock
from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.core.lifecycle.changes import ChangeNotifier
from ladle.server.core.lifecycle.registry import Registry
from ladle.server.core.lifecycle.serving_map import Entry, ServingMap
from ladle.server.core.lifecycle.states import Load, State, Unload, retry_wait_s
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

Loader = Callable[[ServableId, Path], Servable]
"""Loads a version from its folder, warm-up included; blocks, and raises ServingError."""


class OtherProcesses(Protocol):
    """Processes that serve the same versions on the same ports. Called without a lock held."""

    def loaded(self, servable_id: ServableId) -> None:
        """Block until the others have a version too, or for a bounded time."""

    def failed(self, servable_id: ServableId) -> None:
        """Have none of the others wait for a version that can't be loaded here."""

    def leaving(self, servable_id: ServableId) -> None:
        """Block until the others say too that a version goes, or for a bounded time."""


class Transitions:
    """Takes versions from state to state as the registry says, and the map after them.

    `advance` and `advance_held_up` are called under the manager's lock.
    """

    def __init__(
        self,
        load: Loader,
        registry: Registry,
        serving: ServingMap,
        changes: ChangeNotifier,
        clock: Clock,
        *,
        max_loads: int,
        max_retries: int,
        longest_retry_wait_s: float,
        others: OtherProcesses | None = None,
    ) -> None:
        """Take what to load with, and what to change.

        Args:
            load: loads a version.
            registry: says what is to be done, and keeps what was.
            serving: the map that requests read.
            changes: the lock around all this, and who is notified.
            clock: what tells the time.
            max_loads: how many loads run at a time.
            max_retries: how often a version that failed is tried again by itself.
            longest_retry_wait_s: the bound of the waits between them.
            others: processes beside this one; None if there are none.
        """
        self._others = others
        self._load = load
        self._registry = registry
        self._serving = serving
        self._changes = changes
        self._changed = changes.condition
        self._clock = clock
        self._max_loads = max_loads
        self._max_retries = max_retries
        self._longest_retry_wait_s = longest_retry_wait_s
        # All of these are guarded by the manager's lock, changes.condition.
        self.threads: set[threading.Thread] = set()
        """Those that load, unload, or wait to load again."""
        self.loads = 0
        """How many loads run."""
        self._without_thread: set[ServableId] = set()  # the log says so of these
        self._held_up: dict[str, None] = {}  # models that wait for the place of a load, or a thread

    def advance(self, name: str) -> None:
        """Begin all that is to be done for a model; comes after every change."""
        self._held_up.pop(name, None)
        self._changes.record(name)
        self._registry.tidy(name)
        while action := self._registry.next_action(name):
            entry = self._registry.versions(name)[action.version]
            match action:
                case Load():
                    if self.loads >= self._max_loads:
                        self._held_up[name] = None
                        break
                    if self._start_thread(self._run_load, entry):
                        entry.move(State.LOADING)
                        self.loads += 1
                    else:
                        entry.end(Unavailable(f"{entry.id}: no thread can be had to load it"))
                        self._held_up[name] = None
                case Unload():
                    if not self._start_thread(self._run_unload, entry):
                        self._held_up[name] = None  # it serves on
                        break
                    # Published as unloading first, so that no observer trusts it a moment longer.
                    entry.move(State.UNLOADING)
                    entry.serves_on = self._others is not None
                    self._serving.publish(name, self._registry.versions(name))

    def advance_held_up(self) -> None:
        """Go on with the models that had to wait, until one has to wait again."""
        if self.loads >= self._max_loads:
            return
        held_up, self._held_up = self._held_up, {}
        for name in held_up:
            if self._held_up:
                self._held_up[name] = None
            else:
                self.advance(name)

    def _start_thread(self, target: Callable[[Entry], None], entry: Entry) -> bool:
        """Have a thread call `target` once the lock is free; False if none can be had."""

        def run() -> None:
            with self._changed:
                pass  # whoever started it has noted by now what the version's state is
            try:
                target(entry)
                self._changes.notify()
            finally:
                with self._changed:
                    self.threads.discard(thread)
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name=f"{target.__name__} {entry.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no room for more
            if entry.id not in self._without_thread:  # it is tried again and again
                self._without_thread.add(entry.id)
                logger.warning("%s: model=%s version=%d must wait", error, *entry.id)
            return False
        self._without_thread.discard(entry.id)
        self.threads.add(thread)
        return True

    def _run_load(self, entry: Entry) -> None:
        started = self._clock.now()
        outcome = self._outcome(entry)
        took_s = self._clock.now() - started
        with self._changed:
            self.loads -= 1
            self.advance_held_up()
        self._compare_notes(entry, outcome)
        with self._changed:
            if isinstance(outcome, ServingError):
                entry.end(outcome)
            else:
                entry.servable = outcome
                # Handles can be had before anyone is notified.
                entry.move(State.AVAILABLE)
                logger.info("available model=%s version=%d load_s=%.2f", *entry.id, took_s)
                self._serving.publish(entry.id.name, self._registry.versions(entry.id.name))
            self.advance(entry.id.name)
        if isinstance(outcome, ServingError):
            self._changes.notify()
            self._retry(entry)

    def _compare_notes(self, entry: Entry, outcome: Servable | ServingError) -> None:
        """Tell other processes how a load ended, and wait for theirs if it ended well."""
        if self._others is None:
            return
        if isinstance(outcome, ServingError):
            self._others.failed(entry.id)
        else:
            self._others.loaded(entry.id)

    def _outcome(self, entry: Entry) -> Servable | ServingError:
        """Load a version; return the error if it can't be."""
        logger.info("loading model=%s version=%d path=%s", *entry.id, entry.path)
        try:
            return self._load(entry.id, entry.path)
        except Exception as error:
            failure = error
        if not isinstance(failure, ServingError):
            logger.error("loading failed model=%s version=%d", *entry.id, exc_info=failure)
            failure = ServingError(f"{entry.id}: {failure}", Code.INTERNAL)
        logger.error("not loaded model=%s version=%d error=%s", *entry.id, failure)
        return failure.for_callers(entry.path.parent)

    def _retry(self, failed: Entry) -> None:
        """Wait, and load the version once more if it is still wanted and still failed."""
        if failed.attempt >= self._max_retries:
            return
        due = self._clock.now() + retry_wait_s(failed.attempt, self._longest_retry_wait_s)
        with self._changed:
            while (
                self._registry.is_current(failed) and failed.aspired and not self._registry.stopping
            ):
                remaining_s = due - self._clock.now()
                if remaining_s <= 0:
                    self._registry.start_over(failed, failed.attempt + 1)
                    self.advance(failed.id.name)
                    return
                self._clock.wait(self._changed, remaining_s)

    def _run_unload(self, entry: Entry) -> None:
        if self._others is not None:
            self._others.leaving(entry.id)
            with self._changed:
                entry.serves_on = False
                self._serving.publish(entry.id.name, self._registry.versions(entry.id.name))
        servable = entry.quiesce()
        try:
            servable.close()
        except Exception:
            logger.exception("closing failed model=%s version=%d", *entry.id)
        logger.info("unloaded model=%s version=%d", *entry.id)
        with self._changed:
            entry.end(None)
            self.advance(entry.id.name)
            self._registry.forget_withdrawn()
            self.advance_held_up()
