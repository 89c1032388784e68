"""Waiting for models: for the first version of one, and for all that were configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ladle.server.core.clock import Clock
from ladle.server.core.errors import Cancelled, DeadlineExceeded, ServingError, Unavailable
from ladle.server.core.lifecycle.changes import ChangeNotifier
from ladle.server.core.lifecycle.registry import Registry


class Waiting:
    """Those who wait for what the registry is to say. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        changes: ChangeNotifier,
        clock: Clock,
        *,
        most: int,
        longest_s: float,
    ) -> None:
        """`most` requests wait for first versions at a time, each for at most `longest_s`."""
        self._registry = registry
        self._changed = changes.condition
        self._clock = clock
        self._most = most
        self._longest_s = longest_s
        self.requests = 0
        """How many requests wait for first versions."""

    def for_first(
        self,
        name: str,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Block while a model has its first version on the way; see `Manager.wait_for_first`."""
        limit = self._clock.now() + self._longest_s
        until = limit if deadline is None else min(limit, deadline)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            with self._changed:
                self._changed.notify_all()

        with self._changed:
            if not self._registry.is_coming(name):
                return
            if self.requests >= self._most:
                raise _loading(
                    f"model {name} is still loading, and {self.requests} requests "
                    "wait already: try again"
                )
            self.requests += 1
            self._changed.notify_all()
        try:
            if on_end is not None:
                # Without the lock: whoever calls back may hold one of its own. And only now: a
                # stream keeps it until its end, however many of its requests are refused.
                on_end(leave)
            with self._changed:
                while self._registry.is_coming(name):
                    remaining_s = until - self._clock.now()
                    if remaining_s <= 0:
                        late = Unavailable if until == limit else DeadlineExceeded
                        raise _loading(f"model {name} is still loading: try again", late)
                    if gone.is_set():
                        raise Cancelled("the caller went away")
                    self._clock.wait(self._changed, remaining_s)
        finally:
            with self._changed:
                self.requests -= 1
                self._changed.notify_all()

    def until_settled(self, names: Iterable[str], timeout_s: float | None) -> bool:
        """Block until each model is settled; False if time passed, or everything unloads."""
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        waiting = set(names)
        with self._changed:
            while waiting := {name for name in waiting if not self._registry.is_settled(name)}:
                if self._registry.stopping:
                    return False
                remaining_s = None if deadline is None else deadline - self._clock.now()
                if remaining_s is not None and remaining_s <= 0:
                    return False
                self._clock.wait(self._changed, remaining_s)
        return True


def _loading(message: str, kind: type[ServingError] = Unavailable) -> ServingError:
    error = kind(message)
    error.reason = "loading"
    return error
