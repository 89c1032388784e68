"""Where versions are published: in a folder, or in a store."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ladle.export.errors import PublishError
from ladle.export.publishing.history import now_serving
from ladle.export.publishing.publish import (
    check_free,
    prepare_base_path,
    publish,
    staging_folder,
)
from ladle.export.publishing.store import Placed, StoreDestination
from ladle.protos.model_card import ModelCard
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.url import StoreUrl, is_url, parse_url


class Destination(Protocol):
    """A model's base path, as a publisher sees it. Every method may block.

    Every method raises PublishError for what the place refuses.
    """

    @property
    def model_name(self) -> str:
        """The model's name: the last part of the path."""

    def prepare(self) -> None:
        """See that versions can be written there; worth calling before a long training."""

    def check_free(self, version: int) -> None:
        """Refuse a number that is taken."""

    def now_serving(self) -> tuple[int, ModelCard] | None:
        """Return the highest version that has a model card; None if there is none."""

    def staging(self) -> AbstractContextManager[Path]:
        """Give an empty folder to build a version in."""

    def publish(self, staged: Path, version: int | None = None) -> Placed:
        """Make the folder a version, of that number or of the next one."""


class FolderDestination:
    """A folder, made where it is missing."""

    def __init__(self, base_path: Path) -> None:
        self._base_path = base_path

    @property
    def model_name(self) -> str:
        """The folder's name."""
        return self._base_path.name

    def prepare(self) -> None:
        """See that versions can be written there."""
        prepare_base_path(self._base_path)

    def check_free(self, version: int) -> None:
        """Refuse a number that is taken."""
        check_free(self._base_path, version)

    def now_serving(self) -> tuple[int, ModelCard] | None:
        """Return the highest version that has a model card."""
        return now_serving(self._base_path)

    def staging(self) -> AbstractContextManager[Path]:
        """Give an empty folder inside the base path."""
        return staging_folder(self._base_path)

    def publish(self, staged: Path, version: int | None = None) -> Placed:
        """Rename the folder to its number."""
        published = publish(staged, version)
        return Placed(published.version, published.path)


def destination_of(base_path: str | os.PathLike[str] | StoreUrl) -> Destination:
    """Return the place that a base path names; nothing is asked there.

    Raises:
        PublishError: It is a URL of no store, or the store can't be used here.
    """
    if not isinstance(base_path, StoreUrl):
        text = os.fspath(base_path)
        if not is_url(text):
            return FolderDestination(Path(os.path.abspath(text)))
        try:
            base_path = parse_url(text)
        except ValueError as error:
            raise PublishError(str(error)) from None
    try:
        return StoreDestination(base_path, open_store(base_path))
    except StoreError as error:
        raise PublishError(str(error)) from None
