"""One version in the manager's registry, and the handles that keep it loaded."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.states import State, transition
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId


class Handle:
    """A claim on a loaded version: it stays loaded until the handle is released.

    Use it in a `with` block around one request, and no longer.
    """

    __slots__ = ("_entry", "id", "servable")

    def __init__(self, entry: Entry) -> None:
        assert entry.servable is not None  # only available versions are handed out
        self._entry = entry
        self.id = entry.id
        self.servable = entry.servable

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the claim back; exactly once."""
        self._entry.release()


class Entry:
    """One version: its state, and who still holds it.

    State changes happen under the manager's lock; the count of handles has a lock of its own, so
    that requests to different versions never meet.
    """

    def __init__(self, servable_id: ServableId, path: Path, attempt: int = 0) -> None:
        """`attempt` counts the loads of the same files that failed before this one."""
        self.id = servable_id
        self.path = path
        self.attempt = attempt
        self.state = State.START
        self.aspired = True
        self.error: ServingError | None = None
        self.servable: Servable | None = None
        self._began = False
        self._idle = threading.Condition(threading.Lock())
        self._handles = 0
        self._quiesced = False

    @property
    def handles(self) -> int:
        """How many handles are out, at this moment."""
        return self._handles

    @property
    def has_failed(self) -> bool:
        """Whether it is wanted, and could not be loaded."""
        return self.state is State.END and self.aspired and self.error is not None

    def should_start_over(self, path: Path) -> bool:
        """Whether it has ended, and being aspired from `path` is reason to load it afresh.

        It is none where the load of these very files has failed.
        """
        failed_here = self.has_failed and self._began and path == self.path
        return self.state is State.END and not failed_here

    def move(self, to: State) -> None:
        """Take the next state; anything but a way that the table has is a bug."""
        self.state = transition(self.state, to)
        self._began = self._began or to is State.LOADING

    def end(self, error: ServingError | None) -> None:
        """Take the last state, and let go of the servable, and of what could not become one."""
        self.move(State.END)
        self.error = error
        if error is not None:
            error.clear_traceback()
        self.servable = None

    def retain(self) -> bool:
        """Count one more handle; False if none are given out any more."""
        with self._idle:
            if self._quiesced:
                return False
            self._handles += 1
            return True

    def release(self) -> None:
        """Count one handle less."""
        with self._idle:
            self._handles -= 1
            if self._quiesced and not self._handles:
                self._idle.notify_all()

    def quiesce(self) -> Servable:
        """Hand out no more handles, wait for the last one, and return what is to be closed."""
        with self._idle:
            self._quiesced = True
            while self._handles:
                self._idle.wait()
        assert self.servable is not None
        return self.servable
