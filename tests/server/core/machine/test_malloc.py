from __future__ import annotations

import numpy as np
import pytest

from ladle.server.core.machine import malloc


@pytest.mark.parametrize("offset", range(0, 64, 12))
def test_an_aligned_array_holds_the_same_values_and_needs_no_copy_to_be_fed(offset: int) -> None:
    message = bytes(offset) + np.arange(6, dtype=np.int32).tobytes()
    array = np.frombuffer(message, np.int32, offset=offset).reshape(2, 3)

    aligned = malloc.aligned(array)

    np.testing.assert_array_equal(aligned, [[0, 1, 2], [3, 4, 5]])
    assert aligned.dtype == np.int32
    assert aligned.ctypes.data % 64 == 0
    assert malloc.aligned(aligned) is aligned


@pytest.mark.parametrize("width", [1, 64, 4099])
def test_joined_rows_are_in_order_and_where_they_are_many_need_no_copy_to_be_fed(
    width: int,
) -> None:
    parts = [np.full((rows, width), rows, np.float32) for rows in (1, 2, 5)]

    joined = malloc.joined(parts)

    np.testing.assert_array_equal(joined, np.concatenate(parts))
    assert joined.dtype == np.float32
    if joined.nbytes >= 64 << 10:
        assert joined.ctypes.data % 64 == 0


def test_strings_are_joined_too() -> None:
    parts = [np.array([[value] * 9000], object) for value in (b"a", b"b")]
    np.testing.assert_array_equal(malloc.joined(parts), np.concatenate(parts))


def test_strings_stay_where_they_are() -> None:
    strings = np.array([b"a", b"b", b"c"], object)

    for start in range(3):  # at most one of them is aligned
        array = strings[start:]
        assert malloc.aligned(array) is array


def test_the_heap_can_be_trimmed_at_any_time() -> None:
    malloc.trim()
