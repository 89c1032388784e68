"""What is kept of requests that are alike: bounded, and without the version that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

from fakes import DOUBLE, FakeServable, double

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.batching.plan import Priority
from ladle.server.rpc.alike.plans import Fields, Known, Plan, Plans


class NoAnswers:
    start = end = b""

    def encode(self, _outputs: Mapping[str, Any], _echo: bytes) -> bytes:
        return b""

    def request_id(self, _echo: bytes) -> str:
        return ""

    def fields(self, _outputs: Mapping[str, Any], _count: int) -> Fields | None:
        return None


def known(name: str = "m", plan: Plan | None = None) -> Known:
    return Known(ModelSpec(name=name), Priority.NORMAL, plan)


def test_what_was_kept_is_found_by_its_template() -> None:
    plans = Plans()
    plans.keep(b"a", known("a"))
    plans.keep(b"b", known("b"))
    plans.keep(b"a", known("c"))

    assert plans.get(b"a") == known("c")
    assert plans.get(b"b") == known("b")
    assert plans.get(b"") is None


def test_of_too_many_the_first_goes() -> None:
    plans = Plans()
    for number in range(1100):
        plans.keep(b"%d" % number, known())

    found = [number for number in range(1100) if plans.get(b"%d" % number)]
    assert len(found) == 1024
    assert found[-1] == 1099


def test_a_long_template_is_not_kept() -> None:
    plans = Plans()
    plans.keep(bytes(1 << 11), known())

    assert plans.get(bytes(1 << 11)) is None


def test_a_plan_does_not_keep_its_version() -> None:
    plans = Plans()
    servable = FakeServable(double, (DOUBLE,))
    plan = Plan(ref(servable), DOUBLE, {}, ("y",), {}, NoAnswers())
    plans.keep(b"a", known(plan=plan))
    del servable

    kept = plans.get(b"a")
    assert kept is not None
    assert kept.plan is not None
    assert kept.plan.servable() is None
