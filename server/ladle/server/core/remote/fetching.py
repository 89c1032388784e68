"""Brings one version into the cache, beside other servers that may want the same one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ladle.server.core.remote.cache import Cache, Lease
from ladle.server.core.remote.download import PART_BYTES, CancelledDownload, download
from ladle.server.core.remote.durability import sync_behind
from ladle.server.core.remote.record import is_whole, read_record
from ladle.server.core.sources.base_path import Check
from ladle.store.layout import VersionFile
from ladle.store.store import Store
from ladle.store.url import StoreUrl


class NotWhole(Exception):
    """What came is no whole model; the message says what is missing."""


class BeingFetched(Exception):
    """Another server on this machine fetches the version just now."""


class Wanted(NamedTuple):
    """A version to bring into the cache."""

    base: StoreUrl
    version: int
    folder_name: str
    """The version's folder in the store."""
    files: tuple[VersionFile, ...]
    fingerprint: str


class Fetched(NamedTuple):
    """A version in the cache."""

    lease: Lease
    downloaded_bytes: int
    """What was not there before."""


def fetch(
    wanted: Wanted,
    cache: Cache,
    store: Store,
    check: Check,
    *,
    threads: int,
    is_cancelled: Callable[[], bool] = lambda: False,
    part_bytes: int = PART_BYTES,
) -> Fetched:
    """Return a claim on the version's folder, in which every byte was checked. Blocks.

    Args:
        wanted: the version.
        cache: where to.
        store: where from.
        check: says what a folder lacks to be a whole model.
        threads: how many parts are fetched at a time.
        is_cancelled: whether to give up.
        part_bytes: how much is fetched at once.

    Raises:
        StoreError: The store does not give the files.
        NotWhole: They are no model.
        BeingFetched: Another server is at it.
        ResourceExhausted: The cache has no room.
        CancelledDownload: `is_cancelled` said so.
        OSError: The disk refuses.
    """
    if is_cancelled():
        raise CancelledDownload
    path = cache.path(wanted.base, wanted.version, wanted.fingerprint)
    partial = cache.partial_path(wanted.base, wanted.version, wanted.fingerprint)
    there = _take_whole(cache, path, partial, wanted.files)
    if there is not None:
        return Fetched(there, 0)
    partial.mkdir(exist_ok=True, mode=0o700)
    lease = cache.lease_alone(partial)
    if lease is None or path.exists():
        if lease is not None:
            lease.release()
        raise BeingFetched("another server on this machine fetches it")
    try:
        cache.reserve(partial, sum(file.size for file in wanted.files))
        try:
            count = download(
                store,
                f"{wanted.base.path}/{wanted.folder_name}".strip("/"),
                wanted.files,
                partial,
                threads=threads,
                is_cancelled=is_cancelled,
                part_bytes=part_bytes,
            )
            problem = check(partial)
            if problem is not None:
                raise NotWhole(problem)
            os.utime(partial)
            cache.move(lease, path)
        finally:
            cache.reserve(partial, 0)
    except BaseException:
        lease.release()
        raise
    sync_behind(path)
    return Fetched(lease, count)


def _take_whole(
    cache: Cache, path: Path, partial: Path, files: Sequence[VersionFile]
) -> Lease | None:
    """Return a claim on what is there; a folder with a damaged file becomes one to complete."""
    lease = cache.lease(path)
    if lease is None:
        return None
    try:
        if is_whole(path, files, read_record(path)):
            return lease
    except BaseException:
        lease.release()
        raise
    lease.release()
    # Who serves it has read it long ago; who loads it just now tries again.
    try:
        path.rename(partial)
    except OSError:  # there is another one on its way
        with suppress(OSError):
            grave = path.with_name(f"damaged-{secrets.token_hex(8)}")
            path.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
    return None
