"""Where the output of many workers goes: what a place can do, and a folder as one.

Nobody locks anything. All that workers agree on are small files that are created once: `create`
succeeds for one of them.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import sync
from ladle.batch.output.manifest import FILE_NAME
from ladle.batch.tasks.commit import COMMIT_FOLDER, task_of

_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


class Place(Protocol):
    """A folder, or a place in a store. All methods block. `read` is for any thread.

    Raises:
        BatchError: The place does not do what was asked.
        OSError: A file can't be read or written.
    """

    @property
    def path(self) -> Path:
        """The folder of this machine in which parts are written."""

    def sync_names(self) -> None:
        """Sync the folder of this machine, so that renamed files keep their names after a crash."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file, whole and in one step, if there is none; tell whether it was written."""

    def check_create(self, name: str) -> None:
        """Check that `create` would refuse to write that file, which is there."""

    def keep(self, name: str) -> None:
        """Bring a part to the place that was written in the folder of this machine."""

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""

    def sizes(self) -> dict[str, int]:
        """Return the names of the files at the place, each with its size in bytes."""

    def committed(self) -> set[int]:
        """Return the tasks that have a commit."""


def is_foreign(names: set[str]) -> bool:
    """Whether a place without a plan holds what others have put there.

    Whoever makes the plan writes it among the commits first, and then gives it its name.
    """
    return any(name != COMMIT_FOLDER for name in names)


def refusal(place: object, names: set[str]) -> BatchError:
    """Return why a place can't be used that has no plan and holds files of these names."""
    if FILE_NAME in names:
        return BatchError(
            f"{place}: it holds the output of one process, which goes on without --task; "
            "give another --output"
        )
    found = min(name for name in names if is_foreign({name}))
    return BatchError(
        f'{place}: expected nothing there, or the output of ladle predict --task, found "{found}"'
    )


class LocalPlace:
    """A folder that all workers reach, on one machine or over a network; see `Place`."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Make the folder, unless `make` is false."""
        self.path = path
        self._run = secrets.token_hex(4)
        if make:
            path.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return str(self.path)

    def sync_names(self) -> None:
        """Sync the folder itself."""
        _sync_folder(self.path)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a file if there is none: under a name of its own first, and then as a link.

        The former is among the commits, where nobody looks for leftovers to remove.
        """
        target = self.path / name
        temporary = self.path / COMMIT_FOLDER / f".{target.name}-{self._run}.tmp"
        temporary.parent.mkdir(exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                sync(file)
            with _as_one_sentence(self.path):
                try:
                    os.link(temporary, target)
                    made = True
                except FileExistsError:
                    # A network's file system may ask twice, and get the answer to the second.
                    made = temporary.stat().st_nlink > 1
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return made

    def check_create(self, name: str) -> None:
        """Do nothing: a link is never made where a name is taken."""

    def keep(self, name: str) -> None:
        """Do nothing: the part was written here."""

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Return the names of the files, each with its size; folders have size 0."""
        found = {}
        try:
            entries = os.scandir(self.path)
        except FileNotFoundError:
            return {}
        with entries:
            for entry in entries:
                try:
                    found[entry.name] = 0 if entry.is_dir() else entry.stat().st_size
                except FileNotFoundError:  # another worker's, and gone by now
                    continue
        return found

    def committed(self) -> set[int]:
        """Return the tasks that have a commit."""
        try:
            names = os.listdir(self.path / COMMIT_FOLDER)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {task for task in map(task_of, names) if task is not None}


@contextmanager
def _as_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise BatchError(
            f"{path}: expected a file system with hard links, by which workers see who was first: "
            f"{error.strerror}"
        ) from None


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
