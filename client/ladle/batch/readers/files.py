"""Which files are the input, which format they have, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ladle.batch.errors import BatchError
from ladle.batch.readers.streams import open_text

FORMATS = {
    "npy": (".npy",),
    "npz": (".npz",),
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "jsonl": (".jsonl", ".ndjson"),
    "tfrecord": (".tfrecord", ".tfrecords"),
    "images": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "list": (".txt",),
}
"""The formats, and their extensions. A list has the path of an image in each line."""

# Files that may be compressed have ".gz" after their extension.
_COMPRESSED = {
    name: tuple(f"{e}.gz" for e in FORMATS[name]) for name in ("csv", "jsonl", "tfrecord")
}
_BY_EXTENSION = {
    ending: name
    for formats in (FORMATS, _COMPRESSED)
    for name, endings in formats.items()
    for ending in endings
}
_SAMPLE_BYTES = 1 << 16
# With more files than this, reading a sample of each takes too long; size and time must do.
_MAX_SAMPLED = 1000


def find(inputs: Sequence[str], input_format: str | None = None) -> tuple[str, list[Path]]:
    """Return the format of the input and its files; a folder's files are sorted by path.

    In folders, names that begin with a dot or an underscore are skipped. The files of a list are
    its images; their paths are relative to the list's folder.

    Raises:
        BatchError: There is no file, or a file has no known format or another than the first one.
        OSError: A folder can't be read.
    """
    paths: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            within = _within(path, input_format)
            if not within:
                raise BatchError(f"{given}: the folder holds no file of a format that can be read")
            paths += within
        elif path.exists():
            paths.append(path)
        else:
            raise BatchError(f"{given}: no such file or folder")
    found = common_format(paths, input_format)
    if found == "list":
        return "images", [image for path in paths for image in _listed(path)]
    for path in paths:
        if found != "images" and not path.is_file():  # a pipe can't be read twice
            raise BatchError(f"{path}: expected a file")
    return found, paths


def common_format(paths: Sequence[Path], input_format: str | None) -> str:
    """Return the one format that all files have, by their names; there is at least one file.

    Raises:
        BatchError: A name has no known extension, or another format's than the first one.
    """
    formats = {input_format or _format(path) for path in paths}
    if len(formats) > 1:
        raise BatchError(
            f"--input: expected files of one format, got {', '.join(sorted(formats))}; "
            "--input-format says which"
        )
    return formats.pop()


def fingerprint(paths: Sequence[Path]) -> str:
    """Return a text that changes with any file's name, size, time, first bytes or last bytes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.name) + b"\0")
        try:
            about = path.stat()
        except OSError:  # the image's row will fail
            continue
        digest.update(f"{about.st_size}\0{about.st_mtime_ns}\0".encode())
        if len(paths) <= _MAX_SAMPLED and stat.S_ISREG(about.st_mode):
            with suppress(PermissionError), path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
                file.seek(max(about.st_size - _SAMPLE_BYTES, 0))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()}"


def _listed(path: Path) -> list[Path]:
    # A path may hold what is no UTF-8, and what else `splitlines` takes for the end of a line.
    with open_text(path) as stream:
        lines = [os.fsdecode(line.strip()) for line in stream.file.read().split(b"\n")]
    images = [path.parent / line for line in lines if line]
    for image in images:
        if "\0" in str(image):
            raise BatchError(f"{path}: expected a path in each line, got a NUL in one")
    if not images:
        raise BatchError(f"{path}: the list is empty")
    return images


def endings(input_format: str | None) -> tuple[str, ...]:
    """Return how the names of a folder's files end that are read; None for all formats."""
    return tuple(ending for ending, name in _BY_EXTENSION.items() if input_format in (None, name))


def _within(folder: Path, input_format: str | None) -> list[Path]:
    known = endings(input_format)
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [
            Path(parent, name)
            for name in names
            if name[0] not in "._" and name.lower().endswith(known)
        ]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    extension = "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    try:
        return _BY_EXTENSION[extension]
    except KeyError:
        raise BatchError(
            f'{path}: no format has the extension "{extension}"; expected one of '
            f"{', '.join(_BY_EXTENSION)}, or --input-format"
        ) from None
