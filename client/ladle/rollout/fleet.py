"""The roll-outs of several servers as one: what their status pages say, added up; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ladle.rollout.guard import HELD, NO_VERDICT, Figures, Guard, verdict


class NotARollout(ValueError):
    """A server's answer is none of a ladle server of this version."""


@dataclass(kw_only=True)
class Part:
    """One version's requests of the last minute, at all servers."""

    part: str
    """`stable` or `canary`."""
    version: str
    shares: list[float] = field(default_factory=list)
    """Of the requests that name no version, from 0 to 1: at each server."""
    requests: int = 0
    failures: int = 0
    p50_ms: float | None = None
    """The highest of all servers, as the next."""
    p99_ms: float | None = None
    held: dict[str, str] = field(default_factory=dict)
    """By server that holds it: why."""


@dataclass(kw_only=True)
class Output:
    """One output of a shadow beside that of stable; as the server's `OutputSnapshot`."""

    rows: int = 0
    disagreeing_rows: int = 0
    top_changed: float | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    max_rel: float | None = None
    mean_rel: float | None = None
    not_finite: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    detail: str = ""


@dataclass(kw_only=True)
class Shadow:
    """A version that answers nobody, compared with stable, at all servers."""

    version: str
    stable: str
    requests: int = 0
    failures: int = 0
    last_error: str = ""
    rows: int = 0
    disagreeing_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)

    @property
    def disagreement(self) -> float:
        """The part of rows that came out otherwise, from 0 to 1; a failure counts as one row."""
        return (self.disagreeing_rows + self.failures) / max(1, self.rows + self.failures)


@dataclass(kw_only=True)
class Rollout:
    """A model's roll-out at all servers that have one."""

    model: str
    verdict: str
    """GOOD, WORSE, HELD or NO_VERDICT of the guard."""
    reason: str
    """Why, in a sentence."""
    servers: int
    parts: list[Part]
    shadows: list[Shadow]


def rollouts(answers: Mapping[str, Any], model: str = "") -> list[Rollout]:
    """Return the roll-outs of all models, or of the one that is named, by their names.

    Args:
        answers: what each server said at `/status.json`, by its address.
        model: a name; empty for all.

    Raises:
        NotARollout: An answer is something else.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for server, answer in answers.items():
        try:
            for one in answer["models"]:
                load = one["load"] or {}
                if load.get("guard") is not None and model in ("", one["name"]):
                    found.setdefault(one["name"], {})[server] = load
        except (KeyError, TypeError, AttributeError):
            raise NotARollout(f"{server}: expected the status of a ladle server") from None
    result = []
    for name in sorted(found):
        try:
            result.append(of_model(name, found[name]))
        except (KeyError, TypeError, AttributeError, ValueError):
            servers = ", ".join(found[name])
            raise NotARollout(f"{servers}: expected figures of this version of ladle") from None
    return result


def of_model(model: str, loads: Mapping[str, Mapping[str, Any]]) -> Rollout:
    """Return the roll-out of one model.

    Args:
        model: its name.
        loads: by server, the figures that it has of the model, each with a guard.
    """
    parts = _parts(loads)
    shadows = _shadows(load["shadow"] for load in loads.values() if load["shadow"])
    guards = [Guard(**load["guard"]) for load in loads.values()]
    found, reason = _verdict(parts, shadows, guards)
    return Rollout(
        model=model,
        verdict=found,
        reason=reason,
        servers=len(loads),
        parts=parts,
        shadows=shadows,
    )


def _verdict(
    parts: Sequence[Part], shadows: Sequence[Shadow], guards: Sequence[Guard]
) -> tuple[str, str]:
    canaries = [part for part in parts if part.part == "canary"]
    stables = [part for part in parts if part.part == "stable"]
    for canary in canaries:
        for server, reason in canary.held.items():
            return HELD, f"{server} holds version {canary.version}: {reason}"
    if not canaries:
        return NO_VERDICT, "no version is on trial"
    if len(canaries) > 1 or len(stables) > 1:
        which = ", ".join(f"{part.part} {part.version}" for part in parts)
        return NO_VERDICT, f"servers have different versions: {which}"
    if any(guard != guards[0] for guard in guards):
        return NO_VERDICT, "servers have different guards"
    (canary,), guard = canaries, guards[0]
    of_canary, of_stable = _figures(canary), _figures(stables[0] if stables else None)
    of_pair = [
        shadow
        for shadow in shadows
        if shadow.version == canary.version and (not stables or shadow.stable == stables[0].version)
    ]
    if of_pair:
        most = max(of_pair, key=lambda shadow: shadow.requests)
        of_canary = of_canary._replace(compared=most.requests, disagreement=most.disagreement)
    found, reason = verdict(guard, of_canary, of_stable)
    return found, f"version {canary.version}: {reason}"


def _figures(part: Part | None) -> Figures:
    if part is None:
        return Figures(0, 0, None)
    p99_s = None if part.p99_ms is None else part.p99_ms / 1000
    return Figures(part.requests, part.failures, p99_s)


def _parts(loads: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    found: dict[tuple[str, str], Part] = {}
    for server, load in loads.items():
        for given in load["rollout"]:
            key = given["part"], given["version"]
            part = found.setdefault(key, Part(part=key[0], version=key[1]))
            part.shares.append(float(given["share"]))
            part.requests += int(given["requests"])
            part.failures += int(given["failures"])
            part.p50_ms = _largest(part.p50_ms, given["p50_ms"])
            part.p99_ms = _largest(part.p99_ms, given["p99_ms"])
            if given["is_held"]:
                part.held[server] = str(given["reason"])
    return sorted(found.values(), key=lambda part: (part.part != "stable", int(part.version)))


def _shadows(given: Iterable[Mapping[str, Any]]) -> list[Shadow]:
    found: dict[tuple[str, str], Shadow] = {}
    for one in given:
        key = one["version"], one["stable"]
        shadow = found.setdefault(key, Shadow(version=key[0], stable=key[1]))
        shadow.requests += int(one["requests"])
        shadow.failures += int(one["failures"])
        shadow.last_error = str(one["last_error"]) or shadow.last_error
        shadow.rows += int(one["rows"])
        shadow.disagreeing_rows += int(one["disagreeing_rows"])
        _add(shadow.dropped, one["dropped"])
        for name, figures in one["outputs"].items():
            _add_output(shadow.outputs.setdefault(name, Output()), figures)
    return list(found.values())


def _add_output(output: Output, given: Mapping[str, Any]) -> None:
    rows = int(given["rows"])
    for name in ("top_changed", "mean_abs", "mean_rel"):
        setattr(output, name, _mean(getattr(output, name), output.rows, given[name], rows))
    output.max_abs = _largest(output.max_abs, given["max_abs"])
    output.max_rel = _largest(output.max_rel, given["max_rel"])
    output.rows += rows
    output.disagreeing_rows += int(given["disagreeing_rows"])
    output.not_finite += int(given["not_finite"])
    _add(output.problems, given["problems"])
    output.detail = str(given["detail"]) or output.detail


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + int(count)


def _largest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(float(one), float(other))


def _mean(one: float | None, rows: int, other: float | None, more: int) -> float | None:
    """Return the mean of two means, each of so many rows."""
    if one is None or other is None:
        return other if one is None else one
    return (one * rows + float(other) * more) / max(1, rows + more)
