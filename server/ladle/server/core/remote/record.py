"""What is known of the files of a version in the cache: their sizes and checksums.

The record lies in the version's folder, and grows while the version is fetched: so a server that
was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ladle.store.layout import RECORD_NAME, VersionFile

_HASHED_AT_ONCE = 1 << 20


def read_record(folder: Path) -> dict[str, VersionFile]:
    """Return the files that were recorded, each with its checksum; empty if there is no record.

    The size of a file that is on its way is how far it had come. Nobody has waited for the disk:
    after a power cut less may be there, so whoever goes on checks it.
    """
    try:
        told = json.loads((folder / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    files = told.get("files") if isinstance(told, dict) else None
    found = map(_file, files if isinstance(files, list) else ())
    return {file.path: file for file in found if file is not None}


def write_record(folder: Path, files: Iterable[VersionFile]) -> None:
    """Replace the record, in one step.

    Raises:
        OSError: The disk refuses.
    """
    staged = folder / f"{RECORD_NAME}.{secrets.token_hex(4)}"
    with staged.open("w") as file:
        json.dump({"files": [one._asdict() for one in files]}, file)
    staged.replace(folder / RECORD_NAME)


def is_as_recorded(folder: Path, file: VersionFile) -> bool:
    """Whether a file has just the bytes that it should have; blocks while it is read."""
    digest = hashlib.sha256()
    try:
        with (folder / file.path).open("rb") as opened:
            if os.fstat(opened.fileno()).st_size != file.size:
                return False
            while chunk := opened.read(_HASHED_AT_ONCE):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == file.sha256


def is_whole(folder: Path, files: Iterable[VersionFile], record: Mapping[str, VersionFile]) -> bool:
    """Whether all files are there, as the record has them; blocks while they are read."""
    return all(
        (known := record.get(file.path)) is not None
        and known.size == file.size
        and (not file.sha256 or file.sha256 == known.sha256)
        and is_as_recorded(folder, known)
        for file in files
    )


def _file(one: Any) -> VersionFile | None:
    match one:
        case {"path": str(path), "size": int(size), "etag": str(etag), "sha256": str(sha256)}:
            return VersionFile(path, size, etag, sha256)
    return None
