"""A bucket by way of the library obstore, which brings S3, GCS and Azure in one wheel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ladle.store.errors import Unreachable
from ladle.store.obstore_errors import as_store_error
from ladle.store.store import Listing, StoredObject
from ladle.store.url import StoreUrl

CLIENT_OPTIONS = {
    "connect_timeout": timedelta(seconds=5),
    # Between two reads. The whole may take long: a part of 16 MiB over a slow line.
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(minutes=10),
}
"""How long a request may take."""
# Who calls has waits of its own; these bridge a hiccup.
RETRIES = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
"""How often one is sent again by obstore itself."""
_PART_BYTES = 16 << 20
_PARTS_AT_A_TIME = 4


class ObstoreStore:
    """A `Store` on obstore. Thread-safe."""

    def __init__(
        self, bucket: StoreUrl, make: Callable[..., Any], *, allow_http: bool, credentials: str
    ) -> None:
        """Take how to make obstore's object; nothing is sent.

        Args:
            bucket: the bucket, for messages.
            make: obstore's class, with its settings bound.
            allow_http: whether the endpoint is one without TLS.
            credentials: which ones were found, in words without secrets.
        """
        import obstore

        self._obstore = obstore
        self._bucket = bucket
        self._credentials = credentials
        with self._errors(""):
            self._store = make(
                client_options={**CLIENT_OPTIONS, "allow_http": allow_http}, retry_config=RETRIES
            )

    def list_folder(self, prefix: str) -> Listing:
        """Return what lies directly below a prefix."""
        with self._errors(prefix):
            found = self._obstore.list_with_delimiter(self._store, prefix or None)
        start = len(prefix) + 1 if prefix else 0
        folders = tuple(str(path)[start:].strip("/") for path in found["common_prefixes"])
        return Listing(folders, tuple(map(self._stored, found["objects"])))

    def list_all(self, prefix: str, *, most: int) -> list[StoredObject]:
        """Return the objects below a prefix, at any depth."""
        listed: list[StoredObject] = []
        with self._errors(prefix):
            for chunk in self._obstore.list(self._store, prefix or None):
                listed += map(self._stored, chunk)
                if len(listed) > most:
                    break
        return listed[: most + 1]

    def head(self, key: str) -> StoredObject:
        """Return an object as a listing has it."""
        with self._errors(key):
            return self._stored(self._obstore.head(self._store, key))

    def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str = ""
    ) -> memoryview:
        """Return the bytes of an object, or a part of them."""
        options: dict[str, Any] = {"if_match": if_match} if if_match else {}
        if end is not None:
            if start >= end:
                return memoryview(b"")
            options["range"] = (start, end)
        with self._errors(key):
            data = memoryview(self._obstore.get(self._store, key, options=options).bytes())
        if end is not None and len(data) != end - start:
            raise Unreachable(
                f"{self._where(key)}: expected {end - start} bytes, the store sent {len(data)}"
            )
        return data

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> str:
        """Write an object whole, in one step; return its etag."""
        mode: Any = "create" if if_absent else {"e_tag": if_match} if if_match else "overwrite"
        with self._errors(key):
            put = self._obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        return self._etag(put["e_tag"])

    def upload(self, key: str, file: Path) -> None:
        """Write an object of a file's content."""
        with self._errors(key), file.open("rb") as opened:
            self._obstore.put(
                self._store,
                key,
                opened,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_A_TIME,
            )

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._errors(key), suppress(FileNotFoundError):
            self._obstore.delete(self._store, key)

    def _stored(self, meta: Any) -> StoredObject:
        return StoredObject(
            str(meta["path"]),
            int(meta["size"]),
            self._etag(meta["e_tag"]),
            float(meta["last_modified"].timestamp()),
        )

    def _etag(self, given: str | None) -> str:
        # Azure's listings leave out the quotes that its other answers have.
        is_bare = self._bucket.scheme == "az" and given and not given.endswith('"')
        return f'"{given}"' if is_bare else given or ""

    def _where(self, key: str) -> str:
        return str(self._bucket / key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise as_store_error(error, self._where(key), self._credentials) from None
