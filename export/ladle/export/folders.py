"""Training data from folders and files: images by class, CSV, and TFRecords of tf.Examples.

What does not come in two parts is split: of each class, or of all numbers, every fifth example in
the order of the data is held out. Decoded images go to a file without a name, mapped into memory:
data larger than memory train, and the file is gone with the process.
"""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.dataset import BYTE_PIXELS, Dataset
from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

HELD_OUT_EVERY = 5
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_LABEL_COLUMNS = ("label", "target")
_WEIGHT_COLUMN = "sample_weight"

_Source = tuple[str, Callable[[], bytes]]


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
    held_out: list[bool] = []
    for index, listing in enumerate(listings):
        for label, images in listing.items():
            if label not in labels:
                raise DataError(f"{path}: test: class {label} has no images to train on")
            files.extend(images)
            targets.extend([labels.index(label)] * len(images))
            held_out.extend(
                n % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 if split else index == 1
                for n in range(len(images))
            )
    pixels = _decode_all([(str(file), file.read_bytes) for file in files], size)
    return _split(path.name, pixels, np.array(targets), np.array(held_out), labels, BYTE_PIXELS)


def read_csv(path: Path, *, regression: bool = False) -> Dataset:
    """Read a table with a header: numbers, and a column `label` or `target`.

    Labels may be texts. A column `sample_weight` says how much a row counts. Columns are brought
    to mean 0 and deviation 1, as measured on the training rows and recorded as normalisation.

    Raises:
        DataError: There is no such column, or a value is no finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error
    if len(rows) < 2:
        raise DataError(f"{path}: expected a header and rows, got {len(rows)} lines")
    header, *body = rows
    target = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
    if target is None:
        raise DataError(f"{path}: expected a column label or target, got {', '.join(header)[:200]}")
    weight = header.index(_WEIGHT_COLUMN) if _WEIGHT_COLUMN in header else None
    columns = [n for n in range(len(header)) if n not in (target, weight)]
    table = np.empty((len(body), len(header)), np.float32)
    texts = []
    for number, row in enumerate(body):
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {number + 2}: expected {len(header)} values, got {len(row)}"
            )
        texts.append(row[target])
        for column in range(len(header)):
            if column != target or regression:
                table[number, column] = _number(path, number + 2, header[column], row[column])
    features = np.ascontiguousarray(table[:, columns])
    weights = None if weight is None else table[:, weight]
    if regression:
        targets, labels = table[:, target].copy(), tuple[str, ...]()
        held_out = np.arange(len(body)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    else:
        labels = _sorted_labels(texts)
        targets = np.array([labels.index(text) for text in texts])
        held_out = _every_fifth_of_each(targets)
    trained = features[~held_out]
    if not len(trained) or not held_out.any():
        raise DataError(f"{path}: {len(body)} rows leave nothing to train on or to measure with")
    deviation = trained.std(axis=0)
    normalization = Normalization(
        offset=tuple(map(float, trained.mean(axis=0))),
        divisor=tuple(map(float, np.where(deviation > 0, deviation, 1))),
    )
    return _split(path.name, features, targets, held_out, labels, normalization, weights)


def read_tfrecords(path: Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read tf.Examples with the features `image/encoded` and `image/class/label`.

    The label is an integer from 0, or `image/class/text` a name. Images of other sizes than the
    first are brought to its size, or all to `size`.

    Raises:
        DataError: The file or an Example in it cannot be read, or lacks a feature.
    """
    import tensorflow as tf

    from ladle.protos.tensorflow_pb import Example

    encoded, texts = [], []
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
            features = Example.FromString(record).features.feature
            image = list(features["image/encoded"].bytes_list.value)
            names = [name.decode() for name in features["image/class/text"].bytes_list.value]
            numbers = list(features["image/class/label"].int64_list.value)
            if len(image) != 1 or len(names or numbers) != 1:
                raise DataError(
                    f"{path}: record {number}: expected image/encoded and image/class/label or"
                    " image/class/text, one value each"
                )
            encoded.append(image[0])
            texts.append(names[0] if names else str(numbers[0]))
    except DataError:
        raise
    except Exception as error:  # TensorFlow's and protobuf's errors share no base
        raise DataError(f"{path}: cannot be read as a TFRecord of tf.Examples") from error
    if not encoded:
        raise DataError(f"{path}: expected at least one tf.Example")
    labels = _sorted_labels(texts)
    targets = np.array([labels.index(text) for text in texts])
    sources = [(f"{path}: record {n}", partial(bytes, data)) for n, data in enumerate(encoded)]
    pixels = _decode_all(sources, size)
    return _split(path.name, pixels, targets, _every_fifth_of_each(targets), labels, BYTE_PIXELS)


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


def _decode_all(sources: Sequence[_Source], size: tuple[int, int] | None) -> NDArray[Any]:
    """Return all images as one mapped array, grey or coloured as the first is."""
    import tensorflow as tf

    def decode(name: str, data: bytes, channels: int) -> Any:
        try:
            return tf.io.decode_image(data, channels=channels, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise DataError(f"{name}: cannot be read as an image") from error

    def read(source: _Source) -> bytes:
        name, get = source
        try:
            return get()
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error

    first = decode(sources[0][0], read(sources[0]), 0)
    channels = 1 if first.shape[2] < 3 else 3
    height, width = size or first.shape[:2]
    pixels = _mapped((len(sources), height, width, channels))
    for index, source in enumerate(sources):
        image = decode(source[0], read(source), channels)
        if image.shape[:2] != (height, width):
            image = tf.cast(tf.round(tf.image.resize(image, (height, width))), tf.uint8)
        pixels[index] = image.numpy()
    return pixels


def _split(
    name: str,
    examples: NDArray[Any],
    targets: NDArray[Any],
    held_out: NDArray[Any],
    labels: tuple[str, ...],
    normalization: Normalization,
    weights: NDArray[np.float32] | None = None,
) -> Dataset:
    if held_out.all() or not held_out.any():
        raise DataError(
            f"{name}: {len(targets)} examples leave none to train on or to measure with"
            f" (every {HELD_OUT_EVERY}th of a class is held out)"
        )
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return Dataset(
        name=name,
        x_train=_taken(examples, train),
        y_train=targets[train],
        x_test=_taken(examples, test),
        y_test=targets[test],
        labels=labels,
        normalization=normalization,
        sample_weight=None if weights is None else weights[train],
    )


def _taken(examples: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[Any]:
    """Return the chosen examples: of a mapped array again a mapped one."""
    if not isinstance(examples, np.memmap):
        return examples[chosen]
    taken = _mapped((len(chosen), *examples.shape[1:]))
    for index, number in enumerate(chosen):
        taken[index] = examples[number]
    return taken


def _mapped(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a new array whose bytes are in a temporary file.

    Raises:
        DataError: The disk has no room for it.
    """
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile(prefix="ladle-images-") as file:
            # A hole in the file that the disk cannot fill later would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: no room for {size} bytes of decoded images:"
            f" {error.strerror or error}"
        ) from error


def _every_fifth_of_each(targets: NDArray[Any]) -> NDArray[np.bool_]:
    held_out = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        held_out[np.flatnonzero(targets == target)[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True
    return held_out


def _sorted_labels(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the different labels: numbers by their size, and others by the alphabet."""
    different = set(texts)
    if all(text.isascii() and text.isdigit() for text in different):
        return tuple(sorted(different, key=int))
    return tuple(sorted(different))


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f'{path}: line {line}: column "{column}": expected a finite number, got {text[:80]!r}'
        )
    return number
