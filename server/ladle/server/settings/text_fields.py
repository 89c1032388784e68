"""Reads protobuf's text format without knowing the message: fields by name, as they stand there.

For files with more fields than have a meaning here: the log can name the others.
https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ladle.server.core.errors import InvalidArgument

_MOST_DEEP = 32
_TOKEN = re.compile(
    r"""
    [ \t\r\n]+ | \#[^\n]*
    | (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    | (?P<word> [A-Za-z0-9_.+-]+ )
    | (?P<mark> [{}<>\[\]:;,/] )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}


class Scalar(NamedTuple):
    """A number, a name or a text."""

    text: str
    is_string: bool


Value: TypeAlias = "Scalar | Fields"


@dataclass(frozen=True)
class Fields:
    """A message: every value of each field, in the order in which they stand there."""

    values: Mapping[str, tuple[Value, ...]]

    def text(self, name: str) -> str:
        """Return the last text or name of a field; empty where there is none.

        Raises:
            InvalidArgument: It is a message.
        """
        scalar = self._last(name)
        return "" if scalar is None else scalar.text

    def integer(self, name: str, *, least: int = 0) -> int | None:
        """Return the last number of a field; None where there is none.

        Raises:
            InvalidArgument: It is no whole number, or below `least`.
        """
        scalar = self._last(name)
        return None if scalar is None else _integer(name, scalar, least)

    def integers(self, name: str, *, least: int = 0) -> tuple[int, ...]:
        """Return all numbers of a field.

        Raises:
            InvalidArgument: One is no whole number, or below `least`.
        """
        return tuple(_integer(name, value, least) for value in self.values.get(name, ()))

    def message(self, name: str) -> Fields | None:
        """Return the last message of a field; None where there is none.

        Raises:
            InvalidArgument: It is no message.
        """
        messages = self.messages(name)
        return messages[-1] if messages else None

    def messages(self, name: str) -> tuple[Fields, ...]:
        """Return all messages of a field.

        Raises:
            InvalidArgument: One is no message.
        """
        values = self.values.get(name, ())
        messages = tuple(value for value in values if isinstance(value, Fields))
        if len(messages) != len(values):
            raise InvalidArgument(f"{name}: expected {{ ... }}, got a value")
        return messages

    def _last(self, name: str) -> Scalar | None:
        values = self.values.get(name, ())
        if not values:
            return None
        if isinstance(values[-1], Fields):
            raise InvalidArgument(f"{name}: expected a value, got {{ ... }}")
        return values[-1]


def read_fields(text: str) -> Fields:
    """Return the fields of a message in text format.

    Raises:
        InvalidArgument: It is none; the message begins with the line.
    """
    return _Reader(text).message("", 0)


def _integer(name: str, value: Value, least: int) -> int:
    given = value.text if isinstance(value, Scalar) else "{ ... }"
    is_number = isinstance(value, Scalar) and not value.is_string
    if not is_number or not re.fullmatch(r"-?[0-9]{1,18}", given):
        raise InvalidArgument(f"{name}: expected a whole number, got {given}")
    if int(given) < least:
        raise InvalidArgument(f"{name}: expected {least} or more, got {given}")
    return int(given)


class _Token(NamedTuple):
    kind: str
    """string, word or mark; empty at the end."""
    text: str
    line: int


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def message(self, closing: str, depth: int) -> Fields:
        """Read fields up to a closing mark, or to the end where it is empty."""
        if depth > _MOST_DEEP:
            raise self._error(f"expected at most {_MOST_DEEP} messages in each other")
        values: dict[str, list[Value]] = {}
        while self._next.text != closing or self._next.kind == "string":
            name = self._name()
            values.setdefault(name, []).extend(self._values(depth))
            if self._next.kind == "mark" and self._next.text in ",;":
                self._take()
        self._take()
        return Fields({name: tuple(of) for name, of in values.items()})

    def _name(self) -> str:
        token = self._take()
        if token.kind == "word":
            return token.text
        if token.text != "[" or token.kind != "mark":
            raise _error(token, "expected the name of a field")
        parts = []  # an extension, or the type of an Any
        while (part := self._take()).text != "]" or part.kind != "mark":
            if part.kind == "":
                raise _error(part, 'expected "]"')
            parts.append(part.text)
        return f"[{''.join(parts)}]"

    def _values(self, depth: int) -> list[Value]:
        has_colon = self._next.kind == "mark" and self._next.text == ":"
        if has_colon:
            self._take()
        if self._next.kind == "mark" and self._next.text == "[":
            self._take()
            listed: list[Value] = []
            while self._next.text != "]" or self._next.kind != "mark":
                listed.append(self._value(depth))
                if self._next.kind == "mark" and self._next.text == ",":
                    self._take()
                elif self._next.text != "]":
                    raise self._error('expected "," or "]"')
            self._take()
            return listed
        if not has_colon and self._next.text not in _CLOSING:
            raise self._error('expected ":" or "{"')
        return [self._value(depth)]

    def _value(self, depth: int) -> Value:
        token = self._take()
        if token.kind == "mark" and token.text in _CLOSING:
            return self.message(_CLOSING[token.text], depth + 1)
        if token.kind == "word":
            return Scalar(token.text, is_string=False)
        if token.kind != "string":
            raise _error(token, "expected a value")
        texts = [_unescaped(token.text)]
        while self._next.kind == "string":  # texts that follow each other are one
            texts.append(_unescaped(self._take().text))
        return Scalar("".join(texts), is_string=True)

    def _take(self) -> _Token:
        taken = self._next
        if taken.kind:
            self._next = next(self._tokens)
        return taken

    def _error(self, expected: str) -> InvalidArgument:
        return _error(self._next, expected)


def _tokens(text: str) -> Iterator[_Token]:
    line, position = 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            shown = text[position : position + 10].splitlines()[0]
            raise InvalidArgument(f"line {line}: expected a field, got {shown!r}")
        if match.lastgroup:
            yield _Token(match.lastgroup, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield _Token("", "", line)


def _unescaped(quoted: str) -> str:
    return _ESCAPE.sub(_character, quoted[1:-1])


def _character(escape: re.Match[str]) -> str:
    octal, hexadecimal, other = escape.groups()
    if octal or hexadecimal:
        return chr(int(octal, 8) if octal else int(hexadecimal, 16))
    return _ESCAPED.get(other, other)


def _error(token: _Token, expected: str) -> InvalidArgument:
    given = repr(token.text[:40]) if token.kind else "the end"
    return InvalidArgument(f"line {token.line}: {expected}, got {given}")
