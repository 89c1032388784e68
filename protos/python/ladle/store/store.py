"""What a store is to ladle: a bucket with objects, each under a key, which is a path in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from ladle.store.errors import Changed, StoreError, Taken, Unreachable


class StoredObject(NamedTuple):
    """An object as a listing has it."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Opaque: another content has another one. It is compared, never computed."""
    modified_s: float
    """By the store's clock, in seconds since 1970."""


class Listing(NamedTuple):
    """What lies directly below a prefix."""

    folders: tuple[str, ...]
    """The names of the prefixes one level deeper, without slashes."""
    objects: tuple[StoredObject, ...]


class Store(Protocol):
    """One bucket. Thread-safe; every method blocks, and raises StoreError.

    A read that gets no byte for about half a minute ends with Unreachable.
    """

    def list_folder(self, prefix: str) -> Listing:
        """Return what lies directly below a prefix; nothing, where there is nothing.

        Raises:
            Absent: There is no such bucket.
        """

    def list_all(self, prefix: str, *, most: int) -> list[StoredObject]:
        """Return the objects below a prefix, at any depth; one more than `most` at most."""

    def head(self, key: str) -> StoredObject:
        """Return an object as a listing has it.

        Raises:
            Absent: There is no such object.
        """

    def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str = ""
    ) -> memoryview:
        """Return the bytes of an object, or those from `start` to before `end`.

        Raises:
            Absent: There is no such object.
            Changed: Its etag is not `if_match`.
        """

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> str:
        """Write an object whole, in one step; return its etag.

        Raises:
            Taken: `if_absent`, and there is one.
            Changed: `if_match`, and the object has another etag.
        """

    def upload(self, key: str, file: Path) -> None:
        """Write an object of a file's content, in parts where it is large."""

    def delete(self, key: str) -> None:
        """Remove an object; it may be gone already."""


def get_whole(store: Store, stored: StoredObject) -> bytes:
    """Return all bytes of an object that was listed. Blocks.

    Raises:
        StoreError: The store does not give them; it has another object now.
    """
    data = store.get(stored.key, if_match=stored.etag)
    if len(data) != stored.size:
        raise Unreachable(f"{stored.key}: expected {stored.size} bytes, the store sent {len(data)}")
    return bytes(data)


def read_small(store: Store, key: str, *, most: int) -> tuple[StoredObject, bytes]:
    """Return an object and its bytes, if there are at most `most`. Blocks.

    Raises:
        StoreError: The store does not give it.
        ValueError: It is larger.
    """
    stored = store.head(key)
    if stored.size > most:
        raise ValueError(f"expected at most {most} bytes, got {stored.size}")
    return stored, get_whole(store, stored)


def put_own(
    store: Store, key: str, data: bytes, *, if_absent: bool = False, if_match: str = ""
) -> str:
    """Write an object as `Store.put` does, of bytes that nobody else would write. Blocks.

    An answer may be lost after the object was written. The store is asked again then, and says that
    the object is another one by now: it is the caller's own, which shows by its bytes.

    Raises:
        StoreError: As `Store.put`.
    """
    try:
        return store.put(key, data, if_absent=if_absent, if_match=if_match)
    except (Changed, Taken):
        try:
            stored, there = read_small(store, key, most=len(data))
        except (StoreError, ValueError):
            there = b""
        if there != data:
            raise
        return stored.etag
