from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.client.messages.metadata import checked


def test_names_are_in_lower_case_and_in_order() -> None:
    assert checked(None) == checked({}) == ()
    assert checked({"Ladle-Priority": "low"}) == (("ladle-priority", "low"),)
    assert checked({"X-User-Id": "7", "a": "b c"}) == (("a", "b c"), ("x-user-id", "7"))


@pytest.mark.parametrize(
    ("metadata", "kind", "says"),
    [
        (["x"], TypeError, "expected names and values, got list"),
        ({"x": 7}, TypeError, "expected text, got 'x': 7"),
        ({"x y": "7"}, ValueError, "expected a name of letters, digits"),
        ({"x-bin": "7"}, ValueError, "does not end with -bin, got 'x-bin'"),
        ({"Authorization": "Bearer x"}, ValueError, "'Authorization' is not the caller's to send"),
        ({"grpc-timeout": "1"}, ValueError, "'grpc-timeout' is not the caller's to send"),
        ({"ladle-x": "1"}, ValueError, "'ladle-x' is not the caller's to send"),
        ({"ladle-priority": "urgent"}, ValueError, "expected high, normal or low, got 'urgent'"),
        ({"x": "é"}, ValueError, "x: expected printable ASCII .*got 'é'; urllib.parse.quote"),
        ({"x": ""}, ValueError, "expected printable ASCII"),
        ({"x": " 7"}, ValueError, "without spaces around it"),
        ({"x": "1", "X": "2"}, ValueError, "expected each name once, got 'X' twice"),
        ({"x": "a" * 5000}, ValueError, "expected at most 4096 bytes, got 5001"),
    ],
)
def test_what_can_not_be_sent_is_refused(metadata: Any, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        checked(metadata)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_whatever_is_given_is_sent_as_it_is_or_refused(metadata: dict[str, str]) -> None:
    try:
        sent = checked(metadata)
    except ValueError:
        return
    assert dict(sent) == {name.lower(): value for name, value in metadata.items()}
