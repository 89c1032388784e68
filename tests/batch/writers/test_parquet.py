"""Row groups have a bounded size, whatever the rows hold."""

from __future__ import annotations

import errno
import io
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from ladle.batch.rows import Answered, objects
from ladle.batch.writers import parquet
from ladle.batch.writers.parquet import ParquetWriter


def answer(start: int, stop: int, output: bytes = b"", kept: bytes = b"") -> Answered:
    return Answered(
        start=start,
        stop=stop,
        numbers=np.arange(start, stop),
        outputs={"y": objects([output] * (stop - start))},
        kept={"k": objects([kept] * (stop - start))},
    )


class KeptOpen(io.BytesIO):
    def close(self) -> None:
        pass


@pytest.mark.parametrize(("output", "kept"), [(b"x" * 1000, b""), (b"", b"x" * 1000)])
def test_text_and_kept_columns_count_for_the_size_of_a_row_group(
    output: bytes, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BYTES_IN_GROUP", 20_000)
    file = KeptOpen()
    writer = ParquetWriter(lambda rest: file)
    for start in range(0, 100, 10):
        writer.write(answer(start, start + 10, output, kept))
    writer.close()
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [20] * 5


class Full(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_the_systems_error_and_closing_again_is_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "ROWS_IN_GROUP", 20)

    def open_full(rest: str) -> BinaryIO:
        return Full()

    writer = ParquetWriter(open_full)
    writer.write(answer(0, 10))
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(answer(10, 20))
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()
    writer.close()
