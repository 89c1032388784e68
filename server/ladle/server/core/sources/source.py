"""What a source of versions is: it states, model by model, which versions should be served."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ladle.server.core.sources.version_policy import Latest, VersionPolicy
from ladle.store.url import StoreUrl


@dataclass(frozen=True)
class MonitoredModel:
    """A model's name, where its versions lie, and which of them are wanted."""

    name: str
    base_path: Path | StoreUrl
    policy: VersionPolicy = field(default_factory=Latest)
    keeps_labelled: bool = True
    """Whether versions that have a label beside them are wanted too."""


class AspiredVersions(Protocol):
    """Who takes what lies under the base paths: the manager."""

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Take all the versions of a model that should be served, each with its folder."""

    def withdraw(self, name: str) -> None:
        """Take out a model that is no longer watched."""

    def label(self, name: str, labels: Mapping[str, int], changed_s: float | None = None) -> None:
        """Take the labels that lie beside a model's versions.

        `changed_s` is when they were changed, in seconds since 1970; None if that is not known.
        """

    def failed(self, name: str) -> Collection[int]:
        """Return the aspired versions that could not be loaded."""

    def retry(self, name: str, version: int) -> None:
        """Load a failed version afresh: its files have changed."""

    def report(
        self,
        name: str,
        problem: str | None,
        *,
        final: bool,
        incomplete: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """Take why versions are missing, and why each of `incomplete` can't be loaded yet.

        `final`: waiting alone won't change that.
        """

    def source_stopped(self) -> None:
        """Take note that nothing more will be aspired."""


class Source(Protocol):
    """Follows models from `start` to `stop`, and states their versions to an AspiredVersions.

    Thread-safe.
    """

    def set_models(self, models: Iterable[MonitoredModel]) -> None:
        """Follow these models and no others; those left out are withdrawn. Returns at once."""

    def watch(self, model: MonitoredModel) -> None:
        """Follow one model more, or follow it by another base path or policy; returns at once."""

    def unwatch(self, name: str) -> None:
        """Follow one model less: it is withdrawn. Returns at once."""

    def scan(self, name: str) -> None:
        """Scan the base path of a model that is followed, and was not scanned yet; may block.

        What does not answer within some seconds goes on by itself.
        """

    def versions(self, model: MonitoredModel) -> Mapping[int, str]:
        """Return the versions that a model would have, followed or not, with their folders' names.

        May block.

        Raises:
            Unavailable: The place where they lie does not answer.
        """

    def start(self) -> None:
        """Look for versions now, and again from time to time; may block for a first scan."""

    def stop(self) -> None:
        """State nothing any more; may block for as long as a scan takes."""

    def rescan(self, name: str) -> bool:
        """Scan one model's base path now, and retry its failed versions; blocks for some seconds.

        Returns False if the model is not followed.

        Raises:
            Unavailable: The place where the versions lie does not answer.
        """
