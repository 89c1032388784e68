"""Who loads a model because a request asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ladle.server.core.lifecycle.registry import VersionStatus


class Described(NamedTuple):
    """What a version says of itself without being loaded."""

    version: int
    signature_defs: Mapping[str, bytes]
    """The serialized `tensorflow.SignatureDef` of each signature."""
    card_json: str | None
    """The text of its model card, if it brings one."""


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

    def describe(self, name: str, version: int | None, label: str) -> Described | None:
        """Return what a model that is not loaded says of itself; blocks a moment.

        None where that can only be told once it is loaded.

        Args:
            name: the model.
            version: which; None for the one with the `label`, or for the newest.
            label: may be empty.

        Raises:
            NotFound: It has no such version.
            InvalidArgument: It has no such label.
            Unavailable: The place where its versions lie does not answer.
        """

    def look(self, name: str) -> list[VersionStatus]:
        """Return the versions of a model that is not loaded, the highest first; blocks a moment."""
