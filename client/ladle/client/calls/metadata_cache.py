"""The metadata cache of a client."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from ladle.client.messages.requests import Servable
from ladle.client.models import ModelMetadata


class MetadataCache:
    """The metadata of each servable, with the least recently used entry dropped first.

    An entry for a version stays right while the version is served. An entry for a label, or for
    the server's choice, can be out of date: the user of the entry compares the version that
    answered. Thread-safe; never blocks on the network. Threads that miss the same entry at once
    each fetch it.
    """

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Servable, ModelMetadata] = OrderedDict()
        self._lock = Lock()

    def find(self, target: Servable) -> ModelMetadata | None:
        """Return the entry of `target`; None if there is none."""
        with self._lock:
            metadata = self._entries.get(target)
            if metadata is not None:
                self._entries.move_to_end(target)
            return metadata

    def learn(self, target: Servable, metadata: ModelMetadata) -> None:
        """Store `metadata` for `target`, and for the version that it describes."""
        with self._lock:
            self._put(target, metadata)
            if metadata.version is not None:
                self._put(Servable(target.model, metadata.version), metadata)

    def _put(self, target: Servable, metadata: ModelMetadata) -> None:
        self._entries[target] = metadata
        self._entries.move_to_end(target)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
