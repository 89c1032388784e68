"""The roll-outs of several servers as one, and the verdict about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from ladle.rollout.fleet import NotARollout, rollouts
from ladle.rollout.guard import GOOD, HELD, NO_VERDICT, WORSE, Guard
from ladle.rollout.report import as_text

OUTPUT = {
    "rows": 100,
    "disagreeing_rows": 1,
    "top_changed": 0.01,
    "max_abs": 0.5,
    "mean_abs": 0.1,
    "max_rel": 1.0,
    "mean_rel": 0.2,
    "not_finite": 0,
    "problems": {},
    "detail": "",
}


def part(name: str, version: int, requests: int = 200, failures: int = 0, **more: Any) -> Any:
    figures = {"share": 0.5, "p50_ms": 1.0, "p99_ms": 5.0, "is_held": False, "reason": ""}
    named = {"part": name, "version": str(version), "requests": requests, "failures": failures}
    return named | figures | more


def shadow(**more: Any) -> Any:
    figures = {
        "version": "2",
        "stable": "1",
        "requests": 100,
        "failures": 0,
        "last_error": "",
        "rows": 100,
        "disagreeing_rows": 1,
        "dropped": {"busy": 2},
        "outputs": {"y": OUTPUT},
    }
    return figures | more


def server(*parts: Any, guard: Guard | None = None, shadow: Any = None, name: str = "m") -> Any:
    load = {"rollout": list(parts), "guard": asdict(guard or Guard()), "shadow": shadow}
    return {"models": [{"name": name, "load": load}, {"name": "plain", "load": None}]}


def verdict(*servers: Any) -> tuple[str, str]:
    (found,) = rollouts({f"s{number}": s for number, s in enumerate(servers)})
    return found.verdict, found.reason


def test_counts_of_servers_are_added_up() -> None:
    one = server(part("stable", 1, 1000, 10), part("canary", 2, 60, p99_ms=9.0))
    other = server(part("stable", 1, 500), part("canary", 2, 50, 1, p99_ms=7.0))
    (found,) = rollouts({"a": one, "b": other})
    stable, canary = found.parts
    assert (stable.part, stable.requests, stable.failures) == ("stable", 1500, 10)
    assert (canary.requests, canary.failures, canary.p99_ms) == (110, 1, 9.0)
    assert (found.servers, found.verdict) == (2, GOOD)
    # Neither server by itself has seen enough.
    assert verdict(one)[0] == verdict(other)[0] == NO_VERDICT


@pytest.mark.parametrize(
    ("servers", "expected", "says"),
    [
        ([server(part("stable", 1))], NO_VERDICT, "no version is on trial"),
        (
            [server(part("stable", 1), part("canary", 2, 99))],
            NO_VERDICT,
            "version 2: it had 99 requests in the last minute: expected 100",
        ),
        (
            [server(part("stable", 1), part("canary", 2, 200, 20))],
            WORSE,
            "version 2: 20 of 200 requests failed",
        ),
        (
            [
                server(part("stable", 1), part("canary", 2)),
                server(part("stable", 1), part("canary", 2, is_held=True, reason="it fails")),
            ],
            HELD,
            "s1 holds version 2: it fails",
        ),
        (
            [server(part("stable", 1), part("canary", n)) for n in (2, 3)],
            NO_VERDICT,
            "servers have different versions: stable 1, canary 2, canary 3",
        ),
        (
            [
                server(part("stable", 1), part("canary", 2), guard=Guard(min_requests=n))
                for n in (1, 2)
            ],
            NO_VERDICT,
            "servers have different guards",
        ),
    ],
)
def test_the_verdict(servers: list[Any], expected: str, says: str) -> None:
    found, reason = verdict(*servers)
    assert found == expected
    assert says in reason


def test_a_shadow_counts_where_the_guard_asks_for_it() -> None:
    strict = Guard(max_disagreement=0.05)
    parts = part("stable", 1), part("canary", 2, 0)
    assert verdict(server(*parts, guard=strict, shadow=shadow()))[0] == GOOD
    found, reason = verdict(server(*parts, guard=strict, shadow=shadow(disagreeing_rows=6)))
    assert (found, "6.00% of the rows of 100 requests" in reason) == (WORSE, True)
    found, reason = verdict(server(*parts, guard=strict, shadow=shadow(requests=99)))
    assert (found, "and 99 compared" in reason) == (NO_VERDICT, True)
    assert verdict(server(*parts, shadow=shadow()))[0] == NO_VERDICT
    other = server(*parts, guard=strict, shadow=shadow(version="3", disagreeing_rows=100))
    assert verdict(other)[0] == NO_VERDICT


def test_shadows_of_servers_are_added_up_and_means_weighted() -> None:
    twice = OUTPUT | {"rows": 300, "mean_abs": 0.5, "max_abs": 0.9, "top_changed": None}
    mine = server(part("stable", 1), shadow=shadow())
    other = server(part("stable", 1), shadow=shadow(outputs={"y": twice, "z": OUTPUT}))
    (found,) = rollouts({"a": mine, "b": other})
    (of_both,) = found.shadows
    assert (of_both.requests, of_both.rows, of_both.dropped) == (200, 200, {"busy": 4})
    output = of_both.outputs["y"]
    assert output.mean_abs == pytest.approx(0.4)
    assert (output.rows, output.max_abs) == (400, 0.9)
    assert output.top_changed == 0.01
    assert set(of_both.outputs) == {"y", "z"}


def test_models_without_a_rollout_are_left_out_and_one_can_be_named() -> None:
    two = {"models": [*server(part("stable", 1))["models"], *server(name="n")["models"]]}
    assert [r.model for r in rollouts({"a": two})] == ["m", "n"]
    assert [r.model for r in rollouts({"a": two}, "n")] == ["n"]
    assert rollouts({"a": two}, "plain") == []


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        {},
        {"models": 3},
        {"models": [{}]},
        {"models": [{"name": "m", "load": {"guard": {}, "rollout": [{}], "shadow": None}}]},
        {"models": [{"name": "m", "load": {"guard": {"x": 1}, "rollout": [], "shadow": None}}]},
        server(part("stable", 1, share="much")),
    ],
)
def test_what_is_no_status_of_a_ladle_server_is_told(answer: Any) -> None:
    with pytest.raises(NotARollout, match="s1: expected"):
        rollouts({"s1": answer})


def test_the_table_says_all_of_it() -> None:
    problems = OUTPUT | {"problems": {"shape": 3}, "detail": "expected float32 [1], got [2]"}
    given = server(
        part("stable", 1, 1200, share=0.9),
        part("canary", 2, 130, 3, share=0.1, is_held=True, reason="it fails"),
        shadow=shadow(failures=1, last_error="INTERNAL: no", outputs={"y": problems}),
    )
    text = as_text(rollouts({"a:8501": given}))
    for line in (
        "m, 1 server, the last minute:",
        "  stable         1        90 %   1,200     0, 0 %",
        "  canary (held)  2        10 %   130       3, 2.31 %",
        "version 2 as a shadow of version 1: 100 requests compared, 1.98 % of 100 rows otherwise",
        "failed there: 1, the last with INTERNAL: no",
        "not compared: 2 busy",
        "  y       1 %        1 %        0.1         0.5      0.2        1             0",
        "y: shape 3 times: expected float32 [1], got [2]",
        "held: a:8501 holds version 2: it fails",
    ):
        assert line in text
