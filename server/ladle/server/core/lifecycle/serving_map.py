"""What requests see: the versions that can be had, and the labels on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ladle.server.core.errors import NotFound
from ladle.server.core.lifecycle.entry import Entry, Handle
from ladle.server.core.lifecycle.states import State
from ladle.server.core.sources.version_policy import effective_labels


@dataclass(frozen=True)
class Serving:
    """The versions of one model that requests can have, and the labels on them."""

    versions: Mapping[int, Entry]
    latest: Entry
    labels: Mapping[str, int]
    """Those of the model's folder that are in force."""

    def find(self, version: int | None) -> Entry | None:
        """Return a version, or the highest one."""
        return self.latest if version is None else self.versions.get(version)


class ServingMap:
    """An immutable map of all models, replaced as a whole by a single assignment.

    Any thread reads it, and never waits; it is changed under the manager's lock.
    """

    def __init__(self) -> None:
        self._serving: Mapping[str, Serving] = {}
        self._configured_labels: Mapping[str, Mapping[str, int]] = {}
        self._folder_labels: dict[str, Mapping[str, int]] = {}  # as they lie beside the versions

    def __contains__(self, name: str) -> bool:
        """Whether a version of the model can be had."""
        return name in self._serving

    def acquire(self, name: str, version: int | None = None) -> Handle:
        """Return a handle on a version, or on the highest one available; never blocks.

        Raises:
            NotFound: No such version is available.
        """
        while True:
            serving = self._serving.get(name)
            found = serving and serving.find(version)
            if not found:
                # "Servable" is what clients and readiness probes of upstream look for.
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise NotFound(f"Servable not found for request: {wanted}")
            if found.retain():
                return Handle(found)
            # It was quiesced since the look-up; the map has been replaced before that.

    def is_available(self, name: str, version: int | None = None) -> bool:
        """Whether a version can be had, or any of the model."""
        serving = self._serving.get(name)
        return serving is not None and serving.find(version) is not None

    def available(self) -> list[Entry]:
        """Return the versions that can be had."""
        return [e for serving in self._serving.values() for e in serving.versions.values()]

    def has_configured_labels(self, name: str) -> bool:
        """Whether a model's labels are those of the configuration."""
        return bool(self._configured_labels.get(name))

    def labels(self, name: str) -> Mapping[str, int]:
        """Return a model's labels: those configured or, where none are, those of its folder."""
        configured = self._configured_labels.get(name)
        if configured:
            return configured
        serving = self._serving.get(name)
        return serving.labels if serving else {}

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all configured labels, of all models, at once."""
        self._configured_labels = labels

    def set_folder_labels(self, name: str, labels: Mapping[str, int]) -> bool:
        """Take the labels of a model's folder, which `publish` puts in force; False: as before."""
        if self._folder_labels.get(name, {}) == labels:
            return False
        self._folder_labels[name] = labels
        if not labels:
            del self._folder_labels[name]
        return True

    def publish(self, name: str, versions: Mapping[int, Entry]) -> None:
        """Replace what requests see of a model: those of its versions that are available.

        A label of its folder is put on its version once that is available, and stays where it was
        until then.
        """
        available = {number: e for number, e in versions.items() if e.state is State.AVAILABLE}
        serving = dict(self._serving)
        before = serving.pop(name, None)
        if available:
            labels = effective_labels(
                self._folder_labels.get(name, {}),
                before.labels if before else {},
                available.__contains__,
            )
            serving[name] = Serving(available, available[max(available)], labels)
        self._serving = serving
