"""Input that lies in a store: fetched whole into a folder of this machine before it is read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ladle.batch.errors import BatchError
from ladle.batch.readers.files import endings
from ladle.store.errors import Absent, StoreError
from ladle.store.layout import MAX_FILES
from ladle.store.opening import open_store
from ladle.store.store import Store, StoredObject
from ladle.store.url import StoreUrl, is_url, parse_url

_MAX_OBJECTS = 10 * MAX_FILES
_FETCHED_AT_A_TIME = 8
_PART_BYTES = 16 << 20


class Input(NamedTuple):
    """The input as files of this machine."""

    paths: tuple[str, ...]
    """Files and folders."""
    folders: tuple[tuple[Path, StoreUrl], ...] = ()
    """Which folder stands for which place."""

    def name_of(self, path: Path) -> str:
        """Return what the caller calls a file."""
        for folder, url in self.folders:
            if path.is_relative_to(folder):
                return f"{url}/{path.relative_to(folder).as_posix()}"
        return str(path)

    def in_callers_words(self, text: str) -> str:
        """Return a message with the caller's names in it."""
        for folder, url in self.folders:
            text = text.replace(str(folder), str(url))
        return text


@contextmanager
def fetched(inputs: Sequence[str], input_format: str | None) -> Iterator[Input]:
    """Give the input as files of this machine, which are removed on leaving. Blocks.

    Messages of BatchErrors and OSErrors that are raised inside name the URLs.

    Raises:
        BatchError: A URL is of no store, or there is nothing, or the store does not give it.
    """
    if not any(map(is_url, inputs)):
        yield Input(tuple(inputs))
        return
    with tempfile.TemporaryDirectory(prefix="ladle-predict-") as root:
        paths: list[str] = []
        folders: list[tuple[Path, StoreUrl]] = []
        for number, given in enumerate(inputs):
            if not is_url(given):
                paths.append(given)
                continue
            try:
                url = parse_url(given)
                folder = Path(root, f"{number:09}")  # none begins with the name of another
                is_one = _fetch(open_store(url), url, folder, input_format)
            except (StoreError, ValueError) as error:
                raise BatchError(f"--input: {error}") from None
            folders.append((folder, url.parent if is_one else url))
            paths.append(str(folder / url.name if is_one else folder))
        given_input = Input(tuple(paths), tuple(folders))
        try:
            yield given_input
        except BatchError as error:
            error.args = (given_input.in_callers_words(str(error)),)
            raise
        except OSError as error:
            if error.filename:
                error.filename = given_input.in_callers_words(str(error.filename))
            raise


def _fetch(store: Store, url: StoreUrl, folder: Path, input_format: str | None) -> bool:
    """Fetch an object, or all objects below a path; return whether it is one object."""
    listed, is_one = listing(store, url, input_format)
    start = len(url.path) - len(url.name) if is_one else len(url.path) + 1 if url.path else 0
    fetch(store, [(stored, folder / stored.key[start:]) for stored in listed])
    return is_one


def listing(
    store: Store, url: StoreUrl, input_format: str | None
) -> tuple[list[StoredObject], bool]:
    """Return the objects that a URL stands for, and whether it is the URL of one object. Blocks.

    Raises:
        BatchError: There is nothing to be read, or too much.
        StoreError: The store does not say.
    """
    try:
        one = store.head(url.path) if url.path else None
    except Absent:
        one = None
    if one is not None:
        if url.name.lower().endswith(".txt") and input_format in (None, "list"):
            raise BatchError(f"{url}: a list can't be read from a store; give the images' folder")
        return [one], True
    start = len(url.path) + 1 if url.path else 0
    listed = store.list_all(url.path, most=_MAX_OBJECTS)
    if len(listed) > _MAX_OBJECTS:
        raise BatchError(f"{url}: expected at most {_MAX_OBJECTS:,} objects")
    known = endings(input_format)
    found = [stored for stored in listed if _is_read(stored.key[start:], known)]
    if not found:
        raise BatchError(f"{url}: there is no object of a format that can be read")
    return found, False


def _is_read(path: str, known: tuple[str, ...]) -> bool:
    """Whether a folder's file of that path would be read; see `files.find`."""
    parts = path.split("/")
    return path.lower().endswith(known) and not any(
        not part or part[0] in "._" or "\0" in part for part in parts
    )


def fetch(store: Store, todo: Sequence[tuple[StoredObject, Path]]) -> None:
    """Fetch objects into files of this machine, several at a time. Blocks.

    Raises:
        StoreError: The store does not give one, or has another one by now.
        BatchError: A file can't be written.
    """
    with ThreadPoolExecutor(min(_FETCHED_AT_A_TIME, len(todo))) as pool:
        for _ in pool.map(lambda one: _fetch_one(store, *one), todo):
            pass


def _fetch_one(store: Store, stored: StoredObject, path: Path) -> None:
    try:
        _write_one(store, stored, path)
    except OSError as error:  # no room, a name too long, or one of a file and of a folder
        why = error.strerror or str(error)
        raise BatchError(f"--input: {stored.key} can't be kept on this machine: {why}") from None


def _write_one(store: Store, stored: StoredObject, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, stored.size, _PART_BYTES):
            end = min(start + _PART_BYTES, stored.size)
            file.write(store.get(stored.key, start=start, end=end, if_match=stored.etag))
    # Its time is a part of what shows later that the input is still the same.
    os.utime(path, (stored.modified_s, stored.modified_s))
