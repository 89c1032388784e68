from __future__ import annotations

import pytest

from ladle.server.wiring.choice import Unavailable, choose


@pytest.mark.parametrize(
    ("asked", "native", "unknown", "name"),
    [
        ("auto", "1.0", [], "native"),
        ("auto", "1.0", ["grpc.x"], "grpcio"),
        ("auto", None, [], "grpcio"),
        ("native", "1.0", [], "native"),
        ("grpcio", "1.0", [], "grpcio"),
        ("grpcio", None, ["grpc.x"], "grpcio"),
    ],
)
def test_the_transport_is_chosen_by_what_is_asked_for_and_what_is_there(
    asked: str, native: str | None, unknown: list[str], name: str
) -> None:
    choice = choose(asked, native=native, unknown_arguments=unknown)
    assert choice.name == name
    assert choice.why


@pytest.mark.parametrize(
    ("native", "unknown", "says"),
    [(None, [], "package ladle-native"), ("1.0", ["grpc.x"], "got grpc.x")],
)
def test_a_native_transport_that_cannot_be_had_is_told(
    native: str | None, unknown: list[str], says: str
) -> None:
    with pytest.raises(Unavailable, match=says):
        choose("native", native=native, unknown_arguments=unknown)
