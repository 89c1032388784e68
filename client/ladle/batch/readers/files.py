"""Which files are the input, of which format they are, and whether they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ladle.batch.errors import BatchError

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
"""The formats, and the extensions that tell them. A list has the path of an image in each line."""

_BY_EXTENSION = {ending: name for name, endings in FORMATS.items() for ending in endings}
_SAMPLE_BYTES = 1 << 16
# Past this, a sample of each file would take longer than it is worth; sizes and times remain.
_MAX_SAMPLED = 1000


def find(inputs: Sequence[str], input_format: str | None = None) -> tuple[str, list[Path]]:
    """Return the format of the input and its files, those of folders sorted by their paths.

    Files and folders whose names begin with a dot or an underscore are passed over in folders. The
    files of a list are the images in it, whose paths are seen from the list's folder.

    Raises:
        BatchError: There is no file, or one is of no format or of another than those before.
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
    formats = {input_format or _format(path) for path in paths}
    if len(formats) > 1:
        raise BatchError(
            f"--input: expected files of one format, got {', '.join(sorted(formats))}; "
            "--input-format says which"
        )
    found = formats.pop()
    if found == "list":
        return "images", [image for path in paths for image in _listed(path)]
    return found, paths


def fingerprint(paths: Sequence[Path]) -> str:
    """Return a text that changes when a file does: its name, size, time, first or last bytes.

    Raises:
        OSError: A file can't be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            about = path.stat()
        except FileNotFoundError:  # its row will fail
            digest.update(os.fsencode(path.name) + b"\0")
            continue
        digest.update(os.fsencode(path.name))
        digest.update(f"\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        if len(paths) <= _MAX_SAMPLED:
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
                file.seek(max(about.st_size - _SAMPLE_BYTES, 0))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()}"


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BatchError(f"{path}: expected a path in each line, got no text") from None
    images = [path.parent / line.strip() for line in lines if line.strip()]
    if not images:
        raise BatchError(f"{path}: the list is empty")
    return images


def _within(folder: Path, input_format: str | None) -> list[Path]:
    endings = FORMATS[input_format] if input_format else tuple(_BY_EXTENSION)
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [
            Path(parent, name)
            for name in names
            if name[0] not in "._" and name.lower().endswith(endings)
        ]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _format(path: Path) -> str:
    try:
        return _BY_EXTENSION[path.suffix.lower()]
    except KeyError:
        raise BatchError(
            f'{path}: its extension "{path.suffix}" tells no format; expected one of '
            f"{', '.join(_BY_EXTENSION)}, or --input-format"
        ) from None
