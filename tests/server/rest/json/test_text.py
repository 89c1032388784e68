from __future__ import annotations

import contextlib
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json.text import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b'{"a": 1} and more', {"a": 1}),
        (b' \n[Infinity, -Inf, "Inf \\"Inf", Inf]', [math.inf, -math.inf, 'Inf "Inf', math.inf]),
        (b'["\xff"]', ["\udcff"]),
    ],
)
def test_what_upstream_reads_is_read(text: bytes, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", [b"", b" \n", b"{", b'{"a" 1}', b"nan", b"[1,]", b'"\x00'])
def test_what_is_no_json_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^JSON Parse error: .+$"):
        parse(text)


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 400, b"9" * 5000])
@pytest.mark.parametrize("before", [b"", b"NaN,", b"Inf,"])
def test_numbers_beyond_a_float64_are_refused(before: bytes, number: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^JSON Parse error: "):
        parse(b"[" + before + number + b"]")


def test_integers_of_many_digits_are_decimals_whoever_reads_them() -> None:
    digits = b"9" * 30
    assert parse(b"[" + digits + b"]") == [1e30]
    assert parse(b"[" + digits + b",Inf]") == [1e30, math.inf]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (rb'["\\", Inf, "a\"Inf", -Inf]', ["\\", math.inf, 'a"Inf', -math.inf]),
        (b'{"Inf": Infinity, "x": Inf}', {"Inf": math.inf, "x": math.inf}),
    ],
)
def test_inf_in_strings_stays(text: bytes, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("open_bracket", [b"[", b'{"a":'])
@pytest.mark.parametrize("before", [b"", b"[NaN,"])
def test_nesting_is_bounded_in_threads_with_small_stacks_too(
    open_bracket: bytes, before: bytes
) -> None:
    refused = []

    def read() -> None:
        try:
            parse(before + open_bracket * 1_000_000)
        except InvalidArgument as error:
            refused.append(error.message)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert refused == ["JSON Parse error: it is nested too deep"]


@given(st.binary())
@settings(max_examples=50)
def test_any_bytes_give_a_value_or_a_refusal(text: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        parse(text)
