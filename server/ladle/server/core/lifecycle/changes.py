"""The manager's lock, with who waits on it for a change, and who is told of one."""

from __future__ import annotations

import threading
from collections.abc import Callable

Listener = Callable[[str], None]
"""Told a model's name after something about it may have changed; it asks for itself what."""


class Changes:
    """What changed of which models. Thread-safe."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        """Held around all that changes; notified of each change."""
        self._listeners: list[Listener] = []
        self._untold: dict[str, None] = {}

    def add_listener(self, listener: Listener) -> None:
        """Have `listener` told of every change; called from any thread, without a lock held."""
        self._listeners.append(listener)

    def note(self, name: str) -> None:
        """Wake who waits, and take note that a model has changed; called locked."""
        self._untold[name] = None
        self.condition.notify_all()

    def tell(self) -> None:
        """Tell the listeners what was noted; called without the lock."""
        with self.condition:
            names, self._untold = list(self._untold), {}
        for name in names:
            for listener in self._listeners:
                listener(name)
