"""Who loads a model because a request asks for it."""

from __future__ import annotations

from typing import Protocol

from ladle.server.core.lifecycle.registry import VersionStatus


class Demand(Protocol):
    """Has models loaded when requests ask for them. Thread-safe."""

    def knows(self, name: str) -> bool:
        """Whether a model is configured, loaded or not; never blocks."""

    def is_unloaded(self, name: str) -> bool:
        """Whether a model is configured and not loaded, nor about to be; never blocks."""

    def want(self, name: str) -> None:
        """Have a model loaded, unless it is loaded or on its way; does not wait for the load.

        May block for a moment, for a look at the model's folder.

        Raises:
            ResourceExhausted: There is no room for it, and none can be made now.
            ServingError: It could not be loaded a moment ago; the message says why.
        """

    def explain(self, name: str) -> None:
        """Raise why a model that was wanted is not there; return if nothing is known of that.

        Raises:
            ServingError: The model could not be loaded; the message says why.
        """

    def waited(self, seconds: float) -> None:
        """Take note of how long a request has waited for its model."""

    def look(self, name: str) -> list[VersionStatus]:
        """Return the versions of a model that is not loaded, the highest first; blocks a moment."""
