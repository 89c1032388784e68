from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors, wire
from ladle.protos.datatypes import to_raw
from ladle.protos.tensorflow_pb import TensorProto

FIXED_WIDTH = list(dtypes._NUMBERS.values())


def of_every_dtype(number: int) -> NDArray[Any]:
    """Twelve values that each dtype can hold, in a shape of three dimensions."""
    dtype = dtypes.to_numpy(number)
    plain = np.arange(12) % 2
    values = plain.astype(dtype[0]).view(dtype) if dtype.names else plain.astype(dtype)
    return values.reshape(2, 3, 2)


def raw(array: NDArray[Any]) -> bytes:
    return array.tobytes()


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("number", FIXED_WIDTH, ids=dtypes.name)
def test_every_dtype_makes_the_round_trip(number: int, typed: bool) -> None:
    array = of_every_dtype(number)

    proto = tensors.to_proto(array, typed=typed)
    back = tensors.to_array(proto)

    assert proto.dtype == number
    assert bool(proto.tensor_content) is not typed
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert raw(back) == raw(array)


plain_arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="="),
        hnp.unsigned_integer_dtypes(endianness="="),
        hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
        hnp.complex_number_dtypes(endianness="=", sizes=(64, 128)),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(array=plain_arrays, typed=st.booleans())
def test_any_values_in_any_shape_make_the_round_trip(array: NDArray[Any], typed: bool) -> None:
    back = tensors.to_array(tensors.to_proto(array, typed=typed))

    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@given(array=plain_arrays, typed=st.booleans())
def test_the_wire_pieces_are_the_message(array: NDArray[Any], typed: bool) -> None:
    pieces = tensors.to_wire(array, typed=typed)

    assert TensorProto.FromString(wire.join(pieces)) == tensors.to_proto(array, typed=typed)
    assert wire.size(pieces) == len(wire.join(pieces))


@given(
    values=st.lists(st.binary(max_size=20), max_size=12),
    columns=st.integers(min_value=1, max_value=3),
)
def test_strings_make_the_round_trip(values: list[bytes], columns: int) -> None:
    flat = np.empty(len(values) // columns * columns, object)
    flat[:] = values[: len(flat)]
    array = flat.reshape(-1, columns)

    back = tensors.to_array(tensors.to_proto(array))

    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


@given(values=st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_strings_are_read_from_tensor_content(values: list[bytes]) -> None:
    """TensorFlow packs strings so: every length as a varint, then every byte."""
    content = b"".join(wire.varint(len(value)) for value in values) + b"".join(values)
    proto = TensorProto(dtype=dtypes.STRING, tensor_content=content)
    proto.tensor_shape.dim.add(size=len(values))

    assert tensors.to_array(proto).tolist() == values


def test_text_becomes_utf8_bytes() -> None:
    back = tensors.to_array(tensors.to_proto(np.array(["späť", "x"])))

    assert back.tolist() == ["späť".encode(), b"x"]


def test_content_is_a_view_that_nobody_can_write_to() -> None:
    array = tensors.to_array(tensors.to_proto(np.arange(4, dtype=np.float32)))

    assert not array.flags.owndata
    assert not array.flags.writeable


def test_arrays_that_are_not_contiguous_or_not_little_endian_are_written_right() -> None:
    source = np.arange(24, dtype=">i4").reshape(4, 6).T[::2]

    for typed in (False, True):
        back = tensors.to_array(tensors.to_proto(source, typed=typed))
        np.testing.assert_array_equal(back, source)


def message(dtype: int, shape: list[int], **fields: Any) -> TensorProto:
    proto = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (message(1, [3], float_val=[1.0, 2.0]), [1.0, 2.0, 2.0]),
        (message(1, [3]), [0.0, 0.0, 0.0]),
        (message(1, [2], float_val=[1.0, 2.0, 3.0]), [1.0, 2.0]),
        (message(7, [3], string_val=[b"a", b"b"]), [b"a", b"b", b"b"]),
        (message(7, [2]), [b"", b""]),
        (message(8, [3], scomplex_val=[1.0, 2.0, 3.0, 4.0]), [1 + 2j, 3 + 4j, 3 + 4j]),
        (message(1, [2], int_val=[7, 7]), [0.0, 0.0]),
        (message(19, [2], half_val=[0x3C00]), [1.0, 1.0]),
        (message(6, [2], int_val=[-3, 258]), [-3, 2]),
        (message(1, [1], tensor_content=b"\0\0\x80\x3f", float_val=[9.0]), [1.0]),
        (message(1, [0], float_val=[1.0]), []),
    ],
    ids=[
        "short lists repeat the last value",
        "empty lists are zeros",
        "surplus values are cut off",
        "short string lists repeat the last",
        "empty string lists are empty strings",
        "complex values are pairs",
        "another dtype's field is not looked at",
        "halves are bits in an int",
        "integers wrap to their width",
        "tensor_content wins over a list",
        "a zero dimension holds nothing",
    ],
)
def test_value_lists_follow_upstreams_rules(proto: TensorProto, expected: list[Any]) -> None:
    assert tensors.to_array(proto).tolist() == expected


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (message(0, []), "invalid is not a dtype"),
        (message(20, []), "resource is not a dtype"),
        (message(99, []), "dtype 99 is not a dtype"),
        (message(1, [-1]), r"expected sizes of 0 or more, got \[-1\]"),
        (message(1, [2], tensor_content=b"1234"), r"expected 8 bytes for float32 \[2\], got 4"),
        (message(1, [1 << 40], float_val=[1.0]), "repeating the last one would take"),
        (message(7, [1 << 40], string_val=[b"x"]), "repeating the last one would take"),
        (message(1, [1 << 32, 1 << 32]), "more elements than any tensor"),
        (message(1, [0, 1 << 40, 1 << 40]), "more elements than any tensor"),
        (message(1, [1] * 255), "at most 254 dimensions, got 255"),
        (message(7, [1 << 40], tensor_content=b"\x01x"), "string lengths, got only 2 bytes"),
        (message(7, [1], tensor_content=b"\x05x"), "expected 5 bytes of strings"),
        (message(7, [1], tensor_content=b"\x80"), "cut off"),
    ],
)
def test_what_is_no_tensor_is_refused_in_one_line(proto: TensorProto, says: str) -> None:
    with pytest.raises(tensors.TensorError, match=says) as caught:
        tensors.to_array(proto)
    assert "\n" not in str(caught.value)


