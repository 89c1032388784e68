"""Look after the versions under a model's base path: name them, hide them, remove them.

Nothing here needs TensorFlow or a server. A server that watches the base path follows: a version
that is hidden or removed is unloaded, and one that is brought back is loaded again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ladle.export.errors import PublishError
from ladle.export.publishing.card import read_card
from ladle.export.publishing.history import hidden_versions, published_versions
from ladle.export.publishing.publish import STAGING_PREFIX
from ladle.export.publishing.versions import size_bytes
from ladle.protos.files.integrity import find_missing
from ladle.protos.files.versions import HIDDEN_PREFIX, LABELS_NAME, without_versions
from ladle.protos.files.versions import read_labels as read_labels_file
from ladle.protos.model_card import ModelCard
from ladle.store.url import StoreUrl

ChangeLabels: TypeAlias = "Callable[[Mapping[str, int]], Mapping[str, int]]"
"""Makes new labels of old ones; may be called more than once."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version folder, and what is known of it."""

    model: str
    version: int
    path: Path | StoreUrl
    card: ModelCard | None
    serves: bool
    """Whether a server that serves the latest version serves this one: the latest that is whole."""
    problem: str
    """What it lacks to be whole, so that no server loads it; empty if nothing."""
    hidden: bool
    labels: tuple[str, ...]
    size_bytes: int


def list_versions(base_path: Path) -> list[Version]:
    """Return all versions under `base_path`, the lowest first, those out of sight too.

    The files say whether a version is whole, as they do for a server; nothing is loaded.

    Raises:
        PublishError: It cannot be read.
    """
    visible, hidden = published_versions(base_path), hidden_versions(base_path)
    problems = {path: _problem(path) for path in (*visible.values(), *hidden.values())}
    latest = max((n for n, path in visible.items() if not problems[path]), default=None)
    labels = read_labels(base_path)
    named = {n: tuple(sorted(k for k, v in labels.items() if v == n)) for n in labels.values()}
    return [
        Version(
            model=base_path.resolve().name,
            version=number,
            path=path,
            card=read_card(path),
            serves=not out_of_sight and number == latest,
            problem=problems[path],
            hidden=out_of_sight,
            labels=named.get(number, ()),
            size_bytes=size_bytes(path),
        )
        for number, path, out_of_sight in sorted(
            [(n, p, False) for n, p in visible.items()] + [(n, p, True) for n, p in hidden.items()]
        )
    ]


def find_base_paths(root: Path) -> list[Path]:
    """Return `root` where it holds versions, and otherwise its subfolders that do.

    Raises:
        PublishError: It cannot be read.
    """
    if _has_versions(root):
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [path for path in folders if os.access(path, os.R_OK) and _has_versions(path)]


def find_version(base_path: Path, number: int | None = None) -> Version:
    """Return the version `number` under `base_path`; None for the one that serves.

    Raises:
        PublishError: There is no such version.
    """
    return chosen(list_versions(base_path), number, base_path)


def chosen(versions: Sequence[Version], number: int | None, base_path: object) -> Version:
    """Return the version of that number; None for the one that serves.

    Raises:
        PublishError: There is no such version.
    """
    for version in versions:
        if version.serves if number is None else version.version == number:
            return version
    if not versions and isinstance(base_path, Path) and base_path.is_dir():
        raise PublishError(without_versions(base_path, os.listdir(base_path)))
    there = ", ".join(map(_told, versions)) or "none"
    wanted = "a version that is whole" if number is None else f"version {number}"
    raise PublishError(f"{base_path}: expected {wanted}, found {there}")


def read_labels(base_path: Path) -> dict[str, int]:
    """Return the labels of the versions under `base_path`, by name.

    Raises:
        PublishError: There is no such folder, or their file is damaged.
    """
    if not base_path.is_dir():
        raise PublishError(f"{base_path}: expected a model's folder, found none")
    try:
        return read_labels_file(base_path)
    except (OSError, ValueError) as error:
        raise PublishError(f"{base_path / LABELS_NAME}: cannot be read: {error}") from error


def set_label(base_path: Path, label: str, number: int | None) -> None:
    """Give `label` to the version `number`, taking it from any other; None removes it.

    Raises:
        PublishError: There is no such version or label, the version is out of sight, or the name
            is none.
    """
    version = None if number is None else find_version(base_path, number)
    change_labels(base_path, lambda labels: relabelled(labels, label, version, base_path))


def change_labels(base_path: Path, change: ChangeLabels) -> None:
    """Replace all labels by what `change` makes of them, in one step.

    Raises:
        PublishError: The file can't be read or written, or `change` has raised it.
    """
    with _one_at_a_time(base_path):
        _write_labels(base_path, change(read_labels(base_path)))


def relabelled(
    labels: Mapping[str, int], label: str, version: Version | None, base_path: object
) -> dict[str, int]:
    """Return the labels with one of them on `version`, or without it if that is None.

    Raises:
        PublishError: There is no such label, the version can't serve, or the name is none.
    """
    if not _LABEL.fullmatch(label):
        raise PublishError(
            f"label: expected letters, digits, '.', '_' and '-', at most 64, got {label!r}"
        )
    if version is None:
        if label not in labels:
            raise PublishError(f"{base_path}: there is no label {label}")
        return {name: number for name, number in labels.items() if name != label}
    if version.hidden:
        raise PublishError(
            f"{base_path}: version {version.version} is out of sight; restore it first"
        )
    return {**labels, label: version.version}


