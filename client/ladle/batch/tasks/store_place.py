"""A place in a store that many workers write to; the store has to create objects conditionally."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from ladle.batch.errors import BatchError
from ladle.batch.tasks.commit import COMMIT_FOLDER, task_of
from ladle.batch.tasks.plan import MAX_TASKS
from ladle.store.errors import Absent, Changed, StoreError, Taken
from ladle.store.store import Store, put_own, read_small
from ladle.store.url import StoreUrl

_MAX_SMALL_BYTES = 256 << 20


class StorePlace:
    """A place in a store; see `Place`. A context manager.

    A folder of this machine holds parts until they are uploaded.
    """

    def __init__(self, url: StoreUrl, store: Store) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="ladle-predict-")
        self.path = Path(self._temporary.name)
        self._url = url
        self._store = store

    def __enter__(self) -> StorePlace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._temporary.cleanup()

    def __str__(self) -> str:
        return str(self._url)

    def sync_names(self) -> None:
        """Do nothing: what lies on this machine goes with the process."""

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        with self._as_batch_errors():
            try:
                return read_small(self._store, self._key(name), most=_MAX_SMALL_BYTES)[1]
            except Absent:
                return None
            except ValueError as error:
                raise BatchError(f"{self._url / name}: {error}") from None

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if there is none; tell whether it was written."""
        with self._as_batch_errors():
            try:
                put_own(self._store, self._key(name), data, if_absent=True)
            except (Changed, Taken):
                return False
        return True

    def check_create(self, name: str) -> None:
        """Check that the store refuses to create an object that is there.

        Raises:
            BatchError: It overwrites. The object is as it was: it was given its own bytes.
        """
        with self._as_batch_errors():
            key = self._key(name)
            try:
                _, there = read_small(self._store, key, most=_MAX_SMALL_BYTES)
                self._store.put(key, there, if_absent=True)
            except (Changed, Taken):
                return
            except ValueError as error:
                raise BatchError(f"{self._url / name}: {error}") from None
        raise BatchError(
            f"{self._url}: the store overwrote an object that it was asked to create, so workers "
            "can't see who was first; expected a store with conditional writes"
        )

    def keep(self, name: str) -> None:
        """Upload a part, and remove it from this machine."""
        with self._as_batch_errors():
            self._store.upload(self._key(name), self.path / name)
        (self.path / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove an object, and the file of this machine that would have become it."""
        (self.path / name).unlink(missing_ok=True)
        with self._as_batch_errors():
            self._store.delete(self._key(name))

    def sizes(self) -> dict[str, int]:
        """Return the names of the objects, each with its size, and of what is below, with 0."""
        with self._as_batch_errors():
            listing = self._store.list_folder(self._url.path)
        found = {stored.key.rpartition("/")[2]: stored.size for stored in listing.objects}
        found.update(dict.fromkeys(listing.folders, 0))
        return {name: size for name, size in found.items() if name}

    def committed(self) -> set[int]:
        """Return the tasks that have a commit."""
        with self._as_batch_errors():
            listed = self._store.list_all(self._key(COMMIT_FOLDER), most=2 * MAX_TASKS)
        names = (stored.key.rpartition("/")[2] for stored in listed)
        return {task for task in map(task_of, names) if task is not None}

    def _key(self, name: str) -> str:
        return f"{self._url.path}/{name}".lstrip("/")

    @contextmanager
    def _as_batch_errors(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise BatchError(
                f"{error}; tasks that are committed stay, and the same command does the others"
            ) from None
