"""The input of many workers: listed by each of them, and fetched file by file, as tasks need it."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.readers import files
from ladle.batch.stores.inputs import fetch, listing
from ladle.batch.stores.ranges import RangeFile
from ladle.batch.tasks.plan import Task
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.store import Store, StoredObject
from ladle.store.url import StoreUrl, is_url, parse_url

_READ_AHEAD_BYTES = 1 << 20


class LocalFile(NamedTuple):
    """A file of this machine, or of one that is mounted here."""

    path: Path
    seen: tuple[int, int] | None
    """Its size and time when it was listed; None if it was not there."""

    @property
    def name(self) -> str:
        """What the caller calls it."""
        return str(self.path)


class StoredFile(NamedTuple):
    """An object in a store."""

    store: Store
    url: StoreUrl
    stored: StoredObject

    @property
    def name(self) -> str:
        """What the caller calls it."""
        return str(self.url)


class Opened(NamedTuple):
    """Files of the input that can be read here and now."""

    paths: tuple[Path, ...]
    names: dict[Path, str]
    """What the caller calls them."""

    def name_of(self, path: Path) -> str:
        """Return what the caller calls a file."""
        return self.names.get(path, str(path))


@dataclass(frozen=True, kw_only=True)
class TaskInput:
    """The files of the input, in order. A context manager's, which removes what was fetched."""

    input_format: str
    files: tuple[LocalFile | StoredFile, ...]
    fingerprint: str
    """A text that changes with any file's name, size, time or content; see `files.fingerprint`."""
    folder: Path
    """Where objects are fetched to."""

    @property
    def are_rows(self) -> bool:
        """Whether each file is a row."""
        return self.input_format == "images"

    @contextmanager
    def opened(self, task: Task) -> Iterator[Opened]:
        """Give the files that hold the rows of a task. Blocks while they are fetched.

        One file that was fetched stays until another is needed; images go on leaving. Messages of
        BatchErrors and OSErrors that are raised inside name the files as the caller does.

        Raises:
            ChangedError: A file was changed after it was listed.
            BatchError: A store does not give it.
        """
        wanted = (
            self.files[task.start : task.stop] if task.file is None else [self.files[task.file]]
        )
        places = [self._place(file, number) for number, file in enumerate(wanted)]
        opened = Opened(tuple(places), {p: f.name for p, f in zip(places, wanted, strict=True)})
        self._fetch([(f, p) for f, p in zip(wanted, places, strict=True) if not p.exists()])
        try:
            yield opened
        except BatchError as error:
            error.args = (_in_callers_words(str(error), opened),)
            raise
        except OSError as error:
            if error.filename:
                error.filename = _in_callers_words(str(error.filename), opened)
            raise
        finally:
            if self.are_rows:
                self._remove(places)
        for file in wanted:
            if isinstance(file, LocalFile) and _seen(file.path) != file.seen:
                raise ChangedError(f"{file.name}: it was changed while the job was under way")

    @contextmanager
    def opened_for_size(self, file: LocalFile | StoredFile) -> Iterator[BinaryIO]:
        """Open a file to read little; an object is not fetched whole."""
        if isinstance(file, LocalFile):
            with file.path.open("rb") as opened:
                yield opened
            return
        try:
            with io.BufferedReader(RangeFile(file.store, file.stored), _READ_AHEAD_BYTES) as ranges:
                yield ranges
        except StoreError as error:
            raise BatchError(f"--input: {error}") from None

    def _place(self, file: LocalFile | StoredFile, number: int) -> Path:
        if isinstance(file, LocalFile):
            return file.path
        # Names of objects may be longer than those of files.
        return self.folder / f"{number:06}-{hashlib.sha256(file.name.encode()).hexdigest()[:32]}"

    def _fetch(self, wanted: Sequence[tuple[LocalFile | StoredFile, Path]]) -> None:
        stored = [(file, path) for file, path in wanted if isinstance(file, StoredFile)]
        if not stored:
            return
        self._remove(self.folder.iterdir())
        try:
            for store in {id(file.store): file.store for file, _ in stored}.values():
                fetch(store, [(f.stored, p) for f, p in stored if f.store is store])
        except StoreError as error:
            self._remove(path for _, path in stored)
            raise BatchError(f"--input: {error}") from None
        except OSError:
            self._remove(path for _, path in stored)
            raise

    def _remove(self, paths: Iterator[Path] | Sequence[Path]) -> None:
        for path in list(paths):
            if path.parent == self.folder:
                path.unlink(missing_ok=True)


@contextmanager
def task_input(inputs: Sequence[str], input_format: str | None) -> Iterator[TaskInput]:
    """Give the input as its files. None is fetched yet. Blocks while it is listed.

    Raises:
        BatchError: There is nothing, or files of several formats, or a store does not answer.
    """
    found: list[LocalFile | StoredFile] = []
    formats: set[str] = set()
    digest = hashlib.sha256()
    local = [given for given in inputs if not is_url(given)]
    if len(local) == len(inputs):
        its_format, paths = files.find(local, input_format)
        formats.add(its_format)
        found += [LocalFile(path, _seen(path)) for path in paths]
        digest.update(files.fingerprint(paths).encode())
    else:
        for given in inputs:
            its_format, some = _listed(given, input_format)
            formats.add(its_format)
            found += some
            digest.update("\n".join(map(_identity, some)).encode())
    if len(formats) > 1:
        raise BatchError(
            f"--input: expected files of one format, got {', '.join(sorted(formats))}; "
            "--input-format says which"
        )
    with tempfile.TemporaryDirectory(prefix="ladle-predict-") as folder:
        yield TaskInput(
            input_format=formats.pop(),
            files=tuple(found),
            fingerprint=f"sha256:{digest.hexdigest()}",
            folder=Path(folder),
        )


def _listed(given: str, input_format: str | None) -> tuple[str, Sequence[LocalFile | StoredFile]]:
    if not is_url(given):
        found, paths = files.find([given], input_format)
        return found, [LocalFile(path, _seen(path)) for path in paths]
    try:
        url = parse_url(given)
        store = open_store(url)
        listed, _ = listing(store, url, input_format)
    except (StoreError, ValueError) as error:
        raise BatchError(f"--input: {error}") from None
    names = [Path(stored.key) for stored in listed]
    return files.common_format(names, input_format), [
        StoredFile(store, StoreUrl(url.scheme, url.bucket, stored.key), stored)
        for stored in sorted(listed)
    ]


def _identity(file: LocalFile | StoredFile) -> str:
    if isinstance(file, LocalFile):
        return files.fingerprint([file.path])
    return f"{file.url}\0{file.stored.size}\0{file.stored.etag}"


def _seen(path: Path) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _in_callers_words(text: str, opened: Opened) -> str:
    for path, name in opened.names.items():
        text = text.replace(str(path), name)
    return text
