"""What the requests to one version have taken since it was loaded: how many, and how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ladle.server.core.servable_id import ServableId


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long all of it took."""

    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Count it so many times more."""
        self.count += count
        self.seconds += seconds

    def copied(self) -> Duration:
        """Return the same figures in an object of their own."""
        return Duration(self.count, self.seconds)


@dataclass(slots=True)
class StepDurations:
    """The steps of a run: before the model, the model, and after it."""

    input: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def copied(self) -> StepDurations:
        """Return the same figures in objects of their own."""
        return StepDurations(self.input.copied(), self.compute.copied(), self.output.copied())


@dataclass(slots=True)
class VersionStatistics:
    """One version's."""

    success: Duration = field(default_factory=Duration)
    """Requests that were answered, from arrival to answer."""
    fail: Duration = field(default_factory=Duration)
    """Requests that were refused, from arrival to refusal."""
    queue: Duration = field(default_factory=Duration)
    """What answered requests waited for their batch."""
    steps: StepDurations = field(default_factory=StepDurations)
    """Of answered requests: reading and assembling, the run, taking apart and encoding."""
    rows: int = 0
    """Of answered requests."""
    runs: int = 0
    last_ended: float | None = None
    """The monotonic time of the last answer or refusal; None if there was none."""
    batches: dict[int, StepDurations] = field(default_factory=dict)
    """Runs by their number of rows."""

    def copied(self) -> VersionStatistics:
        """Return the same figures in objects of their own; fast, as requests wait meanwhile."""
        return VersionStatistics(
            self.success.copied(),
            self.fail.copied(),
            self.queue.copied(),
            self.steps.copied(),
            self.rows,
            self.runs,
            self.last_ended,
            {rows: steps.copied() for rows, steps in self.batches.items()},
        )


Statistics: TypeAlias = "Callable[[], Mapping[ServableId, VersionStatistics]]"
"""Returns the statistics of each version that has any; the caller owns them."""
