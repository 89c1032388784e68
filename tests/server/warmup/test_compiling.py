"""What has run on a version is compiled for the next before that is available, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes import FakeServable, spec

from ladle.server.core.errors import ServingError
from ladle.server.core.servable import Model, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.warmup.compiling import MAX_COMPILED, CompilingAsBefore, chosen


class CompilingServable(FakeServable):
    """Says that `used` has run, and notes what it is to compile."""

    def __init__(self, signatures: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.signatures = {
            name: Signature(name, {"x": spec(-1)}, {alias: spec(-1) for alias in outputs})
            for name, outputs in signatures.items()
        }
        self.used: list[tuple[str, tuple[str, ...]]] = []
        self.to_compile: list[tuple[str, tuple[str, ...]]] = []
        self.failure: Exception | None = None

    def compile(self, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.to_compile.append((signature.name, outputs))
        if self.failure is not None:
            raise self.failure


def loading(*models: Model) -> CompilingAsBefore:
    """Return what loads these models, one after the other."""
    coming = iter(models)
    return CompilingAsBefore(lambda servable_id, path: next(coming))


def test_what_has_run_is_compiled_for_the_next_version_of_the_model_alone() -> None:
    first, second, other = (CompilingServable({"f": ("y", "z"), "g": ("y",)}) for _ in range(3))
    load = loading(first, other, second)
    load(ServableId("m", 1), Path())
    first.used = [("f", ("y",)), ("f", ("y", "z"))]
    load(ServableId("other", 1), Path())
    load(ServableId("m", 2), Path())

    assert first.to_compile == other.to_compile == []
    assert second.to_compile == [("f", ("y", "z")), ("f", ("y",))]


def test_what_the_next_version_lacks_is_left_out() -> None:
    first = CompilingServable({"f": ("y", "z"), "g": ("y",)})
    second = CompilingServable({"f": ("y",)})
    load = loading(first, second)
    load(ServableId("m", 1), Path())
    first.used = [("f", ("y", "z")), ("f", ("y",)), ("g", ("y",))]

    load(ServableId("m", 2), Path())

    assert second.to_compile == [("f", ("y",))]


def test_what_a_version_that_is_gone_has_run_is_forgotten() -> None:
    first, second = CompilingServable({"f": ("y",)}), CompilingServable({"f": ("y",)})
    load = loading(first, second)
    load(ServableId("m", 1), Path())
    first.used = [("f", ("y",))]

    first.used.clear()  # as a model that is closed
    load(ServableId("m", 2), Path())

    assert second.to_compile == []


def test_a_version_that_cannot_compile_is_loaded_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = CompilingServable({"f": ("y",)}), CompilingServable({"f": ("y",)})
    load = loading(first, second)
    load(ServableId("m", 1), Path())
    first.used, second.failure = [("f", ("y",))], ServingError("no kernel")

    assert load(ServableId("m", 2), Path()) is second

    assert "not compiled before it is available model=m version=2 signature=f" in caplog.text


def test_models_that_compile_nothing_pass() -> None:
    model = FakeServable()
    assert loading(model)(ServableId("m", 1), Path()) is model


def test_so_much_is_compiled_at_most_and_whole_answers_come_first() -> None:
    used = [("f", (f"y{n}",)) for n in range(2 * MAX_COMPILED)] + [("f", ("a", "b"))]

    assert chosen([*used, *used])[:2] == [("f", ("a", "b")), ("f", ("y0",))]
    assert len(chosen(used)) == MAX_COMPILED
