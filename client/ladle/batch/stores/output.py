"""An output folder in a store: shards are uploaded before the manifest counts them.

The manifest is replaced only if it is the one that this run wrote last, and each run's files have
names of their own. So of two runs that write to one place the first ends as soon as the second
begins, and every row is there once.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import OnStep, OutputFolder, is_of_ours, refuse_tasks
from ladle.batch.output.manifest import FILE_NAME, Manifest
from ladle.store.errors import Absent, Changed, StoreError, Taken
from ladle.store.store import Listing, Store, get_whole, put_own
from ladle.store.url import StoreUrl

_MAX_MANIFEST_BYTES = 64 << 20


class StoreOutputFolder(OutputFolder):
    """A place in a store that holds the predictions; see `OutputFolder`.

    Raises:
        BatchError: The place holds other objects, or the store refuses.
    """

    def __init__(self, url: StoreUrl, store: Store, on_step: OnStep = lambda step: None) -> None:
        """Take the place and its bucket; a folder of this machine holds the shard under way."""
        self._temporary = tempfile.TemporaryDirectory(prefix="ladle-predict-")
        self._url = url
        self._store = store
        self.run = f"-{secrets.token_hex(4)}"
        self._etag = ""
        self._uploaded: set[str] = set()
        try:
            super().__init__(Path(self._temporary.name), on_step)
        except BaseException:
            self._temporary.cleanup()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        with suppress(OSError):
            self._temporary.cleanup()

    def read(self) -> Manifest | None:
        """Return the manifest; None where there is nothing.

        Raises:
            BatchError: There are objects but no manifest, or it can't be read.
        """
        self.check()
        with self._as_batch_errors():
            try:
                stored = self._store.head(self._key(FILE_NAME))
            except Absent:
                return None
            if stored.size > _MAX_MANIFEST_BYTES:
                raise BatchError(f"{self._url}: {FILE_NAME} is too large; --restart begins anew")
            text = get_whole(self._store, stored)
        self._etag = stored.etag
        try:
            manifest = Manifest.from_json(text)
        except BatchError as error:
            raise BatchError(f"{self._url}: {error}; --restart begins anew") from None
        self._uploaded = {name for shard in manifest.shards for name in shard.files}
        return manifest

    def check(self) -> None:
        """Check that there is nothing, or what `ladle predict` has made.

        Raises:
            BatchError: There are objects but no manifest, or they are of many workers.
        """
        with self._as_batch_errors():
            listing = self._store.list_folder(self._url.path)
        names = _names(listing)
        refuse_tasks(self._url, names)
        if names and FILE_NAME not in names:
            raise BatchError(
                f"{self._url}: expected nothing there, or what ladle predict has made, found "
                f'"{min(names)}"'
            )
        self._etag = next((o.etag for o in listing.objects if o.key == self._key(FILE_NAME)), "")

    def save(self, manifest: Manifest) -> None:
        """Upload the shards that the manifest counts, and replace it.

        Raises:
            BatchError: Another process writes there, or the store refuses.
        """
        with self._as_batch_errors():
            for shard in manifest.shards:
                for name in shard.files:
                    if name not in self._uploaded:
                        self._store.upload(self._key(name), self.path / name)
                        self._uploaded.add(name)
                        self.on_step("shard uploaded")
            text = self._text(manifest)
            try:
                self._etag = put_own(
                    *(self._store, self._key(FILE_NAME), text),
                    if_absent=not self._etag,
                    if_match=self._etag,
                )
            except (Changed, Taken):
                raise BatchError(f"{self._url}: another process is writing there") from None
            self.on_step("manifest in place")
        for name in self._uploaded:
            (self.path / name).unlink(missing_ok=True)

    def remove_leftovers(self, manifest: Manifest) -> None:
        """Remove the shards that the manifest doesn't count.

        The manifest is written before, so that a run that is still at it can count none of them.
        """
        counted = {name for shard in manifest.shards for name in shard.files}
        self.save(manifest)
        with self._as_batch_errors():
            listing = self._store.list_folder(self._url.path)
            for stored in listing.objects:
                name = stored.key.rpartition("/")[2]
                if is_of_ours(name) and name not in counted:
                    self._store.delete(stored.key)

    def _text(self, manifest: Manifest) -> bytes:
        """Return the manifest with the run's name: so that each run's has another etag."""
        fields = json.loads(manifest.to_json())
        return (json.dumps({**fields, "run": self.run[1:]}, indent=1) + "\n").encode()

    def _key(self, name: str) -> str:
        return (self._url / name).path

    @contextmanager
    def _as_batch_errors(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise BatchError(
                f"{error}; what the manifest counts is done, and the same command goes on after it"
            ) from None


def _names(listing: Listing) -> set[str]:
    return {*listing.folders, *(stored.key.rpartition("/")[2] for stored in listing.objects)} - {""}
