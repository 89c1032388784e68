"""What a client remembers of the models it has called."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from ladle.client.models import ModelMetadata
from ladle.client.requests import Servable


class MetadataCache:
    """The metadata last learned of each servable, the least recently used given up first.

    What is kept of a version stays right for as long as it is served. What is kept without a
    version, or by label, may have been overtaken; whoever uses it compares the version that
    answers. Thread-safe, and never blocks on the network: threads that ask for the same unknown
    servable at once each learn it.
    """

    def __init__(self, max_entries: int = 256) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Servable, ModelMetadata] = OrderedDict()
        self._lock = Lock()

    def find(self, asked: Servable) -> ModelMetadata | None:
        """Return what was learned of `asked`; None where it was not, or is given up."""
        with self._lock:
            metadata = self._entries.get(asked)
            if metadata is not None:
                self._entries.move_to_end(asked)
            return metadata

    def learn(self, asked: Servable, metadata: ModelMetadata) -> None:
        """Remember that `asked` is answered by the version that `metadata` is about."""
        with self._lock:
            self._put(asked, metadata)
            if metadata.version is not None:
                self._put(Servable(asked.model, metadata.version), metadata)

    def _put(self, asked: Servable, metadata: ModelMetadata) -> None:
        self._entries[asked] = metadata
        self._entries.move_to_end(asked)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
