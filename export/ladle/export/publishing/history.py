"""The versions that lie under a model's base path, and what their cards say."""

from __future__ import annotations

from pathlib import Path

from ladle.export.errors import PublishError
from ladle.export.publishing.card import read_card
from ladle.protos.files.versions import HIDDEN_PREFIX, version_of
from ladle.protos.model_card import ModelCard


def published_versions(base_path: Path) -> dict[int, Path]:
    """Return the version folders under `base_path` by number, the lowest first.

    Of two names for one number, "7" and "007", the last in the order of names counts.

    Raises:
        PublishError: `base_path` cannot be read.
    """
    try:
        folders = [path for path in sorted(base_path.iterdir()) if path.is_dir()]
    except OSError as error:
        raise PublishError(f"{base_path}: cannot be read: {error.strerror or error}") from error
    found = {version: path for path in folders if (version := version_of(path.name)) is not None}
    return dict(sorted(found.items()))


def hidden_versions(base_path: Path) -> dict[int, Path]:
    """Return the version folders under `base_path` that were taken out of sight, by number.

    Raises:
        PublishError: `base_path` cannot be read.
    """
    try:
        folders = sorted(base_path.glob(f"{HIDDEN_PREFIX}*"))
    except OSError as error:
        raise PublishError(f"{base_path}: cannot be read: {error.strerror or error}") from error
    found = {
        version: path
        for path in folders
        if (version := version_of(path.name.removeprefix(HIDDEN_PREFIX))) is not None
    }
    return dict(sorted(found.items()))


def now_serving(base_path: Path) -> tuple[int, ModelCard] | None:
    """Return the highest version that has a model card, which is what a server takes by itself."""
    for version, path in reversed(published_versions(base_path).items()):
        card = read_card(path)
        if card is not None:
            return version, card
    return None
