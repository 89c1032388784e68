"""JSON text to Python values, as generous as upstream's parser, and as fast as orjson."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from ladle.server.core.errors import InvalidArgument

# Each match is found without looking back, so a pass over a text takes time in proportion to it.
_ESCAPE_QUOTE_OR_INF = re.compile(rb'\\.|"|Inf(?!inity)', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
# An integer of more digits fits no dtype. Python's own conversion takes quadratic time.
_MOST_INTEGER_DIGITS = 20


def parse(text: bytes) -> Any:
    """Return the value that a JSON text starts with.

    Beyond the standard it may hold NaN, Infinity, -Infinity, Inf and -Inf; bytes that are no UTF-8
    become lone surrogates (`surrogateescape`); and what comes after the value is not looked at.
    Nesting is bounded, by orjson or by Python's own limit. The time is linear in the text's size.

    Raises:
        InvalidArgument: There is no such value, or a number is too large for a float64.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Upstream's users send what the standard leaves out; rarely, so this may be slower.
        return _parse_generously(text, error)


def parse_whole(text: bytes) -> Any:
    """Return the value that a JSON text is, as `parse` does, but nothing may come after it.

    Raises:
        InvalidArgument: There is no such value, or a number is too large for a float64.
        Trailing: More comes after the value.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        value, rest = _read_generously(text, error)
        if rest.strip(" \t\r\n"):
            raise Trailing(f"JSON Parse error: {error}") from None
        return value


class Trailing(InvalidArgument):
    """A JSON text goes on after its value."""


def _parse_generously(text: bytes, error: orjson.JSONDecodeError) -> Any:
    return _read_generously(text, error)[0]


def _read_generously(text: bytes, error: orjson.JSONDecodeError) -> tuple[Any, str]:
    """Return the value, and what comes after it."""
    if not text.strip():
        raise InvalidArgument("JSON Parse error: The document is empty") from None
    decoded = _with_infinity_in_full(text).decode(errors="surrogateescape")
    try:
        space = _SPACE.match(decoded)
        value, end = _DECODER.raw_decode(decoded, space.end() if space else 0)
    except RecursionError:
        raise InvalidArgument("JSON Parse error: it is nested too deep") from None
    except ValueError:
        raise InvalidArgument(f"JSON Parse error: {error}") from None
    return value, decoded[end:]


def _with_infinity_in_full(text: bytes) -> bytes:
    """Return the text with `Infinity` for each `Inf` outside strings."""
    if b"Inf" not in text:
        return text
    pieces: list[bytes] = []
    copied = 0
    in_string = False
    for match in _ESCAPE_QUOTE_OR_INF.finditer(text):
        token = match[0]
        if token == b'"':
            in_string = not in_string
        elif token == b"Inf" and not in_string:
            pieces += (text[copied : match.end()], b"inity")
            copied = match.end()
    return b"".join((*pieces, text[copied:]))


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large for a float64")
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_INTEGER_DIGITS else _float(digits)


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_integer)
