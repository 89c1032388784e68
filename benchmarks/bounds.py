"""What a request costs over each transport, beside an echo in C++: `benchmarks/bounds.py`.

All servers take their turns in one run, each pinned to the same core, so the ratios hold on a
machine that is busy with other work. Without Debian's libgrpc++-dev the bound is the echo of the
native transport.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import PREDICT, ROWS, Row, checked_answer, request_of
from harness import cpp_echo, load, model
from process import ServerProcess

_ROUND_S = 0.5
"""What one turn of one server takes, about."""


@dataclass(frozen=True)
class Turn:
    """What one server did in its turn; times are those of one request."""

    requests_per_s: float
    cpu_us: float
    python_us: float
    p50_ms: float


def main() -> None:
    """Measure, and print a table for each kind of traffic."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        for row in ROWS:
            if not row.messages and arguments.only in f"{row.name} {row.in_flight}":
                _compare(row, base_path, arguments.rounds)


def _compare(row: Row, base_path: Path, rounds: int) -> None:
    request = request_of(row)
    with ExitStack() as processes:
        ladle = {
            f"ladle, {name}": processes.enter_context(
                ServerProcess("ladle", str(base_path), f"--transport={name}")
            )
            for name in ("native", "grpcio")
        }
        answer = base_path.parent / "answer"
        answer.write_bytes(checked_answer(ladle["ladle, native"].port, request, row))
        servers = {
            "echo, native": processes.enter_context(ServerProcess("echo", str(answer), "native")),
            **ladle,
        }
        if program := cpp_echo.built():
            bound = ServerProcess(str(answer), program=[str(program)])
            servers = {"echo, C++": processes.enter_context(bound), **servers}
        turns: dict[str, list[Turn]] = {name: [] for name in servers}
        for number in range(rounds + 1):
            for name, server in servers.items():
                count = max(200, row.requests // 10)
                if turns[name]:
                    count = int(turns[name][-1].requests_per_s * _ROUND_S) or 1
                method = "/echo/Unary" if name.startswith("echo") else PREDICT
                turn = _turn(server, method, request, count, row.in_flight)
                # The first round warms up, and says how many requests a turn has.
                turns[name] = [*turns[name], turn] if number != 1 else [turn]
    _show(row, turns)


def _turn(server: ServerProcess, method: str, request: bytes, count: int, in_flight: int) -> Turn:
    before = server.used()
    loaded = load.send(server.port, method, [request], count, in_flight)
    used = server.used().since(before)
    return Turn(
        requests_per_s=count / loaded.seconds,
        cpu_us=used.cpu_s / count * 1e6,
        python_us=used.python_s / count * 1e6,
        p50_ms=loaded.percentile_ms(50),
    )


def _show(row: Row, turns: Mapping[str, Sequence[Turn]]) -> None:
    bound = next(iter(turns))
    print(f"{row.name}, {row.in_flight} in flight; ratios are to {bound}, turn by turn")
    print(
        f"  {'':16}{'req/s':>9}{'ratio':>7}{'cpu µs':>9}{'ratio':>7}{'python µs':>11}"
        f"{'p50 ms':>9}{'ratio':>7}"
    )
    for name, all_of_it in turns.items():
        print(
            f"  {name:16}{_median(all_of_it, 'requests_per_s'):9.0f}"
            f"{_ratio(all_of_it, turns[bound], 'requests_per_s'):7.2f}"
            f"{_median(all_of_it, 'cpu_us'):9.1f}{_ratio(all_of_it, turns[bound], 'cpu_us'):7.2f}"
            f"{_median(all_of_it, 'python_us'):11.1f}"
            f"{_median(all_of_it, 'p50_ms'):9.2f}{_ratio(all_of_it, turns[bound], 'p50_ms'):7.2f}",
            flush=True,
        )


def _median(turns: Sequence[Turn], name: str) -> float:
    return float(statistics.median(getattr(turn, name) for turn in turns))


def _ratio(turns: Sequence[Turn], bound: Sequence[Turn], name: str) -> float:
    pairs = zip(turns, bound, strict=True)
    ratios = [getattr(turn, name) / getattr(its, name) for turn, its in pairs]
    return float(statistics.median(ratios))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each server (default 7)")
    parser.add_argument("--only", default="", help="rows with this text in name and load")
    return parser


if __name__ == "__main__":
    main()
