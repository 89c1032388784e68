"""An object in a store as a file, for those who read little of it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from ladle.store.store import Store, StoredObject

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class RangeFile(io.RawIOBase):
    """Fetches what is read, and only that; for one thread. Put a buffer around it.

    Reading raises StoreError: the store does not give the bytes, or has another object by now.
    """

    def __init__(self, store: Store, stored: StoredObject) -> None:
        self._store = store
        self._stored = stored
        self._position = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._stored.size}[whence]
        if base + offset < 0:
            raise ValueError(f"expected a position of 0 or more, got {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fetch what comes next, as much as fits; return how many bytes that is."""
        view = memoryview(buffer).cast("B")
        end = min(self._position + len(view), self._stored.size)
        if end <= self._position:
            return 0
        data = self._store.get(
            self._stored.key, start=self._position, end=end, if_match=self._stored.etag
        )
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
