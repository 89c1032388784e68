"""Writes dashboard.json, a dashboard for Grafana, of the metrics that the server has.

    python deploy/kubernetes/monitoring/dashboard.py

Every histogram and counter of ladle's own gets a panel, with the text that the metric has about it.
A test compares the file with what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ladle.server.monitoring.catalogue import LadleMetrics, families_of
from ladle.server.monitoring.families import Family, Histograms

FILE = Path(__file__).with_name("dashboard.json")
WIDTH, HEIGHT = 12, 8
QUANTILES = (0.5, 0.9, 0.99)
# What is as it is at this moment, with the unit in which Grafana shows it.
GAUGES = {
    "ladle_requests_in_flight": ("Requests under way that hold a version.", "short"),
    "ladle_queue_requests": ("Requests that wait for a batch.", "short"),
    "ladle_batches_running": ("Batches that run.", "short"),
    "ladle_version_problem": ("1 for a version that can't be loaded.", "short"),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's form."""
    panels = [_panel(name, about, unit, [_gauge(name)]) for name, (about, unit) in GAUGES.items()]
    panels += map(_family, families_of(LadleMetrics()))
    for number, panel in enumerate(panels):
        place = {"x": WIDTH * (number % 2), "y": HEIGHT * (number // 2)}
        panel |= {"id": number + 1, "gridPos": {"w": WIDTH, "h": HEIGHT, **place}}
    return {
        "uid": "ladle",
        "title": "ladle",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "query": "label_values(ladle_version_state, model)",
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def _family(family: Family) -> dict[str, Any]:
    chosen = '{model=~"$model"}' if "model" in family.labels else ""
    by = [label for label in family.labels if label in ("model", "code", "reason", "log")]
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    if not isinstance(family, Histograms):
        expression = f"sum by ({', '.join(by)}) (rate({family.name}{chosen}[$__rate_interval]))"
        return _panel(family.name, family.about, "short", [(expression, legend)])
    rate = f"rate({family.name}_bucket{chosen}[$__rate_interval])"
    queries = [
        (
            f"histogram_quantile({quantile}, sum by ({', '.join([*by, 'le'])}) ({rate}))",
            f"{legend} p{quantile * 100:g}",
        )
        for quantile in QUANTILES
    ]
    units = {"seconds": "s", "bytes": "bytes"}
    unit = units.get(family.name.rpartition("_")[2], "short")
    return _panel(family.name, family.about, unit, queries)


def _gauge(name: str) -> tuple[str, str]:
    expression = f'sum by (model, version) ({name}{{model=~"$model"}})'
    return expression, "{{model}} {{version}}"


def _panel(title: str, about: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(queries)
        ],
    }


def text() -> str:
    """Return what the file holds."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
