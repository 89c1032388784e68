from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes import FakeLoader

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.monitoring.catalogue import (
    LadleMetrics,
    TFServingMetrics,
    families_of,
    require_metrics,
)
from ladle.server.monitoring.exposition import Exposition
from ladle.server.monitoring.metrics import Metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def test_the_page_on_metrics_lists_each_with_its_kind_and_labels() -> None:
    exposition = Exposition(Metrics(), Manager(FakeLoader()))
    families = [
        *families_of(TFServingMetrics()),
        *families_of(LadleMetrics()),
        *exposition.gauges(),
    ]

    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \| ([\w, ]*) \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [(f.name, f.kind, ", ".join(f.labels)) for f in families]


def test_every_metric_of_ours_says_what_it_is() -> None:
    assert all(family.about for family in families_of(LadleMetrics()))


def test_a_method_that_nobody_decided_how_to_count_is_an_error() -> None:
    with pytest.raises(KeyError, match="Conjure"):
        require_metrics(["/tensorflow.serving.PredictionService/Conjure"])
