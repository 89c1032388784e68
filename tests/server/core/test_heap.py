from __future__ import annotations

import numpy as np
import pytest

from ladle.server.core import heap


@pytest.mark.parametrize("offset", range(0, 64, 12))
def test_an_aligned_array_holds_the_same_values_and_needs_no_copy_to_be_fed(offset: int) -> None:
    message = bytes(offset) + np.arange(6, dtype=np.int32).tobytes()
    array = np.frombuffer(message, np.int32, offset=offset).reshape(2, 3)

    aligned = heap.aligned(array)

    np.testing.assert_array_equal(aligned, [[0, 1, 2], [3, 4, 5]])
    assert aligned.dtype == np.int32
    assert aligned.ctypes.data % 64 == 0
    assert heap.aligned(aligned) is aligned


def test_strings_stay_where_they_are() -> None:
    strings = np.array([b"a", b"b", b"c"], object)

    for start in range(3):  # at most one of them is aligned
        array = strings[start:]
        assert heap.aligned(array) is array


def test_the_heap_can_be_trimmed_at_any_time() -> None:
    heap.trim()
