"""Counters and histograms by labels, and Prometheus's text form of them.

prometheus_client would rename the counters: upstream's end in no `_total`. Nothing here is
thread-safe: whoever keeps families has a lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy as shallow_copy
from itertools import accumulate, islice, repeat
from operator import mul
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

Labels: TypeAlias = "tuple[str, ...]"
"""The values of a family's labels, in their order."""

Across: TypeAlias = Literal["sum", "most", "mean", "state"]
"""What the gauges of several workers are as one: their sum, the largest, the mean, or 1 for the
least advanced of the states that the last label names."""

OTHERS = "other"
"""The label `model` of all models that have no series of their own."""
_OF_MODELS = ("model", "model_name")
_OF_VERSIONS = ("version", "signature", "output")

# So many are sooner sorted into buckets one by one than by numpy.
_FEW = 48

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Counters:
    """What only grows, by labels."""

    kind = "counter"

    def __init__(self, name: str, *labels: str, about: str = "") -> None:
        """Take the name and those of the labels; upstream's metrics have no text about them."""
        self.name = name
        self.labels = labels
        self.about = about
        self.values: dict[Labels, float] = {}

    def add(self, amount: float, *labels: str) -> None:
        """Count so many more."""
        self.values[labels] = self.values.get(labels, 0) + amount

    @property
    def total(self) -> float:
        """The sum over all labels."""
        return sum(self.values.values())

    def forget(self, **labels: str) -> None:
        """Drop every series with these values of labels, if the family has them all."""
        _forget(self.values, self.labels, labels)

    def fold(self, **labels: str) -> None:
        """Count every series with these values of labels among those of other models."""
        for values in _found(self.values, self.labels, labels):
            self.add(self.values.pop(values), *_others(self.labels, values))

    def copied(self) -> Self:
        """Return the family as it is now, for the time after its lock is released."""
        copy = shallow_copy(self)
        copy.values = dict(self.values)
        return copy

    def lines(self) -> Iterator[str]:
        """Yield the text form."""
        yield from _head(self)
        for labels, value in self.values.items():
            yield f"{self.name}{_shown(self.labels, labels)} {_number(value)}\n"


class Gauges(Counters):
    """What is as it is at this moment, by labels."""

    kind = "gauge"

    def __init__(self, name: str, *labels: str, about: str = "", across: Across = "sum") -> None:
        """Take the name and those of the labels, and how several workers' gauges become one."""
        super().__init__(name, *labels, about=about)
        self.across = across

    def set(self, value: float, *labels: str) -> None:
        """Note what it is."""
        self.values[labels] = value


