"""Makes one status page of several workers': `/status.json`, as JSON's own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from ladle.rollout.fleet import Shadow, of_model

Status: TypeAlias = "dict[str, Any]"

_ADDED = (
    *("requests_per_s", "failures_per_s", "requests", "failures"),
    *("in_flight", "queue_requests", "queue_rows", "running_batches"),
)
# Of times the slowest worker's is shown: quantiles can't be added up.
_LARGEST = ("p50_ms", "p95_ms", "p99_ms")
_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


def merged_status(workers: Mapping[int, Status], count: int) -> Status:
    """Return the status of all workers.

    A model is available, and the server ready, where each worker says so. A version has the least
    advanced of its states. Rates and what waits are added up.

    Args:
        workers: the status of those that answered, by their numbers; one at least.
        count: how many workers there should be.
    """
    ordered = [workers[number] for number in sorted(workers)]
    first = ordered[0]["server"]
    server = {
        **first,
        "ready": all(status["server"]["ready"] for status in ordered),
        "uptime_s": max(status["server"]["uptime_s"] for status in ordered),
        "workers": {
            "expected": count,
            "ready": sum(bool(status["server"]["ready"]) for status in ordered),
        },
    }
    models: dict[str, list[Status]] = {}
    for status in ordered:
        for model in status["models"]:
            models.setdefault(model["name"], []).append(model)
    return {"server": server, "models": [_model(models[name]) for name in sorted(models)]}


def _model(same: Sequence[Status]) -> Status:
    versions: dict[str, list[Status]] = {}
    for model in same:
        for version in model["versions"]:
            versions.setdefault(version["version"], []).append(version)
    return {
        **same[0],
        "available": all(model["available"] for model in same),
        "problem": _first(model["problem"] for model in same) or "",
        "load": _load([model["load"] for model in same if model["load"] is not None]),
        "versions": [_version(versions[v]) for v in sorted(versions, key=int, reverse=True)],
    }


def _version(same: Sequence[Status]) -> Status:
    """Return the one that is furthest from answering; it has the error, if there is one."""
    least = min(same, key=lambda version: _STATES.index(version["state"]))
    failed = next((version for version in same if version["error"]), None)
    if failed is None:
        return least
    return {**least, "error": failed["error"], "error_code": failed["error_code"]}


def _load(same: Sequence[Status]) -> Status | None:
    if not same:
        return None
    parts: dict[tuple[str, str], list[Status]] = {}
    for load in same:
        for part in load["rollout"]:
            parts.setdefault((part["part"], part["version"]), []).append(part)
    rollout = [
        {
            **_numbers(of),
            "share": sum(part["share"] for part in of) / len(of),
            "is_held": any(part["is_held"] for part in of),
            "reason": _first(part["reason"] for part in of) or "",
        }
        for of in parts.values()
    ]
    merged = {**_numbers(same), "rollout": rollout}
    # Workers that have read the roll-out's file just now may differ in a model's having one.
    guarded = {f"worker {n}": load for n, load in enumerate(same, 1) if load["guard"] is not None}
    if not guarded:
        return merged
    found = of_model("", guarded)
    return {
        **merged,
        "guard": next(iter(guarded.values()))["guard"],
        "verdict": found.verdict,
        "verdict_reason": found.reason,
        "shadow": _shadow(found.shadows, [load["shadow"] for load in same if load["shadow"]]),
    }


def _shadow(summed: Sequence[Shadow], same: Sequence[Status]) -> Status | None:
    """Return the pair of versions that was compared most, at all workers together."""
    if not summed:
        return None
    most = max(summed, key=lambda shadow: shadow.requests)
    key = most.version, most.stable
    alike = _numbers([one for one in same if (one["version"], one["stable"]) == key])
    return {**alike, **asdict(most), "disagreement": most.disagreement}


def _numbers(same: Sequence[Status]) -> Status:
    found = dict(same[0])
    for name in found.keys() & set(_ADDED):
        found[name] = sum(one[name] for one in same)
    for name in found.keys() & set(_LARGEST):
        found[name] = max((one[name] for one in same if one[name] is not None), default=None)
    return found


def _first(texts: Iterable[str]) -> str | None:
    return next(filter(None, texts), None)
