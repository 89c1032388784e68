from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import InvalidArgument, Unimplemented
from ladle.server.rest.json.tensors import rows_of, to_array, to_json
from ladle.server.rest.json.text import parse

NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")


def number(name: str) -> int:
    return dtypes.STRING if name == "string" else dtypes.from_numpy(np.dtype(name))


def arrays() -> st.SearchStrategy[NDArray[Any]]:
    return st.sampled_from((*NUMBERS, "bool")).flatmap(
        lambda name: npst.arrays(name, npst.array_shapes(min_dims=0, max_dims=4, min_side=0))
    )


@given(arrays())
@settings(deadline=None, max_examples=50)
def test_an_array_survives_the_way_to_json_and_back(array: NDArray[Any]) -> None:
    again = to_array(parse(to_json(array, "y")), number(array.dtype.name), "x")
    assert again.dtype == array.dtype
    # JSON has no shape for what is empty beyond its first empty dimension.
    if array.size:
        np.testing.assert_array_equal(again, array)
    else:
        assert again.size == 0


@given(arrays().filter(lambda array: array.ndim > 0))
@settings(deadline=None, max_examples=50)
def test_rows_are_what_the_whole_is_made_of(array: NDArray[Any]) -> None:
    rows = orjson.dumps(rows_of(array, "y"), option=orjson.OPT_SERIALIZE_NUMPY)
    np.testing.assert_equal(json.loads(rows), json.loads(to_json(array, "y")))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary()))
def test_bytes_go_both_ways_as_base64(values: list[bytes]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    again = to_array(parse(to_json(array, "y_bytes")), dtypes.STRING, "x")
    assert again.tolist() == values


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text_goes_both_ways_as_it_is(values: list[str]) -> None:
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    text = to_json(array, "y")
    assert json.loads(text) == values
    assert to_array(parse(text), dtypes.STRING, "x").tolist() == array.tolist()


@pytest.mark.parametrize(
    ("text", "data_type", "expected"),
    [
        ("5", "float32", np.float32(5)),
        ("[1, 2.5]", "float32", np.array([1, 2.5], np.float32)),
        (
            "[NaN, Infinity, -Infinity, Inf, -Inf]",
            "float64",
            [math.nan, *[math.inf, -math.inf] * 2],
        ),
        ("[1e39]", "float32", [math.inf]),
        ("[[1, 2], [3, 4]]", "int16", np.array([[1, 2], [3, 4]], np.int16)),
        ("[18446744073709551615]", "uint64", np.array([2**64 - 1], np.uint64)),
        ("[true, false]", "bool", np.array([True, False])),
        ("[]", "float32", np.zeros(0, np.float32)),
        ("[[], []]", "int8", np.zeros((2, 0), np.int8)),
    ],
)
def test_values_become_arrays(text: str, data_type: str, expected: Any) -> None:
    array = to_array(parse(text.encode()), number(data_type), "x")
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == data_type


@pytest.mark.parametrize(
    ("text", "data_type", "message"),
    [
        (
            '["1.5"]',
            "float32",
            "input 'x': JSON Value is not of expected type: float32, it holds a",
        ),
        ("[null]", "float32", "it holds null"),
        ("[1, true]", "float32", "it holds a boolean"),
        ("[1.0]", "int32", "it holds a decimal"),
        ("[1]", "bool", "it holds an integer"),
        ("[1]", "string", "it holds an integer"),
        ('[{"b64": "AAAA"}]', "float32", "it holds an object"),
        ("[[1], [2, 3]]", "float32", "expected lists of equal size and depth at each level"),
        ("[[1], 2]", "float32", "expected lists of equal size and depth at each level"),
        ("[300]", "uint8", "300 is out of the range of uint8"),
        ("[1, -1]", "uint64", "-1 is out of the range of uint64"),
        ("[-129]", "int8", "-129 is out of the range of int8"),
        ("[9223372036854775808]", "int64", "9223372036854775808 is out of the range of int64"),
        ("[" * 40 + "1" + "]" * 40, "float32", "expected 32 dimensions at most"),
        ('[{"b64": "A"}]', "string", "unable to decode base64"),
        ('[{"b64": "A-_A"}]', "string", "unable to decode base64"),
        ('[{"b64": 1}]', "string", 'expected a string or {"b64": "<base64>"}'),
        ('[{"b64": "", "x": 1}]', "string", 'expected a string or {"b64": "<base64>"}'),
        (r'["\ud800"]', "string", "half of a surrogate pair"),
    ],
)
def test_what_does_not_fit_is_told_so(text: str, data_type: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        to_array(parse(text.encode()), number(data_type), "x")
    assert message in error.value.message
    assert error.value.message.startswith("input 'x'")


@pytest.mark.parametrize("data_type", ["float16", "complex64", "uint16", "bfloat16", "qint8"])
def test_dtypes_without_a_form_in_json_are_unimplemented_as_inputs(data_type: str) -> None:
    number_of = {"bfloat16": 14, "qint8": 11}.get(data_type) or number(data_type)
    with pytest.raises(Unimplemented, match=f"is a tensor of {data_type}, which JSON has no form"):
        to_array([1], number_of, "x")


def test_dtypes_without_a_form_in_json_are_refused_as_outputs() -> None:
    with pytest.raises(InvalidArgument, match="output 'y' is a tensor of float16, which JSON"):
        to_json(np.zeros(1, np.float16), "y")


@pytest.mark.parametrize("encoded", ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8="])
def test_base64_may_lack_padding_and_hold_white_space(encoded: str) -> None:
    assert to_array({"b64": encoded}, dtypes.STRING, "x")[()] == b"hello"


def test_bytes_that_are_no_text_are_sent_on_as_they_came() -> None:
    assert to_array(parse(b'["\xff\xfe"]'), dtypes.STRING, "x")[0] == b"\xff\xfe"


def test_bytes_that_are_no_text_become_replacement_characters_unless_asked_for_in_base64() -> None:
    array = np.array([b"\xff"], object)
    assert json.loads(to_json(array, "y")) == ["\ufffd"]
    assert json.loads(to_json(array, "y_bytes")) == [{"b64": base64.b64encode(b"\xff").decode()}]


def test_floats_are_written_as_short_as_they_can_be() -> None:
    array = np.array([1, 0.1, 1e-7, 1e20, 1 / 3], np.float32)
    assert to_json(array, "y") == b"[1.0,0.1,1e-7,1e+20,0.33333334]"
    assert to_json(np.array([np.nan, np.inf, -np.inf]), "y") == b"[NaN,Infinity,-Infinity]"
    assert to_json(np.array(np.nan), "y") == b"NaN"
