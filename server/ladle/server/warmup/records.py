"""TFRecord files as the server reads them: what is wrong with one is a ServingError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ladle.protos.files import records
from ladle.protos.files.records import frame as frame
from ladle.protos.files.records import masked_checksum as masked_checksum
from ladle.server.core.errors import Code, ServingError


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, one at a time; reads no more than the file holds.

    Raises:
        OSError: The file can't be read.
        ServingError: DATA_LOSS, at the first record that is cut off or altered.
    """
    try:
        yield from records.read_records(path)
    except records.RecordError as error:
        raise ServingError(str(error), Code.DATA_LOSS) from None
