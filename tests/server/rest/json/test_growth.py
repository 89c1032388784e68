"""What parsers do with callers' bytes grows as the bytes do: in steps, whatever the machine."""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from steps import lines_run

import ladle.server
from ladle.protos import dtypes
from ladle.server.core.errors import ServingError
from ladle.server.rest.json.tensors import to_array
from ladle.server.rest.json.text import parse
from ladle.server.saved_model.errors import one_line

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_parse


def read_json(text: bytes) -> None:
    with contextlib.suppress(ServingError):
        parse(text)


def read_tensor(text: bytes) -> None:
    with contextlib.suppress(ServingError):
        to_array(parse(text), dtypes.STRING, "x")


@pytest.mark.parametrize("read", [read_json, read_tensor])
@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b'{"instances":[Inf,"', b'\\"'),
        (b"[Inf,", b'"'),
        (b"[", b'Inf,"Inf",'),
        (b"[NaN,", b"\\"),
        (b"Inf", b"Inf"),
        (b"[NaN,", b"1"),
        (b"[NaN,", b"["),
        (b"[NaN", b',"\xff"'),
        (b'[{"b64":"', b"A "),
    ],
)
def test_json_takes_steps_in_proportion_to_its_size(
    read: Callable[[bytes], object], head: bytes, repeated: bytes
) -> None:
    one, four = (lines_run(read, head + repeated * count) for count in (2000, 8000))
    assert four <= 4 * one + 50


CLIMBING = (sre_parse.MAX_REPEAT, sre_parse.MIN_REPEAT)
ONE_CHARACTER = (sre_parse.IN, sre_parse.LITERAL, sre_parse.NOT_LITERAL, sre_parse.ANY)


def quadratic(pattern: str) -> str:
    """Return why a search may go over the same characters again and again; empty if it can't.

    That takes a repetition without bound, after which the match may still fail.
    """
    tree: list[Any] = list(sre_parse.parse(pattern))  # type: ignore[call-overload]
    anchored = bool(tree) and tree[0][0] is sre_parse.AT
    return _quadratic(tree, last=not anchored)


def _quadratic(tree: list[Any], *, last: bool) -> str:
    for index, (kind, argument) in enumerate(tree):
        at_end = last and index == len(tree) - 1
        if kind in CLIMBING:
            _, most, item = argument
            if most is sre_parse.MAXREPEAT:
                if len(item) != 1 or item[0][0] not in ONE_CHARACTER:
                    return "more than a character is repeated"
                if not at_end:
                    return "something follows a repetition"
        elif kind is sre_parse.SUBPATTERN:
            if found := _quadratic(list(argument[3]), last=at_end):
                return found
        elif kind is sre_parse.BRANCH:
            for branch in argument[1]:
                if found := _quadratic(list(branch), last=at_end):
                    return found
    return ""


@pytest.mark.parametrize("pattern", [r'"(?:[^"\\]|\\.)*"', r"\d+ root", r"a(b+)c", r"x|(?:ab)*"])
def test_a_pattern_that_searches_again_is_found(pattern: str) -> None:
    assert quadratic(pattern)


# Those that are compared with a whole path, each part of which ends where the next begins; and
# those that see what operators wrote.
SEEN_BY_OPERATORS = {"monitoring/config.py", "monitoring/log_files.py", "settings/"}
WHOLE = {"rest/routes.py", "rest/open_inference/routes.py"}


def patterns() -> Iterator[tuple[str, str]]:
    server = Path(str(ladle.server.__file__)).parent
    for path in sorted(server.rglob("*.py")):
        name = path.relative_to(server).as_posix()
        if any(name.startswith(other) for other in SEEN_BY_OPERATORS | WHOLE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr != "escape"
                and isinstance(node.args[0], ast.Constant)
            ):
                value = node.args[0].value
                yield name, value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize(("place", "pattern"), list(patterns()))
def test_no_regular_expression_goes_over_callers_bytes_again_and_again(
    place: str, pattern: str
) -> None:
    # A brace pair's inside holds no brace, so each place is the inside of one pair alone.
    pattern = pattern.replace(r"\{\{[^{}]*\}\}", "")
    assert not quadratic(pattern), (place, pattern)


def test_the_parts_of_a_route_end_where_the_next_begins() -> None:
    from ladle.server.core.access import Kind
    from ladle.server.rest.routes import of_model

    async def endpoint(_: Any) -> Any: ...

    for route in of_model("POST", ":predict", Kind.PREDICT, endpoint, "Predict"):
        assert set(re.findall(r"\[[^\]]*\]\+(.)", route.pattern.pattern)) <= {")"}
        assert set(re.findall(r"\[[^\]]*\]\+\)(.)", route.pattern.pattern)) <= {"/", ")"}


def test_errors_of_kernels_may_quote_any_text() -> None:
    assert one_line("x" + "1" * 100_000 + " {{node a}} b").endswith(" b")