class Histogram:
    """How many values lie below each bound."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        """For each bucket, those above the bound before; the last has no bound."""
        self.sum = 0.0

    def copied(self) -> Histogram:
        """Return the same values, which later ones are not added to."""
        copy = Histogram(0)
        copy.counts, copy.sum = list(self.counts), self.sum
        return copy


class Histograms:
    """Distributions, by labels."""

    kind = "histogram"

    def __init__(
        self, name: str, bounds: Sequence[float], *labels: str, about: str = "", scale: float = 1
    ) -> None:
        """Take the upper bounds of buckets, ascending; `scale` is what values are multiplied by."""
        self.name = name
        self.labels = labels
        self.about = about
        self.values: dict[Labels, Histogram] = {}
        self.bounds = list(bounds)
        self._scale = scale
        self._array: NDArray[np.float64] = np.array(bounds, np.float64)
        self._shown_bounds = [f'le="{bound:g}"' for bound in bounds] + ['le="+Inf"']

    def observe(
        self, values: Iterable[float], *labels: str, times: Sequence[int] | None = None
    ) -> None:
        """Count these values in, each so many times; once by default."""
        given = values if isinstance(values, list) else list(values)
        if not given:
            return
        histogram = self.values.get(labels)
        if histogram is None:
            histogram = self.values[labels] = Histogram(len(self._shown_bounds))
        counts = histogram.counts
        if len(given) < _FEW:
            for value, count in zip(given, times or repeat(1), strict=False):
                counts[bisect_left(self.bounds, value * self._scale)] += count
        else:
            array = np.array(given, np.float64) * self._scale
            found = np.bincount(np.searchsorted(self._array, array), times)
            for place in np.flatnonzero(found).tolist():
                counts[place] += int(found[place])
        total = sum(given) if times is None else sum(map(mul, given, times))
        histogram.sum += total * self._scale

    def count(self, *labels: str) -> int:
        """Return how many values there were."""
        histogram = self.values.get(labels)
        return 0 if histogram is None else sum(histogram.counts)

    def forget(self, **labels: str) -> None:
        """Drop every series with these values of labels, if the family has them all."""
        _forget(self.values, self.labels, labels)

    def fold(self, **labels: str) -> None:
        """Count every series with these values of labels among those of other models."""
        for values in _found(self.values, self.labels, labels):
            gone = self.values.pop(values)
            others = self.values.setdefault(
                _others(self.labels, values), Histogram(len(self._shown_bounds))
            )
            others.counts = [a + b for a, b in zip(others.counts, gone.counts, strict=True)]
            others.sum += gone.sum

    def copied(self) -> Self:
        """Return the family as it is now, for the time after its lock is released."""
        copy = shallow_copy(self)
        copy.values = {labels: histogram.copied() for labels, histogram in self.values.items()}
        return copy

    def lines(self) -> Iterator[str]:
        """Yield the text form.

        Buckets below the first value and above the last are left out, but for one each side: a
        quantile lies between two bounds.
        """
        yield from _head(self)
        for labels, histogram in self.values.items():
            below = list(accumulate(histogram.counts))
            pairs = _pairs(self.labels, labels)
            start = f"{self.name}_bucket{{{pairs + ',' if pairs else ''}"
            lowest = max(0, bisect_right(below, 0) - 1)
            highest = bisect_left(below, below[-1]) + 1
            for bound, count in islice(
                zip(self._shown_bounds, below, strict=True), lowest, highest
            ):
                yield f"{start}{bound}}} {count}\n"
            if highest < len(below):
                yield f"{start}{self._shown_bounds[-1]}}} {below[-1]}\n"
            shown = _shown(self.labels, labels)
            yield f"{self.name}_sum{shown} {_number(histogram.sum)}\n"
            yield f"{self.name}_count{shown} {below[-1]}\n"


Family: TypeAlias = "Counters | Histograms"


def exponential(first: float, growth: float, count: int) -> list[float]:
    """Return so many bounds, each `growth` times the one before."""
    return [first * growth**power for power in range(count)]


def text(families: Iterable[Family]) -> str:
    """Return the text form of all families that have a series."""
    return "".join(line for family in families if family.values for line in family.lines())


def slices(families: Iterable[Family], lines: int) -> Iterator[str]:
    """Yield the text form of families in pieces of at most so many lines."""
    shown = (line for family in families if family.values for line in family.lines())
    while piece := "".join(islice(shown, lines)):
        yield piece


def _head(family: Family) -> Iterator[str]:
    if family.about:
        yield f"# HELP {family.name} {family.about}\n"
    yield f"# TYPE {family.name} {family.kind}\n"


def _pairs(names: Sequence[str], values: Labels) -> str:
    return ",".join(
        f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)
    )


def _shown(names: Sequence[str], values: Labels) -> str:
    return f"{{{_pairs(names, values)}}}" if names else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _forget(series: dict[Labels, Any], names: Sequence[str], gone: Mapping[str, str]) -> None:
    for values in _found(series, names, gone):
        del series[values]


def _found(
    series: Mapping[Labels, Any], names: Sequence[str], wanted: Mapping[str, str]
) -> list[Labels]:
    """Return the labels of the series with these values, if the family has such labels."""
    if not wanted.keys() <= set(names):
        return []
    return [
        values
        for values in series
        if wanted.items() <= dict(zip(names, values, strict=True)).items()
    ]


def _others(names: Sequence[str], values: Labels) -> Labels:
    """Return the labels under which other models' series are counted."""
    return tuple(
        OTHERS if name in _OF_MODELS else "" if name in _OF_VERSIONS else value
        for name, value in zip(names, values, strict=True)
    )
