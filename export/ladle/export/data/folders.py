"""Training data from a folder of images, and the decoding of images into mapped arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import BYTE_PIXELS, Dataset
from ladle.export.data.holdout import TrainTestSplit, check_split, holdout
from ladle.export.errors import DataError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")

Source = tuple[str, Callable[[], bytes]]
"""What an image is called in messages, and how to have its bytes."""


def read_folder(path: Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read the images under `path`, a folder for each class, named as the class.

    Where there are folders `train` and `test`, these hold the classes of the two parts. Images of
    other sizes than the first are brought to its size, or all to `size`.

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
    sources = [(str(file), file.read_bytes) for file in files]
    decoded = decode(path.name, sources, np.concatenate(held_out), size)
    return decoded.dataset(path.name, np.array(targets), labels, BYTE_PIXELS)


def decode(
    name: str, sources: Iterable[Source], held_out: NDArray[np.bool_], size: tuple[int, int] | None
) -> TrainTestSplit:
    """Return all images of `sources`, as many as `held_out`, in two mapped arrays.

    They are grey or coloured as the first is, and of its size or of `size`. One at a time is in
    memory.

    Raises:
        DataError: One cannot be read, or there are more or fewer.
    """
    import tensorflow as tf

    def decoded(source: Source, channels: int) -> Any:
        try:
            return tf.io.decode_image(source[1](), channels=channels, expand_animations=False)
        except OSError as error:
            raise DataError(f"{source[0]}: cannot be read: {error.strerror or error}") from error
        except tf.errors.InvalidArgumentError as error:
            raise DataError(f"{source[0]}: cannot be read as an image") from error

    check_split(name, held_out)
    coming = iter(sources)
    first = next(coming, None)
    if first is None:
        raise DataError(f"{name}: expected {len(held_out)} images, got none")
    shape = decoded(first, 0).shape
    channels = 1 if shape[2] < 3 else 3
    height, width = size or shape[:2]
    parts = TrainTestSplit(held_out, (height, width, channels), np.uint8)
    n_read = 0
    for n_read, source in enumerate(chain([first], coming), start=1):  # asked for below
        if n_read > len(held_out):
            break
        image = decoded(source, channels)
        if image.shape[:2] != (height, width):
            image = tf.cast(tf.round(tf.image.resize(image, (height, width))), tf.uint8)
        parts.add(image.numpy())
    if n_read != len(held_out):
        raise DataError(f"{name}: was changed while it was read")
    return parts


def _list_classes(path: Path) -> dict[str, list[Path]]:
    try:
        folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
        listing = {
            folder.name: [
                file for file in sorted(folder.iterdir()) if file.suffix.lower() in _IMAGES
            ]
            for folder in folders
        }
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    for name, files in listing.items():
        if not files:
            raise DataError(f"{path / name}: expected images ({', '.join(_IMAGES)}), got none")
    return listing
