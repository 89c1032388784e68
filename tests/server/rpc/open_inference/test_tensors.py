"""Raw bytes of tensors: what went in comes out, and damaged bytes give one line or an array."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.protos.datatypes import BY_NAME, to_raw
from ladle.server.core.errors import InvalidArgument
from ladle.server.rpc.open_inference.tensors import Tensor, from_raw

X = Tensor("X", "m")
STRINGS = BY_NAME["BYTES"]


@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - {"BYTES", "BOOL"}))
@given(data=st.data())
def test_any_bytes_of_a_fixed_width_survive(name: str, data: st.DataObject) -> None:
    datatype = BY_NAME[name]
    rows = data.draw(st.integers(0, 5))
    nbytes = rows * 2 * datatype.dtype.itemsize
    raw = data.draw(st.binary(min_size=nbytes, max_size=nbytes))
    array = from_raw(datatype, (rows, 2), raw, X)
    assert array.dtype == datatype.dtype
    assert bytes(to_raw(array)) == raw


@given(st.binary(max_size=20))
def test_any_byte_but_zero_is_true(raw: bytes) -> None:
    array = from_raw(BY_NAME["BOOL"], (len(raw),), raw, X)
    assert array.tolist() == [byte != 0 for byte in raw]
    assert set(bytes(to_raw(array))) <= {0, 1}


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_strings_survive(values: list[bytes]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    raw = to_raw(array)
    assert from_raw(STRINGS, (len(values),), raw, X).tolist() == values


@given(st.binary(max_size=40), st.lists(st.integers(-1, 2**50), max_size=3))
def test_hostile_strings_give_an_array_or_one_line(raw: bytes, shape: list[int]) -> None:
    says = ""
    try:
        found = from_raw(STRINGS, tuple(shape), raw, X).shape
    except InvalidArgument as error:
        says, found = error.message, tuple(shape)
    assert found == tuple(shape)
    assert "\n" not in says


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\1", "incomplete string length indicator .* expecting 4 bytes but only 1 bytes"),
        (struct.pack("<I", 5) + b"ab", "expecting string of length 5 but only 2 bytes available"),
        (struct.pack("<I", 2**32 - 1), "expecting string of length 4294967295 but only 0"),
        (struct.pack("<II", 0, 0) + struct.pack("<I", 0), "number of string elements 3 .* 2"),
        (struct.pack("<I", 0), "expected 2 string elements for .*, got 1"),
    ],
)
def test_strings_that_are_cut_or_miscounted_are_named(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        from_raw(STRINGS, (2,), raw, X)


def test_a_huge_shape_is_refused_before_anything_is_allocated() -> None:
    for shape in ((2**31, 2**31), (2**47, 4)):
        with pytest.raises(InvalidArgument, match="expected at most 281474976710656 elements"):
            from_raw(BY_NAME["UINT8"], shape, b"", X)
