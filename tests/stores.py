"""Stores for tests: one in memory, and what publishes versions there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ladle.store.errors import Absent, Changed, Taken
from ladle.store.layout import CLAIM_NAME, MANIFEST_NAME, VersionFile, write_manifest
from ladle.store.store import Listing, Store, StoredObject
from ladle.store.url import StoreUrl, parse_url

BASE = parse_url("s3://bucket/models/m")


class FakeStore:
    """A bucket in memory, whose etags say nothing of the content.

    `before` is called at the start of each request, with its name and key: it may raise, wait, or
    change what is there. `sent` may alter what a read returns.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str, float]] = {}
        self.requests: list[tuple[str, str]] = []
        self.reads: list[tuple[str, int, int]] = []
        self.now_s = 1e9
        self.before: Callable[[str, str], None] = lambda _request, _key: None
        self.sent: Callable[[str, bytes], bytes] = lambda _key, data: data
        self.listed_size: Callable[[str, int], int] = lambda _key, size: size
        self._etags = itertools.count(1)
        self._lock = threading.Lock()

    def write(self, key: str, data: bytes) -> str:
        """Put an object there, as others do."""
        with self._lock:
            return self._write(key, data)

    def _write(self, key: str, data: bytes) -> str:
        etag = f'"{next(self._etags)}-2"'
        self.objects[key] = data, etag, self.now_s
        return etag

    def list_folder(self, prefix: str) -> Listing:
        self._begin("list", prefix)
        start = f"{prefix}/" if prefix else ""
        with self._lock:
            below = {k: v for k, v in self.objects.items() if k.startswith(start)}
        folders = {k[len(start) :].split("/")[0] for k in below if "/" in k[len(start) :]}
        direct = [self._stored(k, v) for k, v in below.items() if "/" not in k[len(start) :]]
        return Listing(tuple(sorted(folders)), tuple(sorted(direct)))

    def list_all(self, prefix: str, *, most: int) -> list[StoredObject]:
        self._begin("list", prefix)
        with self._lock:
            found = [
                self._stored(k, v) for k, v in self.objects.items() if k.startswith(f"{prefix}/")
            ]
        return sorted(found)[: most + 1]

    def head(self, key: str) -> StoredObject:
        self._begin("head", key)
        return self._stored(key, self._found(key))

    def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str = ""
    ) -> memoryview:
        self._begin("get", key)
        data, etag, _ = self._found(key)
        if if_match not in ("", etag):
            raise Changed(f"{key}: the object has changed meanwhile")
        data = data[start : len(data) if end is None else end]
        self.reads.append((key, start, len(data)))
        return memoryview(self.sent(key, data))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> str:
        self._begin("put", key)
        with self._lock:
            there = self.objects.get(key)
            if if_absent and there is not None:
                raise Taken(f"{key}: expected no object there, found one")
            if if_match and (there is None or there[1] != if_match):
                raise Changed(f"{key}: the object has changed meanwhile")
            return self._write(key, bytes(data))

    def upload(self, key: str, file: Path) -> None:
        self._begin("upload", key)
        self.write(key, file.read_bytes())

    def delete(self, key: str) -> None:
        self._begin("delete", key)
        with self._lock:
            self.objects.pop(key, None)

    def count(self, request: str) -> int:
        """How many such requests came."""
        return sum(name == request for name, _ in self.requests)

    def _begin(self, request: str, key: str) -> None:
        self.requests.append((request, key))
        self.before(request, key)

    def _found(self, key: str) -> tuple[bytes, str, float]:
        with self._lock:
            found = self.objects.get(key)
        if found is None:
            raise Absent(f"{key}: there is no such object")
        return found

    def _stored(self, key: str, found: tuple[bytes, str, float]) -> StoredObject:
        data, etag, modified_s = found
        return StoredObject(key, self.listed_size(key, len(data)), etag, modified_s)


def _is_a_store(store: FakeStore) -> Store:
    return store


def upload_order(
    version: int, files: Mapping[str, bytes], base: StoreUrl = BASE
) -> list[tuple[str, bytes]]:
    """The objects of a version, in the order in which `ladle export` writes them."""
    from hashlib import sha256

    listed = [VersionFile(p, len(d), sha256=sha256(d).hexdigest()) for p, d in files.items()]
    return [
        (f"{base.path}/{version}/{CLAIM_NAME}", b""),
        *((f"{base.path}/{version}/{path}", data) for path, data in files.items()),
        (f"{base.path}/{version}/{MANIFEST_NAME}", write_manifest(listed, "2026-01-01T00:00:00")),
    ]


def publish(
    store: FakeStore, version: int, files: Mapping[str, bytes], base: StoreUrl = BASE
) -> None:
    """Put a version there, with its manifest."""
    for key, data in upload_order(version, files, base):
        store.write(key, data)


def lose_first_answers(store: FakeStore, name: str) -> None:
    """Have each put of an object of that name done twice, as where the first answer is lost."""
    put = store.put

    def put_twice(key: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> str:
        if key.endswith(name):
            put(key, data, if_absent=if_absent, if_match=if_match)
        return put(key, data, if_absent=if_absent, if_match=if_match)

    store.put = put_twice  # type: ignore[method-assign]