def check_hideable(version: Version, versions: Iterable[Version], base_path: object) -> None:
    """Refuse to take a version out of sight that is needed.

    Args:
        version: the version.
        versions: all of them.
        base_path: theirs, for messages.

    Raises:
        PublishError: It is out of sight already, it is labelled, or no other is in sight and whole.
    """
    if version.hidden:
        raise PublishError(f"{base_path}: version {version.version} is out of sight already")
    if version.labels:
        raise PublishError(
            f"{base_path}: version {version.version} is labelled {', '.join(version.labels)};"
            " move the label first"
        )
    others = [v for v in versions if not v.hidden and v.version != version.version]
    if all(other.problem for other in others):
        whole = " that is whole" if others else ""
        raise PublishError(
            f"{base_path}: version {version.version} is the only one in sight{whole}"
        )


def check_restorable(hidden: Collection[int], number: int | None, base_path: object) -> int:
    """Return which version to bring back: `number`, or the highest out of sight.

    Raises:
        PublishError: There is none.
    """
    wanted = max(hidden, default=None) if number is None else number
    if wanted is None or wanted not in hidden:
        there = ", ".join(map(str, hidden)) or "none"
        what = "one" if number is None else f"version {number}"
        raise PublishError(f"{base_path}: expected {what} out of sight, found {there}")
    return wanted


def hide(base_path: Path, number: int | None = None) -> Version:
    """Take a version out of servers' sight, the one that serves unless told; return it.

    It stays on disk, and keeps its number.

    Raises:
        PublishError: There is no such version, it is labelled, or no other is in sight and whole.
    """
    version = find_version(base_path, number)
    check_hideable(version, list_versions(base_path), base_path)
    _rename(_folder_of(version), base_path / f"{HIDDEN_PREFIX}{version.version}")
    return version


def restore(base_path: Path, number: int | None = None) -> Version:
    """Bring back a version that was hidden, the highest unless told; return it.

    Raises:
        PublishError: There is none.
    """
    hidden = hidden_versions(base_path)
    wanted = check_restorable(hidden, number, base_path)
    _rename(hidden[wanted], base_path / str(wanted))
    return find_version(base_path, wanted)


def to_prune(versions: Iterable[Version], keep: int) -> list[Version]:
    """Return the versions that pruning removes.

    They are below the `keep` highest that are whole and in sight: what is not whole may be on its
    way, and takes nobody's place. The one that serves, one with a label that lies beside the
    versions, and one out of sight stay. What a server's own configuration names is not known here.
    """
    in_sight = sorted(
        (version for version in versions if not version.hidden), key=lambda v: v.version
    )
    whole = [version.version for version in in_sight if not version.problem]
    if len(whole) < keep:
        return []
    return [
        version
        for version in in_sight
        if version.version < whole[-keep] and not version.serves and not version.labels
    ]


def remove(version: Version) -> None:
    """Remove a version's folder: first out of sight in one step, then from the disk.

    Raises:
        PublishError: It cannot be removed.
    """
    folder = _folder_of(version)
    grave = folder.parent / f"{STAGING_PREFIX}pruned-{secrets.token_hex(8)}"
    _rename(folder, grave)
    try:
        if grave.is_symlink():
            grave.unlink()
        else:
            shutil.rmtree(grave)
    except OSError as error:
        raise PublishError(f"{grave}: cannot be removed: {error.strerror or error}") from error


def metrics_of(version: Version) -> Mapping[str, float]:
    """Return what was measured of a version before it was published; nothing without a card."""
    return {} if version.card is None else version.card.metrics


def _told(version: Version) -> str:
    return f"{version.version} ({version.problem})" if version.problem else str(version.version)


def _problem(path: Path) -> str:
    try:
        return find_missing(path) or ""
    except OSError as error:
        return f"it can't be read: {error.strerror or error}"


def _folder_of(version: Version) -> Path:
    if isinstance(version.path, StoreUrl):
        raise PublishError(f"{version.path}: expected a version in a folder")
    return version.path


def _has_versions(path: Path) -> bool:
    return bool(published_versions(path) or hidden_versions(path))


def _rename(source: Path, target: Path) -> None:
    try:
        if target.exists():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        source.rename(target)
    except OSError as error:
        raise PublishError(
            f"{source}: cannot be renamed to {target.name}: {error.strerror or error}"
        ) from error


@contextmanager
def _one_at_a_time(base_path: Path) -> Iterator[None]:
    """Wait until nobody else changes labels, where the file system has locks."""
    try:
        descriptor = os.open(base_path, os.O_RDONLY)
    except OSError as error:
        raise PublishError(f"{base_path}: cannot be read: {error.strerror or error}") from error
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_labels(base_path: Path, labels: Mapping[str, int]) -> None:
    path = base_path / f"{LABELS_NAME}.{secrets.token_hex(8)}"
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(labels, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        path.replace(base_path / LABELS_NAME)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise PublishError(
            f"{base_path}: labels cannot be written: {error.strerror or error}"
        ) from error