def test_an_unknown_rank_is_refused() -> None:
    proto = TensorProto(dtype=1)
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(tensors.TensorError, match="unknown_rank"):
        tensors.to_array(proto)


def test_how_much_a_repeated_value_may_take_is_a_limit_of_the_caller() -> None:
    proto = message(1, [1000], float_val=[1.0])

    assert tensors.to_array(proto, max_repeated_bytes=4000).shape == (1000,)
    with pytest.raises(tensors.TensorError, match="more than the 3999 allowed"):
        tensors.to_array(proto, max_repeated_bytes=3999)


@given(data=st.binary(max_size=200))
def test_random_bytes_give_an_array_or_a_tensor_error(data: bytes) -> None:
    """Whatever parses as a TensorProto is read or refused; no other exception gets out."""
    proto = TensorProto()
    try:
        proto.MergeFromString(data)
    except DecodeError:
        return
    with contextlib.suppress(tensors.TensorError):
        tensors.to_array(proto, max_repeated_bytes=1 << 16)


def test_arrays_that_tensorflow_has_no_dtype_for_are_refused() -> None:
    for array in (np.array(["2020-01-01"], "M8[D]"), np.zeros(1, np.longdouble)):
        with pytest.raises(tensors.TensorError, match="no counterpart"):
            tensors.to_proto(array)
    with pytest.raises(tensors.TensorError, match="expected bytes or str, got int"):
        tensors.to_proto(np.array([1, b"x"], object))


@pytest.mark.parametrize("dtype", ["U", object])
def test_text_that_is_cut_amid_an_emoji_is_refused(dtype: Any) -> None:
    with pytest.raises(tensors.TensorError, match=r"UTF-8 can say, got '\\ud83d' in it"):
        tensors.to_proto(np.array(["whole", "cut \ud83d"], dtype))


def test_shapes_and_dtypes_are_described_as_errors_show_them() -> None:
    assert tensors.describe(1, (-1, 28, 28)) == "float32 [-1, 28, 28]"
    assert tensors.describe(107, None) == "string of any shape"


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [
        (1, "float32"),
        (101, "float32"),
        (120, "resource"),
        (99, "dtype 99"),
        (300, "dtype 300"),
        ((1 << 31) - 1, "dtype 2147483647"),
        (-5, "dtype -5"),
    ],
)
def test_any_number_of_a_dtype_has_a_name(data_type: int, expected: str) -> None:
    assert dtypes.name(data_type) == expected


def test_a_bool_is_0_or_1() -> None:
    """What code makes of another byte differs: it is true, and unequal to true."""
    proto = message(10, [3], tensor_content=b"\0\1\1")
    assert tensors.to_array(proto).tolist() == [False, True, True]
    with pytest.raises(tensors.TensorError, match="expected bytes 0 and 1 for bool, got 255"):
        tensors.to_array(message(10, [3], tensor_content=b"\0\xff\1"))
    assert tensors.to_array(message(10, [0])).shape == (0,)


@pytest.mark.parametrize("typed", [True, False])
def test_bools_are_sent_as_0_and_1(typed: bool) -> None:
    """numpy has any other byte for true too, as a mask of 0 and 255 has that is viewed as bools."""
    mask = np.frombuffer(b"\0\xff\1\2", bool).reshape(2, 2)
    expected = [[False, True], [True, True]]
    assert tensors.to_array(tensors.to_proto(mask, typed=typed)).tolist() == expected
    assert tensors.to_array(tensors.to_proto(mask[:, ::-1], typed=typed)).tolist() == [
        [True, False],
        [True, True],
    ]
    assert bytes(to_raw(mask)) == b"\0\1\1\1"
    assert bytes(to_raw(mask[1, 1])) == b"\1"
