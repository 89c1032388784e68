"""The manager's lock, who waits on it for a change, and who is notified of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Listener = Callable[[str], None]
"""Gets a model's name after something about the model may have changed."""


class ChangeNotifier:
    """Notifies listeners of changes of models. Thread-safe."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        """Held around all that changes; notified of each change."""
        self._listeners: list[Listener] = []
        # Guarded by condition.
        self._pending: dict[str, None] = {}

    def add_listener(self, listener: Listener) -> None:
        """Have `listener` called after every change, from any thread, without a lock held."""
        self._listeners.append(listener)

    def record(self, name: str) -> None:
        """Remember that a model has changed, and wake who waits; called with `condition` held."""
        self._pending[name] = None
        self.condition.notify_all()

    def notify(self) -> None:
        """Call the listeners with what was recorded; called without the lock."""
        with self.condition:
            names, self._pending = list(self._pending), {}
        self.tell(names)

    def tell(self, names: Iterable[str]) -> None:
        """Call the listeners with `names`; called without the lock."""
        for name in names:
            for listener in self._listeners:
                listener(name)
