"""A shadow that hangs, fails or is slow holds up nobody, and every request is accounted for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeClock, FakeLoader, until

from ladle.server.core.errors import Code, InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.rollout import shadow_runs
from ladle.server.core.rollout.agreement import Comparison
from ladle.server.core.rollout.shadow import Shadow
from ladle.server.core.rollout.shadow_runs import Plan, Planned, Sample, ShadowRuns
from ladle.server.core.rollout.split import Rollout
from ladle.server.core.servable import Arrays, Model
from ladle.server.core.servable_id import ServableId

STABLE, CANARY = ServableId("m", 1), ServableId("m", 2)
INPUTS = {"x": np.array([[1.0, 2.0]], np.float32)}
OUTPUTS = {"y": np.array([[2.0, 4.0]], np.float32)}


def planned(model: Model) -> Planned:
    return next(iter(model.signatures.values())), INPUTS, ("y",)


class Harness:
    """Version 1 is stable, 2 has the label canary; the test is the observer."""

    def __init__(self, **options: object) -> None:
        self.loader = FakeLoader()
        self.comparisons: list[Comparison] = []
        self.dropped: list[str] = []
        serving = ServingMap()
        self.manager = Manager(self.loader, serving=serving)
        self.manager.aspire("m", {1: Path("/1"), 2: Path("/2")})
        until(lambda: all(self.manager.is_available("m", v) for v in (1, 2)))
        self.manager.set_labels({"m": {"stable": 1, "canary": 2}})
        self.manager.router.replace([Rollout(model="m", canary_label="canary")])
        self.runs = ShadowRuns(
            serving,
            self.manager.router,
            self,
            draw=lambda: 0.5,
            **options,  # type: ignore[arg-type]
        )
        self.shadow = self.loader.loaded[CANARY]

    def shadow_compared(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)

    def shadow_dropped(self, model: str, reason: str) -> None:
        assert model == "m"
        self.dropped.append(reason)

    def begin(self, share: float = 1.0, max_in_flight: int = 4) -> None:
        self.runs.replace({"m": Shadow(share=share, max_in_flight=max_in_flight)})

    def sample(
        self, served: ServableId = STABLE, plan: Plan = planned, nbytes: int = 8, stateful: str = ""
    ) -> Sample | None:
        return self.runs.sample(served, stateful, plan, nbytes)

    def run(self, plan: Plan = planned) -> None:
        """Have one request compared."""
        sample = self.sample(plan=plan)
        assert sample is not None
        sample.answered(OUTPUTS)
        assert self.runs.wait_until_idle(TIMEOUT_S)


@pytest.fixture
def there() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.shadow.release()
    made.runs.stop()
    made.manager.stop(TIMEOUT_S)


def test_an_answer_is_compared_with_that_of_the_shadow(there: Harness) -> None:
    there.begin()
    there.run()
    there.shadow.function = lambda inputs: {"y": inputs["x"] * np.array([3, 2], np.float32)}
    there.run()
    assert [(c.code, c.rows, c.off_rows) for c in there.comparisons] == [
        (Code.OK, 1, 0),
        (Code.OK, 1, 0),  # the same class is on top
    ]
    there.shadow.function = lambda inputs: {"y": inputs["x"] * np.array([9, 2], np.float32)}
    there.run()
    standing = there.runs.standing("m")
    assert standing is not None
    found = standing.agreement
    assert (found.stable, found.version, found.requests, found.rows, found.off_rows) == (
        *(1, 2),
        *(3, 3, 1),
    )
    assert found.outputs["y"].max_abs == 7.0
    assert found.run_s(0.5) is not None
    assert there.dropped == []


def test_only_the_share_asked_for_of_what_stable_answered_is_taken(there: Harness) -> None:
    assert not there.runs.lanes
    assert there.sample() is None
    there.begin(share=0.5)  # the test draws 0.5, which is not below it
    assert there.sample() is None
    there.begin()
    assert there.runs.lanes
    assert there.sample(CANARY) is None  # what the canary itself has answered
    assert there.sample(ServableId("other", 1)) is None
    assert there.sample() is not None


def test_a_shadow_that_fails_is_counted_and_nothing_else(there: Harness) -> None:
    there.begin()

    def refuse(inputs: Arrays) -> dict[str, np.ndarray]:
        raise InvalidArgument("x: expected three columns, got two")

    there.shadow.function = refuse
    there.run()

    def broken(model: Model) -> Planned:
        raise ValueError("a fault of ours")

    there.run(broken)
    assert [(c.code, c.error) for c in there.comparisons] == [
        (Code.INVALID_ARGUMENT, "x: expected three columns, got two"),
        (Code.INTERNAL, "ValueError('a fault of ours')"),
    ]
    standing = there.runs.standing("m")
    assert standing is not None
    assert (standing.agreement.failures, standing.agreement.disagreement) == (2, 1.0)


def test_a_shadow_that_hangs_holds_up_to_its_bound_and_what_comes_then_is_dropped(
    there: Harness,
) -> None:
    there.begin(max_in_flight=2)
    there.shadow.hold()
    for _ in range(2):
        sample = there.sample()
        assert sample is not None
        sample.answered(OUTPUTS)
    there.shadow.wait_until_running()
    assert [there.sample() for _ in range(3)] == [None] * 3
    assert there.dropped == ["busy"] * 3
    there.shadow.release()
    assert there.runs.wait_until_idle(TIMEOUT_S)
    assert there.sample() is not None


def test_a_hung_shadow_of_one_model_holds_up_no_other(there: Harness) -> None:
    there.manager.aspire("n", {1: Path("/1"), 2: Path("/2")})
    until(lambda: all(there.manager.is_available("n", v) for v in (1, 2)))
    labels = {"stable": 1, "canary": 2}
    there.manager.set_labels({"m": labels, "n": labels})
    there.manager.router.replace([Rollout(model=m, canary_label="canary") for m in "mn"])
    there.runs.replace({"m": Shadow(share=1.0), "n": Shadow(share=1.0)})
    there.shadow.hold()
    held = there.sample()
    assert held is not None
    held.answered(OUTPUTS)
    there.shadow.wait_until_running()
    sample = there.sample(ServableId("n", 1))
    assert sample is not None
    sample.answered(OUTPUTS)
    until(lambda: [c.model for c in there.comparisons] == ["n"])


def test_bytes_that_are_held_are_bounded(there: Harness) -> None:
    there.begin()
    assert there.sample(nbytes=shadow_runs.HELD_BYTES + 1) is None
    first = there.sample(nbytes=shadow_runs.HELD_BYTES - 4)
    assert first is not None
    assert there.sample(nbytes=8) is None
    first.answered(OUTPUTS)  # 8 bytes, and there are 4
    assert there.dropped == ["bytes"] * 3
    # All was given back.
    last = there.sample(nbytes=shadow_runs.HELD_BYTES)
    assert last is not None
    last.abandon()
    assert there.runs.wait_until_idle(TIMEOUT_S)


def test_what_could_be_seen_twice_never_runs_twice(there: Harness) -> None:
    there.begin()
    assert there.sample(stateful="the graph counts") is None
    assert there.dropped == ["stateful"]
    counting = type(DOUBLE)("f", DOUBLE.inputs, DOUBLE.outputs, stateful="the graph counts")
    there.run(lambda _model: (counting, INPUTS, ("y",)))
    assert there.dropped == ["stateful"] * 2
    assert there.shadow.batches == []


def test_rows_of_a_batch_are_copied_and_a_whole_answer_is_not(there: Harness) -> None:
    there.begin()
    there.shadow.hold()
    batch = np.zeros((1000, 2), np.float32)
    sample = there.sample()
    assert sample is not None
    sample.answered({"y": batch[3:4]})
    assert sample.outputs["y"].base is None
    assert sample.nbytes == 8 + 8


def test_while_callers_need_the_processors_a_shadow_waits_and_then_gives_up() -> None:
    clock, busy = FakeClock(), threading.Event()
    there = Harness(clock=clock, is_busy=busy.is_set)
    there.begin()
    busy.set()
    sample = there.sample()
    assert sample is not None
    sample.answered(OUTPUTS)
    clock.wait_until_sleeping(1)
    assert there.shadow.batches == []
    busy.clear()
    clock.advance(1.0)
    assert there.runs.wait_until_idle(TIMEOUT_S)
    assert (there.shadow.batches, there.dropped) == ([1], [])
    busy.set()
    sample = there.sample()
    assert sample is not None
    sample.answered(OUTPUTS)

    def time_passes() -> bool:
        clock.advance(0.05)
        return there.dropped == ["busy"]

    until(time_passes)
    assert there.shadow.batches == [1]
    there.runs.stop()
    there.manager.stop(TIMEOUT_S)


def test_a_shadow_that_goes_out_of_service_keeps_no_version_loaded(there: Harness) -> None:
    there.begin()
    sample = there.sample()
    assert sample is not None
    there.manager.aspire("m", {1: Path("/1")})
    assert there.shadow.closed.wait(TIMEOUT_S)
    sample.answered(OUTPUTS)
    assert there.runs.wait_until_idle(TIMEOUT_S)
    assert there.dropped == ["not_loaded"]
    assert there.sample() is None
    assert there.runs.standing("m") is None


def test_another_pair_of_versions_and_another_file_begin_anew(there: Harness) -> None:
    there.begin()
    there.run()

    def requests() -> int:
        standing = there.runs.standing("m")
        return standing.agreement.requests if standing else -1

    assert requests() == 1
    there.begin()
    assert requests() == 0
    there.run()
    there.manager.set_labels({"m": {"stable": 2, "canary": 1}})
    assert requests() == 0


def test_a_stop_lets_go_of_what_waits_and_starts_nothing_more(there: Harness) -> None:
    there.begin()
    there.shadow.hold()
    for _ in range(3):
        sample = there.sample()
        assert sample is not None
        sample.answered(OUTPUTS)
    there.shadow.wait_until_running()
    there.runs.stop()
    assert there.sample() is None
    there.begin()
    assert there.sample() is None
    there.shadow.release()
    until(lambda: len(there.comparisons) == 1)
    assert there.shadow.batches == [1]
