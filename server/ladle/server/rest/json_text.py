"""JSON text to Python values, as generous as upstream's parser, and as fast as orjson."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from ladle.server.core.errors import InvalidArgument

# Strings are matched first, so that what is in them stays as it is.
_STRING_OR_INF = re.compile(r'"(?:[^"\\]|\\.)*"|Inf(?!inity)', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def parse(text: bytes) -> Any:
    """Return the value that a JSON text starts with.

    Beyond the standard it may hold NaN, Infinity, -Infinity, Inf and -Inf; bytes that are no UTF-8
    become lone surrogates (`surrogateescape`); and what comes after the value is not looked at.
    Nesting is bounded, by orjson or by Python's own limit.

    Raises:
        InvalidArgument: There is no such value.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # Upstream's users send what the standard leaves out; rarely, so this may be slower.
        return _parse_generously(text, error)


def _parse_generously(text: bytes, error: orjson.JSONDecodeError) -> Any:
    if not text.strip():
        raise InvalidArgument("JSON Parse error: The document is empty") from None
    decoded = text.decode(errors="surrogateescape")
    if "Inf" in decoded:
        decoded = _STRING_OR_INF.sub(
            lambda match: match[0] if match[0][0] == '"' else "Infinity", decoded
        )
    try:
        space = _SPACE.match(decoded)
        value, _ = _DECODER.raw_decode(decoded, space.end() if space else 0)
    except RecursionError:
        raise InvalidArgument("JSON Parse error: it is nested too deep") from None
    except ValueError:
        raise InvalidArgument(f"JSON Parse error: {error}") from None
    return value
