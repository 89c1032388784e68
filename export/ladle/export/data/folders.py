"""Training data from a folder with a folder of images for each class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import BYTE_PIXELS, Dataset
from ladle.export.data.holdout import holdout
from ladle.export.data.pictures import Source, decode
from ladle.export.errors import DataError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_ARCHIVE_LEFTOVER = "__MACOSX"


def read_folder(path: Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read the images under `path`, a folder for each class, named as the class.

    Where there are folders `train` and `test`, these hold the classes of the two parts. All images
    are brought to `size`, or to the size of most; they are read in colour if any has colours.
    Hidden files and folders are passed over, and so is what macOS puts into archives.

    Raises:
        DataError: There are none, fewer than two classes, or an image cannot be read.
    """
    parts = [path / "train", path / "test"]
    split = not all(part.is_dir() for part in parts)
    listings = [_list_classes(part) for part in ([path] if split else parts)]
    labels = tuple(sorted(listings[0]))
    if len(labels) < 2:
        raise DataError(
            f"{path}: expected a folder of images for each class, at least two;"
            f" got {', '.join(labels) or 'none'}"
        )
    files: list[Path] = []
    targets: list[int] = []
    held_out: list[NDArray[np.bool_]] = []
    for index, listing in enumerate(listings):
        for label, images in listing.items():
            if label not in labels:
                raise DataError(f"{path}: test: class {label} has no images to train on")
            files.extend(images)
            targets.extend([labels.index(label)] * len(images))
            held_out.append(holdout(len(images)) if split else np.full(len(images), index == 1))
    sources: list[Source] = [(str(file), partial(Path, file)) for file in files]
    decoded = decode(path.name, lambda: sources, np.concatenate(held_out), size)
    return decoded.dataset(path.name, np.array(targets), labels, BYTE_PIXELS)


def _list_classes(path: Path) -> dict[str, list[Path]]:
    try:
        folders = [entry for entry in _visible(path) if entry.is_dir()]
        listing = {
            folder.name: [file for file in _visible(folder) if file.suffix.lower() in _IMAGES]
            for folder in folders
        }
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    for name, files in listing.items():
        if not files:
            raise DataError(f"{path / name}: expected images ({', '.join(_IMAGES)}), got none")
    return listing


def _visible(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if not entry.name.startswith(".") and entry.name != _ARCHIVE_LEFTOVER
    ]
