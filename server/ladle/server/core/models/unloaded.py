"""Models that are not loaded: what is known of their versions from their folders alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ladle.protos.files.versions import read_labels
from ladle.server.core.errors import InvalidArgument, NotFound, ServingError
from ladle.server.core.lifecycle.demand import Described
from ladle.server.core.lifecycle.registry import VersionStatus
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.sources.source import Source


class Read(NamedTuple):
    """What the files of a version say."""

    signature_defs: Mapping[str, bytes]
    """The serialized `tensorflow.SignatureDef` of each signature."""
    card_json: str | None
    """The text of the model card, if there is one."""


Reader: TypeAlias = "Callable[[Path], Read | None]"
"""Reads a version's folder; None where only a load can tell."""


class Unloaded:
    """Looks into the folders of models that are not loaded. Thread-safe; blocks a moment."""

    def __init__(self, source: Source, read: Reader) -> None:
        """Take what lists the versions, and what reads one."""
        self._source = source
        self._read = read

    def statuses(self, model: ModelConfig, failure: ServingError | None) -> list[VersionStatus]:
        """Return the versions, the highest first.

        They are in the state START: a request would begin their load. `failure` is why a load of
        the first one has failed of late.

        Raises:
            Unavailable: The place where they lie does not answer.
        """
        versions = sorted(self._source.versions(model.monitored), reverse=True)
        found = [VersionStatus(version, State.START, None) for version in versions]
        if found and failure is not None:
            found[0] = VersionStatus(versions[0], State.END, failure)
        return found

    def describe(self, model: ModelConfig, version: int | None, label: str) -> Described | None:
        """Return what a version says of itself; None where only a load can tell.

        The arguments are as for `Demand.describe`.

        Raises:
            NotFound: There is no such version.
            InvalidArgument: There is no such label.
            Unavailable: The place where the versions lie does not answer.
        """
        if not isinstance(model.base_path, Path):
            return None
        if label:
            version = self._labels(model, model.base_path).get(label)
            if version is None:
                raise InvalidArgument(f"Unrecognized servable version label: {label}")
        folders = self._source.versions(model.monitored)
        if version is not None and version not in folders:
            raise NotFound(f"Servable not found for request: Specific({model.name}, {version})")
        wanted = sorted(folders, reverse=True) if version is None else [version]
        for number in wanted:
            read = self._read(model.base_path / folders[number])
            if read is not None:
                return Described(number, read.signature_defs, read.card_json)
        return None

    def _labels(self, model: ModelConfig, base_path: Path) -> Mapping[str, int]:
        if model.labels:
            return model.labels
        with suppress(OSError, ValueError):
            return read_labels(base_path)
        return {}
