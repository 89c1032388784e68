"""What has happened to a model in the last minute: rates, and how long requests took."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np

WINDOW_S = 60
"""What counts as of late."""
_MAX_LATENCIES = 2048


class Recent:
    """One model's. Not thread-safe."""

    def __init__(self) -> None:
        self._ended: Counter[int] = Counter()  # requests by the second in which they ended
        self._failed: Counter[int] = Counter()
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_MAX_LATENCIES)

    def add(
        self,
        ended: Sequence[float],
        latencies_s: Sequence[float],
        *,
        failed: bool,
        times: Sequence[int] | None = None,
    ) -> None:
        """Count requests in, by the times at which they ended; each so often, or once."""
        by_second: Counter[int] = Counter()
        if times is None:
            by_second.update(map(int, ended))
        else:
            for each, count in zip(ended, times, strict=True):
                by_second[int(each)] += count
        for counts in (self._ended, self._failed) if failed else (self._ended,):
            counts.update(by_second)
            if len(counts) > 2 * WINDOW_S:
                _drop_before(counts, max(counts) - WINDOW_S)
        if not failed:
            pairs = zip(ended, latencies_s, strict=True)
            if times is None:
                self._latencies.extend(pairs)
            else:
                for pair, count in zip(pairs, times, strict=True):
                    self._latencies.extend(repeat(pair, min(count, _MAX_LATENCIES)))

    def per_s(self, now: float, over_s: int, *, failed: bool = False) -> float:
        """Return how many requests ended in each of the last whole seconds, on average."""
        counts = self._failed if failed else self._ended
        last = int(now)
        return sum(counts[second] for second in range(last - over_s, last)) / over_s

    def count(self, now: float, over_s: int, *, failed: bool = False) -> int:
        """Return how many requests ended in the last whole seconds."""
        return round(self.per_s(now, over_s, failed=failed) * over_s)

    def latencies_s(self, now: float, quantiles: Iterable[float]) -> list[float] | None:
        """Return quantiles of how long answers took of late; None if there were none."""
        taken = [took for ended, took in self._latencies if ended >= now - WINDOW_S]
        return [float(q) for q in np.quantile(taken, list(quantiles))] if taken else None


def _drop_before(counts: Counter[int], second: int) -> None:
    for old in [s for s in counts if s < second]:
        del counts[old]
