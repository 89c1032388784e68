"""What a roll-out costs a request: the choice of its version, in this process, in microseconds.

    python benchmarks/rollout.py

The bound is 2 µs.
"""

from __future__ import annotations

import timeit
from pathlib import Path
from typing import Any

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
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
        print(f"{name:16} {seconds / _CALLS * 1e6:6.2f} µs")
    manager.stop(1)


def _load(_id: ServableId, _path: Path) -> Any:
    return _Nothing()


def _split(key_name: str) -> Rollout:
    return Rollout(
        model="m", canary_label="canary", canary_buckets=1_000, key_name=key_name, salt="m"
    )


if __name__ == "__main__":
    main()
