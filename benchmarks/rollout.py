"""What a roll-out costs a request, in this process, in microseconds.

    python benchmarks/rollout.py

The choice of its version, whose bound is 2 µs. And what a shadow takes of the threads that answer:
of a request that is not among the share, and of one that is, with a copy of its 10 floats. What the
shadow itself does comes later, in a thread of its own.
"""

from __future__ import annotations

import timeit
from pathlib import Path
from typing import Any

import numpy as np

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.rollout.shadow import Shadow
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.rollout.split import Rollout
from ladle.server.core.servable_id import ServableId

_CALLS = 200_000


class _Nothing:
    """A servable that runs nothing."""

    signatures: dict[str, Any] = {}  # noqa: RUF012

    def close(self) -> None:
        pass


def main() -> None:
    """Print the cost without a roll-out, and with one."""
    serving = ServingMap()
    manager = Manager(_load, serving=serving)
    manager.aspire("m", {1: Path(), 2: Path()})
    manager.wait_until(lambda: all(manager.is_available("m", v) for v in (1, 2)), 30)
    manager.set_labels({"m": {"stable": 1, "canary": 2}})
    metadata = {"x-user-id": "user-4711"}.get
    for name, rollouts in (
        ("no roll-out", []),
        ("split by a key", [_split("x-user-id")]),
        ("split by chance", [_split("")]),
    ):
        manager.router.replace(rollouts)
        seconds = min(
            timeit.repeat(lambda: manager.router.choose("m", metadata), number=_CALLS, repeat=5)
        )
        print(f"{name:20} {seconds / _CALLS * 1e6:6.2f} µs")
    manager.router.replace([_split("x-user-id")])
    for name, share, calls in (("shadow, not this one", 0.0, _CALLS), ("shadow", 1.0, 20_000)):
        runs = ShadowRuns(serving, manager.router, _Nobody(), is_busy=lambda: True)
        runs.replace({"m": Shadow(share=share or 1e-9, max_in_flight=1_000_000)})
        answer = {"y": np.zeros((64, 10), np.float32)[3:4]}

        def answered(runs: ShadowRuns = runs, answer: Any = answer) -> None:
            sample = runs.sample(ServableId("m", 1), "", _plan, 100)
            if sample is not None:
                sample.answered(answer)

        seconds = min(timeit.repeat(answered, number=calls, repeat=5))
        runs.stop()
        print(f"{name:20} {seconds / calls * 1e6:6.2f} µs")
    manager.stop(1)


class _Nobody:
    """Hears of comparisons, and does nothing."""

    def shadow_compared(self, comparison: Any) -> None:
        pass

    def shadow_dropped(self, model: str, reason: str) -> None:
        pass


def _plan(_model: Any) -> Any:
    return ()


def _load(_id: ServableId, _path: Path) -> Any:
    return _Nothing()


def _split(key_name: str) -> Rollout:
    return Rollout(
        model="m", canary_label="canary", canary_buckets=1_000, key_name=key_name, salt="m"
    )


if __name__ == "__main__":
    main()
