"""A canary's part grows with the time since its label was written, and not beyond a hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, until

from ladle.server import Config
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.monitoring.metrics import Metrics
from ladle.server.settings.rollout_file import parse
from ladle.server.wiring.rollouts import Rollouts
from ladle.store.opening import open_store

STEPS = 'rollout { model: "m" canary {} steps { percent: 5 percent: 25 percent: 100 hold_s: 600 } }'


class Harness:
    def __init__(self, folder: Path) -> None:
        serving = ServingMap()
        self.manager = Manager(FakeLoader(), serving=serving)
        self.manager.aspire("m", {1: Path(), 2: Path()})
        until(lambda: all(self.manager.is_available("m", v) for v in (1, 2)))
        self.wall_s = 10_000.0
        file = folder / "rollout.txt"
        file.write_text(STEPS)
        self.rollouts = Rollouts(
            Config(model_base_path=str(folder), rollout_file=str(file)),
            self.manager,
            serving,
            Metrics(),
            open_store,
            wall=lambda: self.wall_s,
        )

    def label(self, changed_s: float | None) -> None:
        self.manager.label("m", {"stable": 1, "canary": 2}, changed_s)

    def at(self, wall_s: float) -> float:
        """Return the canary's share at this time."""
        self.wall_s = wall_s
        self.rollouts.step()
        (_, canary) = self.manager.router.shares("m")
        return canary.share


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.manager.stop(TIMEOUT_S)


def test_each_step_takes_its_time_from_the_label_on(there: Harness) -> None:
    there.label(10_000.0)
    found = [there.at(s) for s in (9_000, 10_000, 10_599, 10_600, 11_199, 11_200, 1e9)]
    assert found == [0.05, 0.05, 0.05, 0.25, 0.25, 1.0, 1.0]
    there.label(20_000.0)
    assert there.at(20_001.0) == 0.05


def test_while_nobody_knows_when_the_label_was_written_the_first_step_lasts(there: Harness) -> None:
    there.label(None)
    assert there.at(1e9) == 0.05
    there.manager.set_labels({"m": {"stable": 1, "canary": 2}})  # of the configuration
    assert there.at(1e9) == 0.05


def test_what_is_held_goes_on_from_the_first_step_and_once_it_is_labelled_anew(
    there: Harness,
) -> None:
    there.label(10_000.0)
    assert there.at(10_000.0) == 0.05
    there.manager.router.hold("m", 2, "it fails")
    assert there.at(10_700.0) == 0.0
    # Another file alone would give it the last step's part at once.
    there.rollouts.replace(parse(STEPS))
    assert there.at(20_000.0) == 0.0
    there.label(20_000.0)
    assert there.at(20_000.0) == 0.05


def test_without_steps_another_file_is_another_chance(there: Harness) -> None:
    there.rollouts.replace(parse('rollout { model: "m" canary { percent: 10 } }'))
    there.label(10_000.0)
    there.manager.router.hold("m", 2, "it fails")
    assert there.at(10_000.0) == 0.0
    there.rollouts.replace(parse('rollout { model: "m" canary { percent: 20 } }'))
    assert there.at(10_000.0) == 0.2
