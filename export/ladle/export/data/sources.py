"""Where training data comes from: data sets known by name, and those in files and folders."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.conversion import mapped
from ladle.export.data.dataset import ARRAY_NAMES, WEIGHTS_NAME, Dataset
from ladle.export.data.folders import read_folder
from ladle.export.data.holdout import stratified_holdout
from ladle.export.data.records import read_tfrecords
from ladle.export.data.tables.csv import read_csv
from ladle.export.data.tables.frames import read_frame
from ladle.export.errors import DataError
from ladle.export.multi_io.data import MultiDataset
from ladle.protos.files.frames import Frame, is_frame
from ladle.protos.files.regular_file import check_regular
from ladle.protos.model_card import Normalization

# Larger arrays are not read into memory, but mapped.
_LARGE_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
TFRECORDS = (".tfrecord", ".tfrecords")
_FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


Source: TypeAlias = "str | os.PathLike[str] | Frame"
"""A name, a path, or a DataFrame of pandas or polars or a table of Arrow."""


def load_data(
    source: Source,
    *,
    regression: bool = False,
    size: tuple[int, int] | None = None,
    group_by: str | None = None,
) -> Dataset:
    """Return a data set: "digits", "mnist", "fashion_mnist", a DataFrame's, or what is at a path.

    A DataFrame is read as a .csv of the same columns would be, see `read_frame`. At a path is a
    folder of images (see `read_folder`), a .csv (`read_csv`), a .tfrecord (`read_tfrecords`) or an
    .npz file. An .npz file holds the arrays x_train, y_train, x_test and
    y_test, in the layout of keras.datasets: uint8 images [images, height, width] or [images,
    height, width, channels], and integer labels [images] from 0 to n-1; or float32 features
    [examples, features], or sequences and other numbers [examples, ...]; or texts [examples].
    Where an example may have several labels, they are rows of 0s and 1s [examples, labels]. A
    regression's targets are [examples], or [examples, n] for n numbers each. Numbers of other types
    are converted where their values fit, see `Dataset.from_arrays`.
    It may hold `sample_weight` too. Pixels are divided by 255.

    Args:
        source: A name, a path, or a DataFrame.
        regression: Whether the targets are numbers to predict.
        size: Height and width to bring the images of a folder or a .tfrecord to, as these may
            differ; None for those of most.
        group_by: What keeps groups of examples on one side of the split: a column of a .csv, or
            for a folder a regular expression, see `read_folder`.

    Raises:
        DataError: There is no such data, it cannot be read, or it is not of that form.
    """
    found = read_source(source, regression=regression, size=size, group_by=group_by)
    if isinstance(found, MultiDataset):
        raise DataError(
            f"{found.name}: {found.what_it_is}; load it with load_multi_data, for a model of your"
            " own that takes them"
        )
    return found


def load_multi_data(
    source: Source, *, regression: bool = False, group_by: str | None = None
) -> MultiDataset:
    """Return data with several inputs or outputs: an .npz with names, or the columns of a table.

    The arrays of the .npz are called `x_train/NAME`, `y_train/NAME`, `x_test/NAME` and
    `y_test/NAME`, or `y_train` and `y_test` for the only output; see `MultiDataset.from_arrays`. Of
    a table, see `read_csv`, each column is an input of its own: numbers, or texts where no value
    is a number.

    Args:
        source: The path of an .npz or a .csv, or a DataFrame.
        regression: Whether a table's targets are numbers to predict.
        group_by: As for `load_data`.

    Raises:
        DataError: There is no such data, it cannot be read, or it is not of that form.
    """
    found = read_source(source, regression=regression, group_by=group_by, by_column=True)
    if isinstance(found, MultiDataset):
        return found
    raise DataError(
        f"{found.name}: expected a .csv, or an .npz with arrays that are called x_train/NAME"
    )


def read_source(
    source: Source,
    *,
    regression: bool = False,
    size: tuple[int, int] | None = None,
    group_by: str | None = None,
    by_column: bool = False,
) -> Dataset | MultiDataset:
    """Return what `load_data` or `load_multi_data` does, whichever the data are for.

    A table is for the latter where it has a column of texts among several, or with `by_column`.

    Raises:
        DataError: As for these.
    """
    if not isinstance(source, str | os.PathLike):
        if not is_frame(source):
            raise DataError(
                f"data: expected a name, a path or a DataFrame, got {type(source).__name__}"
            )
        return read_frame(source, regression=regression, group_by=group_by, by_column=by_column)
    named = NAMED_SOURCES.get(str(source))
    path = Path(source)
    if not str(source):
        raise DataError("data: expected a name or a path, got nothing")
    if group_by is not None and path.suffix.lower() != ".csv" and not path.is_dir():
        raise DataError(f"group by: expected a .csv or a folder of files, got {source}")
    if named is not None:
        return named(regression)
    if path.suffix.lower() in (".npz", ".csv", *TFRECORDS) and path.exists() and not path.is_dir():
        try:
            check_regular(path)  # a FIFO would be waited for, and can't be read twice
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    match path.suffix.lower():
        case ".npz":
            return _npz(path, regression)
        case ".csv":
            return read_csv(path, regression=regression, group_by=group_by, by_column=by_column)
    if path.is_dir() or path.suffix.lower() in TFRECORDS:
        if regression:
            raise DataError(f"{path}: expected .npz or .csv data for a regression")
        if path.is_dir():
            return read_folder(path, size, group_by=group_by)
        return read_tfrecords(path, size)
    names = ", ".join(NAMED_SOURCES)
    raise DataError(
        f"data: expected {names} or the path of a folder, an .npz, a .csv or a .tfrecord file,"
        f" got {source}"
    )


def _digits(regression: bool) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8x8 with 17 shades, from inside its wheel.

    Of each digit every fifth image, in the order of the set, is held out: 355 images. The
    set runs writer by writer, so both parts hold the same hands.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, targets = digits.images.astype(np.uint8), digits.target
    held_out = stratified_holdout(targets)
    arrays = {
        "x_train": images[~held_out],
        "y_train": targets[~held_out],
        "x_test": images[held_out],
        "y_test": targets[held_out],
    }
    return Dataset.from_arrays("digits", arrays, Normalization(divisor=16.0), regression=regression)


def _mnist(regression: bool) -> Dataset:
    return _keras("mnist", regression)


def _fashion_mnist(regression: bool) -> Dataset:
    dataset = _keras("fashion_mnist", regression)
    return dataset if regression else replace(dataset, labels=_FASHION_LABELS)


def _keras(name: str, regression: bool) -> Dataset:
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception for a download that failed
        raise DataError(
            f"{name}: Keras has no usable copy and cannot download one ({error});"
            f" give the path of the file {name}.npz instead"
        ) from error
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return Dataset.from_arrays(name, arrays, regression=regression)


# Loading these imports Keras, and TensorFlow with it.
KERAS_SOURCES = ("mnist", "fashion_mnist")
NAMED_SOURCES: Mapping[str, Callable[[bool], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
}


def _npz(path: Path, regression: bool) -> Dataset | MultiDataset:
    try:
        with path.open("rb") as file:
            arrays = _read_arrays(file)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if any("/" in name for name in arrays):
        return MultiDataset.from_arrays(path.name, _by_part(arrays))
    return Dataset.from_arrays(path.name, arrays, regression=regression)


def _by_part(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return arrays called `PART/NAME`, or `PART` for the only output, by part and name."""
    parts: dict[str, dict[str, NDArray[Any]]] = {part: {} for part in ARRAY_NAMES}
    for path, array in arrays.items():
        part, _, name = path.partition("/")
        if part in parts:
            parts[part][name] = array
    return parts


