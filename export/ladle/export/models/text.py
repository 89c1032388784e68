"""What `ladle models` prints: tables for people, and objects for JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ladle.export.models import manage
from ladle.export.models.manage import Version

if TYPE_CHECKING:
    from ladle.export.saved_model.subprocess_check import Checked


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as lines whose columns are aligned."""
    lines = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def told_in_rows(told: dict[str, Any]) -> str:
    """Return a table for people, without the numbers of every epoch, which the report draws."""
    versions = {str(row["version"]): row["state"] for row in told.get("versions", ())}
    shown = flat(told | ({"versions": versions} if versions else {}))
    rows = [
        (key, brief(value, 80))
        for key, value in sorted(shown.items())
        if not key.startswith("card.provenance.history") and value not in (None, "", [], {})
    ]
    return table(("", told["model"]), rows)


def told_of_check(version: int, checked: Checked) -> Iterator[str]:
    """Yield the lines that say how a check went that did not fail."""
    ran = ", ".join(checked.warmed_up) or "none"
    yield f"Version {version} loads; signatures that its warm-up requests ran: {ran}"
    if checked.made:
        yield f"Ran on made inputs: {', '.join(checked.made)}"
    for name, reason in checked.refused.items():
        yield f"Not run: {name} takes none of the made inputs; a warm-up request can show that it"
        yield f"  runs. The model says: {reason}"
    yield from (f"Warning: {warning}" for warning in checked.warnings)


def as_dict(version: Version) -> dict[str, Any]:
    """Return what `ladle models` says of a version, for JSON."""
    return {
        "model": version.model,
        "version": version.version,
        "path": str(version.path),
        "serves": version.serves,
        "problem": version.problem,
        "hidden": version.hidden,
        "labels": list(version.labels),
        "size_bytes": version.size_bytes,
        "metrics": dict(manage.metrics_of(version)),
        "created": _told(version).get("created"),
    }


def state_of(version: Version) -> str:
    """Return what a table says of a version's part in serving."""
    if version.hidden:
        return "hidden"
    if version.problem:
        return "not whole"
    return "serves" if version.serves else ""


def shown_metrics(version: Version) -> tuple[str]:
    """Return the cell of a table with a version's metrics."""
    metrics = sorted(manage.metrics_of(version).items())
    return (", ".join(f"{name} {value:.4f}" for name, value in metrics),)


def card_of(version: Version) -> dict[str, Any]:
    """Return the card as JSON has it; empty where there is none."""
    return {} if version.card is None else json.loads(version.card.to_json())


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one, whose keys are joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else key)
    return found


def brief(value: Any, at_most: int = 40) -> str:
    """Return a value as text of at most so many characters."""
    text = "" if value is None else str(value)
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."


def _told(version: Version) -> dict[str, Any]:
    return {} if version.card is None else dict(version.card.provenance)
