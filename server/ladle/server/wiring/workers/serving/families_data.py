"""Families of metrics as plain data, and back."""

from __future__ import annotations

from ladle.server.monitoring.families import Counters, Family, Gauges, Histogram, Histograms
from ladle.server.wiring.workers.deciding.merging import FamilyData


def to_data(family: Family) -> FamilyData:
    """Return what JSON can hold of a family."""
    data: FamilyData = {
        "name": family.name,
        "kind": family.kind,
        "labels": list(family.labels),
        "about": family.about,
        "across": family.across if isinstance(family, Gauges) else "sum",
        "bounds": None,
    }
    if isinstance(family, Histograms):
        series = family.values.items()
        values = [[list(labels), [found.counts, found.sum]] for labels, found in series]
        return data | {"bounds": family.bounds, "series": values}
    return data | {"series": [[list(labels), value] for labels, value in family.values.items()]}


def from_data(data: FamilyData) -> Family:
    """Return the family that `to_data` made the data of."""
    name, labels, about = data["name"], data["labels"], data["about"]
    if data["kind"] == "histogram":
        histograms = Histograms(name, data["bounds"], *labels, about=about)
        for of, (counts, total) in data["series"]:
            histogram = Histogram(0)
            histogram.counts, histogram.sum = counts, total
            histograms.values[tuple(of)] = histogram
        return histograms
    family: Counters
    if data["kind"] == "gauge":
        family = Gauges(name, *labels, about=about, across=data["across"])
    else:
        family = Counters(name, *labels, about=about)
    family.values = {tuple(of): value for of, value in data["series"]}
    return family