def _read_arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    try:
        archive = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError("expected an .npz archive, which it is not") from error
    if isinstance(archive, np.ndarray):
        raise DataError("expected an .npz archive, got a single array")
    with archive:
        by_name = [name for name in archive.files if name.partition("/")[0] in ARRAY_NAMES]
        if any("/" in name for name in by_name):
            return {name: _read_array(archive, name) for name in by_name}
        missing = [name for name in ARRAY_NAMES if name not in archive.files]
        if missing:
            raise DataError(
                f"expected the arrays {', '.join(ARRAY_NAMES)};"
                f" missing {', '.join(missing)}, found {_listed(archive.files)}"
            )
        names = [name for name in (*ARRAY_NAMES, WEIGHTS_NAME) if name in archive.files]
        return {name: _read_array(archive, name) for name in names}


def _read_array(archive: Any, name: str) -> NDArray[Any]:
    try:
        sizes = {info.filename: info.file_size for info in archive.zip.infolist()}
        member = f"{name}.npy"
        large = sizes.get(member, 0) > _LARGE_BYTES
        array = _read_mapped(archive.zip, member) if large else archive[name]
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name} does not fit in memory: {error}") from error
    # All that zipfile and NumPy raise for members that are damaged, encrypted or of a strange form.
    except (
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{name}: expected numbers or texts, got objects, which are pickled; save texts as"
                " np.array(texts, str)"
            ) from None
        raise DataError(f"{name} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: expected an array, got something else")
    return array


def _read_mapped(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    """Return an array that is read into a mapped file, piece by piece."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"it is of format {version}")
        shape, fortran, dtype = _READ_HEADER[version](file)
        n_bytes = math.prod(shape) * dtype.itemsize
        n_stored = archive.getinfo(member).file_size - file.tell()
        if dtype.hasobject or not n_bytes or n_bytes != n_stored:
            raise ValueError("it is no array of numbers, or shorter than it says")
        array = mapped(tuple(shape[::-1] if fortran else shape), dtype)
        rest = array.reshape(-1).view(np.uint8)
        while len(rest):
            piece = np.frombuffer(file.read(_PIECE_BYTES), np.uint8)
            if not len(piece):
                raise EOFError("it ends early")
            rest[: len(piece)] = piece
            rest = rest[len(piece) :]
        file.read(1)  # at its end the checksum is compared
    return array.T if fortran else array


def _listed(names: list[str], at_most: int = 8) -> str:
    shown = ", ".join(names[:at_most]) or "none"
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"
