"""Put a folder in place as a model's next version: whole, in one step, or not at all.

A version is built in a staging folder inside its base path, so that the last step is one rename
on one file system. A server passes over that folder, because its name is no number. Whatever
ends the publisher before the rename, even SIGKILL, leaves no numbered folder behind.

Nothing is locked: of two publishers that want one number the file system lets the first rename
win, as no folder can be renamed onto one that holds files, and the other takes the next number.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ladle.export.errors import PublishError
from ladle.export.publishing.versions import next_version
from ladle.protos.files.versions import HIDDEN_PREFIX, version_of

logger = logging.getLogger(__name__)

STAGING_PREFIX = ".ladle-staging-"
# A publisher that was killed cannot tidy up. The next one does, but only after far longer than any
# version takes to write: whether another host's or container's process lives cannot be asked.
STALE_AFTER_S = 24 * 3600
# Each lost race is another publisher's success, so even a busy model is far from this.
MAX_ATTEMPTS = 1000

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that servers can load."""

    version: int
    path: Path


def prepare_base_path(base_path: Path) -> None:
    """Make `base_path` where it is missing, and see that versions can be written there.

    Worth calling before a long training.

    Raises:
        PublishError: It cannot be made or written, or it is itself a version.
    """
    with _one_line_errors(base_path):
        base_path.mkdir(parents=True, exist_ok=True)
        if not os.access(base_path, os.R_OK | os.W_OK | os.X_OK):
            raise PublishError(f"{base_path}: no permission to write versions there")
        if (base_path / "saved_model.pb").exists():
            raise PublishError(
                f"{base_path}: expected a model's base path, which holds numbered versions;"
                " this is a version itself, as it holds saved_model.pb"
            )


@contextmanager
def staging_folder(base_path: Path) -> Iterator[Path]:
    """Give an empty folder to build a version in; on leaving, remove it unless it was published.

    Raises:
        PublishError: It cannot be made, or writing inside it met an OSError.
    """
    prepare_base_path(base_path)
    folder = base_path / f"{STAGING_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with _one_line_errors(base_path):
            _remove_stale(base_path)
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, version: int | None = None) -> Published:
    """Make the staging folder `staged` a version of the base path that it lies in.

    The number is `version`, or the highest there is plus one.

    Blocks until all its files are on disk. Earlier versions are never touched, nor is anything
    else with a number for its name; the one exception is an empty folder that another program
    makes between the look at the numbers and the rename, whose place is taken.

    Raises:
        PublishError: Nothing was staged, the number is taken or cannot be had, or the disk
            refuses.
    """
    base_path = staged.parent
    with _one_line_errors(base_path):
        # An empty version could be renamed over by the next publisher.
        if not any(staged.iterdir()):
            raise PublishError(f"{base_path}: there is nothing to publish in {staged.name}")
        _sync_tree(staged)
        if version is None:
            published = _rename_to_next_version(staged)
        else:
            published = _rename_to(staged, version)
    try:
        _sync(base_path)
    except OSError as error:
        # The version is there for every server to see: to call it failed would publish it twice.
        logger.warning("published path=%s but not synced: %s", published.path, error)
    return published


def check_free(base_path: Path, version: int) -> None:
    """See that nothing under `base_path` is that version yet, however its name is spelt.

    Raises:
        PublishError: Something is.
    """
    with _one_line_errors(base_path):
        for name in _taken_names(base_path):
            if version_of(name) == version:
                raise PublishError(
                    f"{base_path}: version {version} is there already ({name}), and a version is"
                    " never overwritten"
                )


def _rename_to(staged: Path, version: int) -> Published:
    base_path = staged.parent
    check_free(base_path, version)
    path = base_path / str(version)
    try:
        staged.rename(path)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        check_free(base_path, version)
        raise
    return Published(version=version, path=path)


def _rename_to_next_version(staged: Path) -> Published:
    base_path = staged.parent
    for _ in range(MAX_ATTEMPTS):
        try:
            version = next_version(_taken_names(base_path))
        except OverflowError as error:
            raise PublishError(f"{base_path}: no version number is left: {error}") from error
        path = base_path / str(version)
        try:
            staged.rename(path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return Published(version=version, path=path)
    raise PublishError(f"{base_path}: other publishers took {MAX_ATTEMPTS} numbers first")


def _taken_names(base_path: Path) -> list[str]:
    """Return what lies in `base_path`; a version out of sight keeps its number."""
    return [name.removeprefix(HIDDEN_PREFIX) for name in os.listdir(base_path)]


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False, onerror=_raise):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so with EINVAL.
        if not (error.errno == errno.EINVAL and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


def _remove_stale(base_path: Path) -> None:
    for folder in base_path.glob(f"{STAGING_PREFIX}*"):
        with suppress(OSError):  # another publisher may be removing it too
            if time.time() - folder.stat().st_mtime > STALE_AFTER_S:
                shutil.rmtree(folder)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _one_line_errors(base_path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PublishError(f"{base_path}: cannot publish: {error.strerror or error}") from error
