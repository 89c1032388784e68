"""How far a shadow has agreed so far with the version that answers: sums, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ladle.server.core.errors import Code
from ladle.server.core.rollout.comparing import OutputDifference

_MAX_OUTPUTS = 64
OTHERS = "(others)"
"""What outputs are counted under when there are very many."""
_MAX_TIMES = 512
_MAX_TEXT = 300


class Comparison(NamedTuple):
    """One request that has run on a shadow."""

    model: str
    stable: int
    """The version that answered."""
    version: int
    """The shadow."""
    code: Code
    """What the run on the shadow came to."""
    took_s: float
    """What that run took."""
    rows: int = 0
    off_rows: int = 0
    """Rows that do not agree in some output."""
    outputs: tuple[OutputDifference, ...] = ()
    """Nothing where the run has failed."""
    error: str = ""
    """Why it has."""
    request_id: str = ""
    row: int | None = None
    """The first row that does not agree."""
    answers: Mapping[str, tuple[object, object]] = MappingProxyType({})
    """By output: what that row is of stable and of the shadow, as JSON has it; shortened."""


@dataclass(kw_only=True)
class OutputAgreement:
    """Sums of one output's differences; see OutputDifference."""

    rows: int = 0
    off_rows: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    """How many answers had each problem."""
    detail: str = ""
    """Of the last of them."""
    measured: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_rel: float = 0.0
    sum_rel: float = 0.0
    not_finite: int = 0
    class_rows: int = 0
    top_changed: int = 0

    def add(self, found: OutputDifference) -> None:
        """Count one more answer."""
        self.rows += found.rows
        self.off_rows += found.off_rows
        if found.problem:
            self.problems[found.problem] = self.problems.get(found.problem, 0) + 1
            self.detail = found.detail[:_MAX_TEXT]
        self.measured += found.measured
        self.max_abs = max(self.max_abs, found.max_abs)
        self.sum_abs += found.sum_abs
        self.max_rel = max(self.max_rel, found.max_rel)
        self.sum_rel += found.sum_rel
        self.not_finite += found.not_finite
        self.class_rows += found.class_rows
        self.top_changed += found.top_changed


class Agreement:
    """Of one pair of versions, since both were there and the roll-out was read. Not thread-safe."""

    def __init__(self, stable: int, version: int) -> None:
        """Take the version that answers, and the shadow."""
        self.stable = stable
        self.version = version
        self.requests = 0
        """Requests that have run on the shadow."""
        self.failures = 0
        """Of these, those that failed there: stable had answered each."""
        self.last_error = ""
        self.rows = 0
        self.off_rows = 0
        self.outputs: dict[str, OutputAgreement] = {}
        self._times: deque[float] = deque(maxlen=_MAX_TIMES)

    def add(self, comparison: Comparison) -> None:
        """Count one more request."""
        self.requests += 1
        self._times.append(comparison.took_s)
        if comparison.code is not Code.OK:
            self.failures += 1
            self.last_error = f"{comparison.code.name}: {comparison.error}"[:_MAX_TEXT]
            return
        self.rows += comparison.rows
        self.off_rows += comparison.off_rows
        for found in comparison.outputs:
            known = found.output in self.outputs or len(self.outputs) < _MAX_OUTPUTS
            name = found.output if known else OTHERS
            self.outputs.setdefault(name, OutputAgreement()).add(found)

    @property
    def disagreement(self) -> float:
        """The part of all rows that do not agree, from 0 to 1.

        The rows of requests that have failed are not known: each such request counts as one.
        """
        return (self.off_rows + self.failures) / max(1, self.rows + self.failures)

    def run_s(self, quantile: float) -> float | None:
        """Return a quantile of what the last runs have taken; None where there were none."""
        return float(np.quantile(list(self._times), quantile)) if self._times else None
