"""What a load test measured, as a table, as JSON and as a chart."""

from __future__ import annotations

import os
from typing import Any

from ladle.bench.load import Measured

_PERCENTILES = (0.5, 0.9, 0.99)


def as_json(measured: Measured) -> dict[str, Any]:
    """Return the figures: requests/s, rows/s, latencies in milliseconds, errors by status."""
    seconds = measured.seconds or 1.0
    latencies = measured.latencies
    return {
        "seconds": round(measured.seconds, 3),
        "requests": measured.requests,
        "requests_per_s": round(latencies.count / seconds, 1),
        "rows_per_s": round(measured.rows / seconds, 1),
        "latency_ms": {
            **{f"p{share * 100:g}": _ms(latencies.percentile(share)) for share in _PERCENTILES},
            "mean": _ms(latencies.total_s / (latencies.count or 1)),
            "max": _ms(latencies.max_s),
        },
        "errors": dict(measured.errors),
        "unsent": measured.unsent,
    }


def as_table(measured: Measured) -> str:
    """Return the figures as lines of text."""
    figures = as_json(measured)
    latency = figures["latency_ms"]
    lines = [
        f"requests/s    {figures['requests_per_s']:>12,.1f}",
        f"rows/s        {figures['rows_per_s']:>12,.1f}",
        *(f"{name + ' (ms)':<13} {latency[name]:>12,.2f}" for name in ("p50", "p90", "p99", "max")),
        f"requests      {measured.requests:>12,}",
        f"errors        {measured.errors.total():>12,}",
    ]
    for name, count in measured.errors.most_common():
        lines.append(f"  {count:,} {name}, such as: {measured.first_errors[name]}")
    if measured.unsent:
        lines.append(
            f"not sent      {measured.unsent:>12,}  (this process can't keep that rate up)"
        )
    return "\n".join(lines)


def check_plots() -> None:
    """Check that charts can be drawn, before a load test is run for one.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401


def plot(measured: Measured, path: str | os.PathLike[str], title: str) -> None:
    """Save a chart: which share of requests was answered within which time.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    times_ms, shares, so_far = [], [], 0
    for duration_s, count in measured.latencies.buckets():
        so_far += count
        times_ms.append(duration_s * 1000)
        shares.append(100 * so_far / measured.latencies.count)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(times_ms, shares, where="post")
    axes.set_xscale("log")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("answered within it (% of requests)")
    axes.set_ylim(0, 101)
    axes.grid(visible=True, alpha=0.3)
    axes.set_title(title, fontsize=9)
    figure.savefig(path)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
