"""How a model lies in a store: its versions' files, and what says that a version is whole.

BASE/.ladle-labels.json          the labels, as in a folder
BASE/.ladle-hidden-3             version 3 is out of sight
BASE/3/_ladle_claim              somebody publishes version 3; written first
BASE/3/saved_model.pb …          the files
BASE/3/_ladle_manifest.json      which files version 3 has; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ladle.store.store import StoredObject

MANIFEST_NAME = "_ladle_manifest.json"
CLAIM_NAME = "_ladle_claim"
RECORD_NAME = ".ladle-cache.json"
"""What a server's cache keeps beside the files. Who copies the cache's folder brings it along."""
MAX_FILES = 10_000
"""A version with more files is refused."""
MAX_MANIFEST_BYTES = 16 << 20
_FORMAT = 1
_OF_OURS = frozenset((MANIFEST_NAME, CLAIM_NAME, RECORD_NAME))
MAX_OBJECTS = MAX_FILES + len(_OF_OURS)
"""How many objects the largest version has."""
_HASHED_AT_ONCE = 1 << 20


class VersionFile(NamedTuple):
    """A file of a version."""

    path: str
    """Below the version's folder, with slashes."""
    size: int
    """Bytes."""
    etag: str = ""
    """The store's, opaque."""
    sha256: str = ""
    """In hex digits; empty where nobody said."""


class VersionListing(NamedTuple):
    """What a listing of a version's prefix shows."""

    files: tuple[VersionFile, ...]
    """Sorted by path, without ladle's own."""
    fingerprint: str
    """Sixteen hex digits; differs once a path, a size or an etag does."""
    newest_s: float
    """When the last of them was written, by the store's clock, in seconds since 1970."""
    manifest: StoredObject | None
    is_claimed: bool


def version_listing(prefix: str, objects: Iterable[StoredObject]) -> VersionListing:
    """Return what the objects below `prefix`, a version's, are.

    Raises:
        ValueError: There are too many, or one has no name that a file can have.
    """
    files: list[VersionFile] = []
    manifest: StoredObject | None = None
    is_claimed = False
    newest_s = 0.0
    for stored in objects:
        path = stored.key[len(prefix) + 1 :]
        if not path or path.endswith("/"):
            continue  # what consoles make in a folder's place
        if path == MANIFEST_NAME:
            manifest = stored
        is_claimed |= path == CLAIM_NAME
        newest_s = max(newest_s, stored.modified_s)
        if path not in _OF_OURS:
            _check_path(path)
            files.append(VersionFile(path, stored.size, stored.etag))
    if len(files) > MAX_FILES:
        raise ValueError(f"expected at most {MAX_FILES} files")
    files.sort()
    facts = "\n".join(f"{f.path}\0{f.size}\0{f.etag}" for f in files)
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return VersionListing(tuple(files), fingerprint, newest_s, manifest, is_claimed)


def write_manifest(files: Iterable[VersionFile], made: str) -> bytes:
    """Return the manifest of a version.

    Args:
        files: all of its files, each with its checksum.
        made: when, as ISO 8601 has it.
    """
    listed = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in sorted(files)]
    return json.dumps({"format": _FORMAT, "files": listed, "made": made}, indent=1).encode()


def read_manifest(text: bytes) -> dict[str, VersionFile]:
    """Return the files that a manifest lists, by path.

    Raises:
        ValueError: It is no manifest, or of a format that is not known here.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{MANIFEST_NAME}: expected JSON") from None
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise ValueError(f"{MANIFEST_NAME}: expected format {_FORMAT}")
    listed = told.get("files")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_FILES:
        raise ValueError(f"{MANIFEST_NAME}: expected 1 to {MAX_FILES} files")
    files = [_manifest_file(one) for one in listed]
    return {file.path: file for file in files}


def with_checksums(
    listing: VersionListing, manifest: Mapping[str, VersionFile]
) -> tuple[VersionFile, ...]:
    """Return the files that a manifest lists, as the store has them and with their checksums.

    Raises:
        ValueError: The store does not have one of them, or in another size.
    """
    there = {file.path: file for file in listing.files}
    files = []
    for path, wanted in sorted(manifest.items()):
        if path in _OF_OURS:
            continue
        found = there.get(path)
        if found is None:
            raise ValueError(f"{MANIFEST_NAME} lists {path}, which is not there")
        if found.size != wanted.size:
            raise ValueError(
                f"{path} has {found.size} bytes: {MANIFEST_NAME} expects {wanted.size}"
            )
        files.append(found._replace(sha256=wanted.sha256))
    return tuple(files)


def file_of(folder: Path, path: str) -> VersionFile:
    """Return what the manifest says of a local file; blocks while it is read."""
    digest = hashlib.sha256()
    size = 0
    with (folder / path).open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
            size += len(chunk)
    return VersionFile(path, size, sha256=digest.hexdigest())


def _manifest_file(one: Any) -> VersionFile:
    match one:
        case {"path": str(path), "size": int(size), "sha256": str(sha256)} if (
            size >= 0 and len(sha256) == 64 and not sha256.strip("0123456789abcdef")
        ):
            _check_path(path)
            return VersionFile(path, size, sha256=sha256)
    raise ValueError(f"{MANIFEST_NAME}: expected path, size and sha256 of each file")


def _check_path(path: str) -> None:
    """Refuse what would lie outside of the version's folder, or be no file's name.

    Raises:
        ValueError: It would.
    """
    parts = path.split("/")
    if (
        PurePosixPath(path).is_absolute()
        or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        or "\0" in path
        or len(parts) > 16
    ):
        raise ValueError(f"expected names that files can have, got {path[:100]!r}")
