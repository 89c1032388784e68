"""What has been read, cut into requests."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.batch.dispatch import chunker
from ladle.batch.dispatch.chunker import Chunker
from ladle.batch.rows import FailedRow, Part


def chunk(start: int, stop: int, *failed: int, row_bytes: int = 1, picture_bytes: int = 0) -> Part:
    numbers = np.array([n for n in range(start, stop) if n not in failed], np.int64)
    return Part(
        start=start,
        stop=stop,
        numbers=numbers,
        tensors={"x": np.zeros((len(numbers), row_bytes), np.uint8)},
        kept={},
        failed=tuple(FailedRow(row, "BAD", "bad") for row in failed),
        picture_bytes=picture_bytes,
    )


class Cut:
    """A chunker, and how often it has used up a chunk."""

    def __init__(self, request_rows: int | None = None, shard_rows: int = 1 << 16) -> None:
        self.used_up = 0
        self.chunker = Chunker(
            request_rows=request_rows,
            shard_rows=shard_rows,
            max_in_flight=16,
            used_up=self.count,
        )

    def count(self) -> None:
        self.used_up += 1

    def spans(self, *chunks: Part) -> list[tuple[int, int]]:
        """Return from which row to which all parts of the chunks are."""
        for each in chunks:
            self.chunker.add(each)
        spans = []
        while (part := self.chunker.next()) is not None:
            spans.append((part.start, part.stop))
        assert self.chunker.is_empty
        return spans


def test_requests_have_as_many_rows_as_they_may_and_end_with_the_chunk() -> None:
    cut = Cut(request_rows=4)
    assert cut.spans(chunk(0, 10), chunk(10, 13)) == [(0, 4), (4, 8), (8, 10), (10, 13)]
    assert cut.used_up == 2


def test_no_request_goes_beyond_a_shards_end() -> None:
    cut = Cut(request_rows=4, shard_rows=6)
    assert cut.spans(chunk(0, 14)) == [(0, 4), (4, 6), (6, 10), (10, 12), (12, 14)]


def test_rows_that_failed_count_for_shards_and_not_for_requests() -> None:
    cut = Cut(request_rows=2, shard_rows=6)
    assert cut.spans(chunk(0, 9, 1, 2, 7)) == [(0, 4), (4, 6), (6, 9)]


def test_a_part_of_nothing_but_failures_ends_with_the_shard() -> None:
    assert Cut(shard_rows=2).spans(chunk(0, 3, 0, 1, 2)) == [(0, 2), (2, 3)]


def test_smaller_requests_stay_smaller() -> None:
    cut = Cut(request_rows=4)
    cut.chunker.add(chunk(0, 8))
    cut.chunker.next()
    cut.chunker.shrink(3)
    cut.chunker.shrink(9)
    assert cut.spans(chunk(8, 12)) == [(4, 7), (7, 8), (8, 11), (11, 12)]


@pytest.mark.parametrize(
    ("row_bytes", "rows", "in_flight"),
    [(10, 512, 16), (1 << 18, 4, 16), (1 << 23, 1, 8), (1 << 27, 1, 1)],
)
@pytest.mark.parametrize("are_pictures", [False, True])
def test_a_request_is_about_a_megabyte_and_all_together_are_bounded(
    row_bytes: int, rows: int, in_flight: int, are_pictures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures count as what they become, which is when they are under way."""
    # A thousandth of everything, to leave memory alone.
    monkeypatch.setattr(chunker, "REQUEST_BYTES", 1 << 10)
    monkeypatch.setattr(chunker, "IN_FLIGHT_BYTES", 64 << 10)
    cut = Cut()
    small = max(row_bytes >> 10, 1)
    given = {"row_bytes": 0, "picture_bytes": small} if are_pictures else {"row_bytes": small}
    cut.chunker.add(chunk(0, 600, **given))
    part = cut.chunker.next()
    assert part is not None
    assert (len(part.numbers), cut.chunker.max_in_flight) == (rows, in_flight)


def test_requests_of_a_given_size_are_bounded_together_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunker, "IN_FLIGHT_BYTES", 64)
    cut = Cut(request_rows=8)
    cut.chunker.add(chunk(0, 8, row_bytes=2))
    cut.chunker.next()
    assert cut.chunker.max_in_flight == 4


def test_text_and_bytes_count_as_long_as_they_are() -> None:
    values: NDArray[np.object_] = np.array([b"abc", "de", None], object)
    assert Part(start=0, stop=3, numbers=np.arange(3), tensors={"x": values}, kept={}).nbytes == 5
