"""The metadata cache of a client."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TypeAlias

from ladle.client.messages.requests import Servable
from ladle.client.models import ModelMetadata

Callers: TypeAlias = "tuple[tuple[str, str], ...]"
"""The metadata that a caller sends with its requests."""


class MetadataCache:
    """The metadata of each servable, with the least recently used entry dropped first.

    An entry for a version stays right while the version is served. An entry for a label, or for
    the server's choice, can be out of date: the user of the entry compares the version that
    answered. Thread-safe; never blocks on the network. Threads that miss the same entry at once
    each fetch it.
    """

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[tuple[Servable, Callers], ModelMetadata] = OrderedDict()
        self._lock = Lock()

    def find(self, target: Servable, callers: Callers = ()) -> ModelMetadata | None:
        """Return the entry of `target`; None if there is none.

        `callers` is the metadata that a caller sends. Where a roll-out gave it another version than
        other callers, the entry is that version's.
        """
        with self._lock:
            for key in ((target, callers), (target, ())):
                metadata = self._entries.get(key)
                if metadata is not None:
                    self._entries.move_to_end(key)
                    return metadata
            return None

    def learn(self, target: Servable, metadata: ModelMetadata, callers: Callers = ()) -> None:
        """Store `metadata` for `target`, and for the version that it describes."""
        with self._lock:
            others = self._entries.get((target, ())) if callers else None
            if others is not None and others.version != metadata.version:
                self._put((target, callers), metadata)
            else:
                self._entries.pop((target, callers), None)
                self._put((target, ()), metadata)
            if metadata.version is not None:
                self._put((Servable(target.model, metadata.version), ()), metadata)

    def _put(self, key: tuple[Servable, Callers], metadata: ModelMetadata) -> None:
        self._entries[key] = metadata
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
