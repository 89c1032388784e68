"""Roll-outs as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from ladle.rollout.fleet import Output, Part, Rollout, Shadow


def as_text(rollouts: Sequence[Rollout]) -> str:
    """Return a table for each roll-out, its verdict last."""
    return "\n\n".join(map(_rollout, rollouts))


def _rollout(rollout: Rollout) -> str:
    where = "1 server" if rollout.servers == 1 else f"{rollout.servers} servers"
    titles = ("part", "version", "share", "requests", "failures", "median", "99 %")
    lines = [f"{rollout.model}, {where}, the last minute:"]
    lines += _table([titles, *map(_part, rollout.parts)])
    for shadow in rollout.shadows:
        lines += ["", *_shadow(shadow)]
    return "\n".join([*lines, "", f"{rollout.verdict}: {rollout.reason}"])


def _part(part: Part) -> Sequence[str]:
    low, high = min(part.shares), max(part.shares)
    share = _percent(high) if low == high else f"{_percent(low)} to {_percent(high)}"
    return (
        part.part + (" (held)" if part.held else ""),
        part.version,
        share,
        f"{part.requests:,}",
        f"{part.failures:,}, {_percent(part.failures / part.requests)}" if part.requests else "-",
        _ms(part.p50_ms),
        _ms(part.p99_ms),
    )


def _shadow(shadow: Shadow) -> list[str]:
    lines = [
        f"version {shadow.version} as a shadow of version {shadow.stable}: "
        f"{shadow.requests:,} requests compared, {_percent(shadow.disagreement)} of "
        f"{shadow.rows:,} rows otherwise"
    ]
    if shadow.failures:
        lines.append(f"failed there: {shadow.failures:,}, the last with {shadow.last_error}")
    if shadow.dropped:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in shadow.dropped.items())
        lines.append(f"not compared: {dropped}")
    if shadow.outputs:
        titles = (
            "output",
            "otherwise",
            "other top",
            "mean diff.",
            "largest",
            "mean rel.",
            "largest rel.",
        )
        rows = [_output(name, output) for name, output in shadow.outputs.items()]
        lines += _table([(*titles, "not finite"), *rows])
    lines += [
        f"{name}: {problem} {count:,} times: {output.detail}"
        for name, output in shadow.outputs.items()
        for problem, count in output.problems.items()
    ]
    return lines


def _output(name: str, output: Output) -> Sequence[str]:
    return (
        name,
        _percent(output.disagreeing_rows / max(1, output.rows)),
        "-" if output.top_changed is None else _percent(output.top_changed),
        *(
            "-" if value is None else f"{value:.3g}"
            for value in (output.mean_abs, output.max_abs, output.mean_rel, output.max_rel)
        ),
        f"{output.not_finite:,}",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms"
