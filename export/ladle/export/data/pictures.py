"""Pictures of all sizes and kinds brought into two mapped arrays, one at a time in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.holdout import TrainTestSplit, check_split
from ladle.export.errors import DataError
from ladle.protos.files.pictures import Header, read_header, read_pixels

_Result = TypeVar("_Result")

Source = tuple[str, Callable[[], bytes | Path]]
"""What a picture is called in messages, and how to have its bytes or its file."""


class Format(NamedTuple):
    """What all pictures of a data set are brought to."""

    height: int
    width: int
    channels: int
    """1 or 3."""
    notes: tuple[str, ...]
    """What that costs, for whom to be told; each one sentence."""


def common_format(headers: Sequence[Header], size: tuple[int, int] | None) -> Format:
    """Decide by all pictures: colour if any has colours, and `size`, or the size of most.

    Of sizes that are as frequent, the one that comes first is taken.
    """
    sizes = Counter((header.height, header.width) for header in headers)
    height, width = size or sizes.most_common(1)[0][0]
    n_grey = sum(header.is_grey for header in headers)
    n_other = len(headers) - sizes[height, width]
    notes = []
    if 0 < n_grey < len(headers):
        notes.append(
            f"{n_grey} of {len(headers)} images are grey and the others have colours: all are read"
            " in colour"
        )
    if n_other and size is None:
        notes.append(
            f"{n_other} of {len(headers)} images are not of {height}x{width}, the size of most,"
            " and are resized to it; --resize sets another size"
        )
    return Format(height, width, 1 if n_grey == len(headers) else 3, tuple(notes))


def decode(
    name: str,
    sources: Callable[[], Iterable[Source]],
    held_out: NDArray[np.bool_],
    size: tuple[int, int] | None,
    notes: tuple[str, ...] = (),
) -> TrainTestSplit:
    """Return all pictures, as many as `held_out`, in two mapped arrays of one format.

    The sources are gone through twice: for the headers, then for the pixels. `notes` are kept with
    the data, before those about the pictures.

    Raises:
        DataError: One cannot be read, or there are more or fewer.
    """
    check_split(name, held_out)
    headers = [_read(source, read_header) for source in _counted(name, sources(), len(held_out))]
    height, width, channels, found = common_format(headers, size)

    def pixels(encoded: bytes | Path) -> NDArray[np.uint8]:
        return read_pixels(encoded, (height, width), channels)

    parts = TrainTestSplit(held_out, (height, width, channels), np.uint8, (*notes, *found))
    for source in _counted(name, sources(), len(held_out)):
        parts.add(_read(source, pixels))
    return parts


def _counted(name: str, sources: Iterable[Source], n_expected: int) -> Iterator[Source]:
    n_read = 0
    for n_read, source in enumerate(sources, start=1):  # asked for below
        if n_read > n_expected:
            break
        yield source
    if n_read != n_expected:
        raise DataError(f"{name}: was changed while it was read")


def _read(source: Source, function: Callable[[bytes | Path], _Result]) -> _Result:
    name, encoded = source
    try:
        return function(encoded())
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything for bytes that are broken
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read: {error.strerror}") from error
        raise DataError(f"{name}: cannot be read as an image: {error}") from error
