"""The status of several workers as one page's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ladle.rollout.guard import Guard
from ladle.server.wiring.workers.deciding.statuses import merged_status


def load(rate: float, p99: float | None, **part: Any) -> dict[str, Any]:
    numbers = {"requests_per_s": rate, "failures_per_s": 0.0, "p50_ms": p99, "p99_ms": p99}
    canary = {"part": "canary", "version": "2", "requests": 3, "failures": 1, "reason": ""}
    parts = [{**canary, **numbers, **part}] if part else []
    waiting = {"in_flight": 1, "queue_requests": 0, "queue_rows": 2, "running_batches": 1}
    return {**numbers, "p95_ms": p99, **waiting, "rollout": parts, "shadow": None, "guard": None}


def version(number: str, state: str, error: str = "") -> dict[str, Any]:
    code = "INTERNAL" if error else "OK"
    return {"version": number, "state": state, "error": error, "error_code": code}


def model(*versions: dict[str, Any], name: str = "m", **more: Any) -> dict[str, Any]:
    model = {"name": name, "available": True, "problem": "", "load": None}
    return {**model, "versions": list(versions), **more}


def status(*models: dict[str, Any], ready: bool = True, uptime_s: float = 5.0) -> dict[str, Any]:
    return {"server": {"ready": ready, "uptime_s": uptime_s}, "models": list(models)}


def test_the_server_is_ready_where_all_are() -> None:
    found = merged_status({1: status(uptime_s=9.0), 3: status(ready=False)}, count=3)
    assert found["server"] == {
        "ready": False,
        "uptime_s": 9.0,
        "workers": {"expected": 3, "ready": 1},
    }


def test_rates_are_added_up_and_the_slowest_latency_is_shown() -> None:
    one, other = model(load=load(10.0, 5.0)), model(load=load(2.0, 7.0))
    idle = model(load=load(0.0, None))
    (merged,) = merged_status({1: status(one), 2: status(other), 3: status(idle)}, 3)["models"]
    assert merged["load"]["requests_per_s"] == 12.0
    assert merged["load"]["p99_ms"] == 7.0
    assert merged["load"]["running_batches"] == 3


def test_a_roll_out_has_the_mean_of_shares_and_is_held_where_one_holds() -> None:
    one = model(load=load(10.0, 5.0, share=0.1, is_held=False))
    other = model(load=load(2.0, 7.0, share=0.0, is_held=True, reason="too slow"))
    (merged,) = merged_status({1: status(one), 2: status(other)}, 2)["models"]
    (part,) = merged["load"]["rollout"]
    assert (part["share"], part["is_held"], part["requests_per_s"]) == (0.05, True, 12.0)
    assert (part["requests"], part["failures"], part["reason"]) == (6, 2, "too slow")


def test_a_shadow_is_added_up_and_the_verdict_is_that_of_all() -> None:
    def worker(requests: int, disagreeing: int, stable: str = "1") -> dict[str, Any]:
        shadow = {
            "version": "2",
            "stable": stable,
            "share": 0.5,
            "requests": requests,
            "failures": 0,
            "last_error": "",
            "rows": requests,
            "dropped": {"busy": 1},
            "disagreeing_rows": disagreeing,
            "disagreement": 0.0,
            "outputs": {},
            "p50_ms": 1.0,
            "p99_ms": float(requests),
        }
        guard = asdict(Guard(min_requests=10, max_disagreement=0.2))
        canary = load(1.0, 5.0, share=0.1, is_held=False)
        return model(load={**canary, "shadow": shadow, "guard": guard})

    def merged(*workers: dict[str, Any]) -> dict[str, Any]:
        statuses = {n: status(found) for n, found in enumerate(workers, 1)}
        (found,) = merged_status(statuses, len(workers))["models"]
        load: dict[str, Any] = found["load"]
        return load

    found = merged(worker(8, 1), worker(4, 1), worker(5, 5, stable="3"))
    shadow = found["shadow"]
    assert (shadow["requests"], shadow["rows"], shadow["dropped"]) == (12, 12, {"busy": 2})
    assert (shadow["share"], shadow["p99_ms"], shadow["disagreement"]) == (0.5, 8.0, 1 / 6)
    # Neither worker by itself has compared enough.
    assert merged(worker(8, 1), worker(4, 1))["verdict"] == "good"
    assert merged(worker(8, 1))["verdict"] == "no verdict"
    assert merged(worker(8, 4), worker(4, 1))["verdict"] == "worse"


def test_a_version_is_as_far_as_its_last_worker_and_has_the_error_of_one() -> None:
    one = model(version("1", "AVAILABLE"), version("2", "LOADING"))
    other = model(version("1", "AVAILABLE"), version("2", "END", "bad file"))
    (merged,) = merged_status({1: status(one), 2: status(other)}, 2)["models"]
    second, first = merged["versions"]
    assert (second["version"], second["state"], second["error"]) == ("2", "LOADING", "bad file")
    assert (second["error_code"], first["state"]) == ("INTERNAL", "AVAILABLE")


def test_a_model_that_one_has_is_shown() -> None:
    one = model(name="b", available=False, problem="no versions")
    merged = merged_status({1: status(one), 2: status(model(name="a"))}, 2)["models"]
    assert [found["name"] for found in merged] == ["a", "b"]
    assert merged[1]["problem"] == "no versions"
    assert not merged[1]["available"]
