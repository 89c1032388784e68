from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ladle.server.wiring.choice import Native, Unavailable, choose, find, is_of_other_sources

THERE = Native("1.0")
BROKEN = Native(problem="ladle-native can't be imported: not an ELF file")


@pytest.mark.parametrize(
    ("asked", "native", "unknown", "name"),
    [
        ("auto", THERE, [], "native"),
        ("auto", THERE, ["grpc.x"], "grpcio"),
        ("auto", Native(), [], "grpcio"),
        ("native", THERE, [], "native"),
        ("grpcio", THERE, [], "grpcio"),
        ("grpcio", Native("2.0"), [], "grpcio"),
        ("grpcio", Native(), ["grpc.x"], "grpcio"),
    ],
)
def test_the_transport_is_chosen_by_what_is_asked_for_and_what_is_there(
    asked: str, native: Native, unknown: list[str], name: str
) -> None:
    choice = choose(asked, ladle="1.0", native=native, unknown_arguments=unknown)
    assert choice.name == name
    assert choice.why
    assert not choice.is_second_best


@pytest.mark.parametrize("native", [Native("1.1"), BROKEN])
def test_without_a_native_transport_of_use_grpcio_serves_and_the_reason_is_a_warning(
    native: Native,
) -> None:
    choice = choose("auto", ladle="1.0", native=native)
    assert choice.name == "grpcio"
    assert choice.is_second_best
    assert choice.why in (
        BROKEN.problem,
        "expected ladle-native 1.0, as ladle itself, got 1.1",
    )


def test_ladle_from_its_sources_takes_any_version() -> None:
    assert choose("auto", ladle=None, native=THERE).name == "native"


@pytest.mark.parametrize(
    ("native", "unknown", "says"),
    [
        (Native(), [], "expected the package ladle-native, found none"),
        (Native("1.1"), [], "expected ladle-native 1.0, as ladle itself, got 1.1"),
        (BROKEN, [], "not an ELF file"),
        (THERE, ["grpc.x"], "got grpc.x"),
    ],
)
def test_a_native_transport_that_cannot_be_had_is_told(
    native: Native, unknown: list[str], says: str
) -> None:
    with pytest.raises(Unavailable, match=says):
        choose("native", ladle="1.0", native=native, unknown_arguments=unknown)


def test_a_module_that_cannot_be_imported_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ladle_native", ModuleType("ladle_native"))
    assert find("auto").is_second_best
    monkeypatch.setitem(sys.modules, "ladle_native", None)
    assert find("auto") == ("grpcio", "no ladle-native", False)
    assert find("grpcio").name == "grpcio"


def test_one_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that was brought up to date, and not built again: it has the same version."""
    module = ModuleType("ladle_native")
    module.__version__ = "0.1.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ladle_native", module)
    for name in [n for n in sys.modules if n.startswith("ladle.server.transport.native")]:
        monkeypatch.delitem(sys.modules, name)

    choice = find("auto")

    assert choice.is_second_best
    assert "ladle-native can't be imported: cannot import name" in choice.why


def test_of_other_sources_is_what_says_something_else_of_itself(tmp_path: Path) -> None:
    module = ModuleType("ladle_native")
    module.__file__ = str(tmp_path / "__init__.py")
    checkout = tmp_path / "ladle_native.pyi"
    assert not is_of_other_sources(module, checkout)

    (tmp_path / "__init__.pyi").write_text("def take() -> None: ...")
    assert not is_of_other_sources(module, checkout)
    checkout.write_text("def take() -> None: ...")
    assert not is_of_other_sources(module, checkout)
    checkout.write_text("def take(most: int) -> None: ...")
    assert is_of_other_sources(module, checkout)


def test_a_native_transport_with_a_part_missing_is_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ladle_native.py").write_text("import ladle_native_part_that_is_missing")
    monkeypatch.delitem(sys.modules, "ladle_native", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    choice = find("auto")
    assert choice.is_second_best
    assert "ladle_native_part_that_is_missing" in choice.why
    with pytest.raises(Unavailable, match="can't be imported"):
        find("native")
