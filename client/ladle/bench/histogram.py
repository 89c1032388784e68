"""Latencies in buckets that are each 1 % wide: any number of them takes the same memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

_GROWTH = 1.01
_LEAST_S = 1e-6
_MOST_S = 1e4
_BUCKETS = math.ceil(math.log(_MOST_S / _LEAST_S) / math.log(_GROWTH)) + 1


class Histogram:
    """Durations in seconds, from a microsecond to some hours. Not thread-safe."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.max_s = 0.0
        self._counts = [0] * _BUCKETS

    def add(self, duration_s: float) -> None:
        """Count a duration."""
        self.count += 1
        self.total_s += duration_s
        self.max_s = max(self.max_s, duration_s)
        clamped = min(max(duration_s, _LEAST_S), _MOST_S)
        self._counts[round(math.log(clamped / _LEAST_S) / math.log(_GROWTH))] += 1

    def percentile(self, share: float) -> float:
        """Return the duration in seconds that a share of all, from 0 to 1, does not exceed.

        It is within 1 % of the exact one; 0 where nothing was counted.
        """
        rank = math.ceil(share * self.count) or 1
        for duration_s, count in self.buckets():
            rank -= count
            if rank <= 0:
                return min(duration_s, self.max_s)
        return 0.0

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield the middle of each filled bucket in seconds, and its count; ascending."""
        for index, count in enumerate(self._counts):
            if count:
                yield _LEAST_S * _GROWTH**index, count
