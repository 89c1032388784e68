"""Where the versions of a model lie, for `ladle models`: in a folder, or in a store."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from ladle.export.errors import PublishError
from ladle.export.models import manage
from ladle.export.models.manage import ChangeLabels, Version
from ladle.export.models.store import StoreKeeper
from ladle.protos.files.versions import version_of
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.url import StoreUrl, is_url, parse_url


class Keeper(Protocol):
    """Looks after the versions under a base path. Every method blocks, and raises PublishError."""

    def list_versions(self) -> list[Version]:
        """Return all versions, the lowest first, those out of sight too."""

    def find_version(self, number: int | None = None) -> Version:
        """Return a version; None for the one that serves."""

    def read_labels(self) -> dict[str, int]:
        """Return the labels, by name."""

    def set_label(self, label: str, number: int | None) -> None:
        """Give a label to a version; None removes it."""

    def change_labels(self, change: ChangeLabels) -> None:
        """Replace all labels by what `change` makes of them, in one step."""

    def hide(self, number: int | None = None) -> Version:
        """Take a version out of servers' sight."""

    def restore(self, number: int | None = None) -> Version:
        """Bring back a version that was hidden."""

    def remove(self, version: Version) -> None:
        """Remove a version."""

    def local_copy(
        self, version: Version, only: Collection[str] | None = None
    ) -> AbstractContextManager[Path]:
        """Give a folder with the version's files, to read; `only` names those that matter."""

    def put_file(self, version: Version, folder: Path, path: str) -> None:
        """Put `folder`/`path` in the place of a version's file, or beside its others."""


class FolderKeeper:
    """Looks after the versions in a folder."""

    def __init__(self, base_path: Path) -> None:
        self._base_path = base_path

    def list_versions(self) -> list[Version]:
        """Return all versions, the lowest first, those out of sight too."""
        return manage.list_versions(self._base_path)

    def find_version(self, number: int | None = None) -> Version:
        """Return a version; None for the one that serves."""
        return manage.find_version(self._base_path, number)

    def read_labels(self) -> dict[str, int]:
        """Return the labels, by name."""
        return manage.read_labels(self._base_path)

    def set_label(self, label: str, number: int | None) -> None:
        """Give a label to a version; None removes it."""
        manage.set_label(self._base_path, label, number)

    def change_labels(self, change: ChangeLabels) -> None:
        """Replace all labels by what `change` makes of them, in one step."""
        manage.change_labels(self._base_path, change)

    def hide(self, number: int | None = None) -> Version:
        """Take a version out of servers' sight."""
        return manage.hide(self._base_path, number)

    def restore(self, number: int | None = None) -> Version:
        """Bring back a version that was hidden."""
        return manage.restore(self._base_path, number)

    def remove(self, version: Version) -> None:
        """Remove a version."""
        manage.remove(version)

    def local_copy(
        self, version: Version, only: Collection[str] | None = None
    ) -> AbstractContextManager[Path]:
        """Give the version's folder, with all its files."""
        assert isinstance(version.path, Path)
        return nullcontext(version.path)

    def put_file(self, version: Version, folder: Path, path: str) -> None:
        """Do nothing: the folder of `local_copy` is the version's own."""


def place_of(text: str) -> Path | StoreUrl:
    """Return what an argument names.

    Raises:
        ValueError: It is a URL of no store.
    """
    return parse_url(text) if is_url(text) else Path(text)


def keeper_of(base_path: Path | StoreUrl) -> Keeper:
    """Return who looks after the versions there.

    Raises:
        PublishError: The store can't be used here.
    """
    if isinstance(base_path, Path):
        return FolderKeeper(base_path)
    try:
        return StoreKeeper(base_path, open_store(base_path))
    except StoreError as error:
        raise PublishError(str(error)) from None


def keepers_below(root: Path | StoreUrl) -> list[Keeper]:
    """Return the keepers of the base paths at or right below a place.

    Raises:
        PublishError: It can't be read.
    """
    if isinstance(root, Path):
        return [FolderKeeper(path) for path in manage.find_base_paths(root)]
    keeper = keeper_of(root)
    assert isinstance(keeper, StoreKeeper)
    return list(keeper.below())


def find(place: Path | StoreUrl) -> tuple[Keeper, Version]:
    """Return the version at BASE_PATH/N, or the one that serves at BASE_PATH, and its keeper.

    Raises:
        PublishError: There is none.
    """
    number = version_of(place.name)
    # A version that is out of sight has another name.
    is_version = number is not None and (isinstance(place, StoreUrl) or place.parent.is_dir())
    keeper = keeper_of(place.parent if is_version else place)
    return keeper, keeper.find_version(number if is_version else None)
