"""Waiting for models: for the first version of one, and for all that were configured."""

from __future__ import annotations

import threading
from collections import Counter
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
        most_for_one: int,
        longest_s: float,
    ) -> None:
        """`most` requests wait at a time, `most_for_one` for one model, each for `longest_s`."""
        self._registry = registry
        self._changed = changes.condition
        self._clock = clock
        self._most = most
        self._most_for_one = most_for_one
        self._longest_s = longest_s
        self.requests = 0
        """How many requests wait for first versions."""
        self._by_model: Counter[str] = Counter()  # guarded by the manager's lock

    def for_first(
        self,
        name: str,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
        version: int | None = None,
    ) -> None:
        """Block while a model has its first version on the way; see `Manager.wait_for_first`.

        With a `version`, block while that one is on the way.
        """
        limit = self._clock.now() + self._longest_s
        until = limit if deadline is None else min(limit, deadline)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            with self._changed:
                self._changed.notify_all()

        with self._changed:
            if not self._registry.is_coming(name, version):
                return
            here = self._by_model[name]
            if self.requests >= self._most or here >= self._most_for_one:
                waiting = self.requests if self.requests >= self._most else here
                raise _loading(
                    f"model {name} is still loading, and {waiting} requests wait already: try again"
                )
            self.requests += 1
            self._by_model[name] += 1
            self._changed.notify_all()
        try:
            if on_end is not None:
                # Without the lock: whoever calls back may hold one of its own. And only now: a
                # stream keeps it until its end, however many of its requests are refused.
                on_end(leave)
            with self._changed:
                while self._registry.is_coming(name, version):
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
                self._by_model[name] -= 1
                if not self._by_model[name]:
                    del self._by_model[name]
                self._changed.notify_all()

    def by_model(self) -> dict[str, int]:
        """Return how many requests wait for each model for which any does."""
        return dict(self._by_model)

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
