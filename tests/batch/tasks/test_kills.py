"""Workers that are killed anywhere, and that do the same at once: every row is there once."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch.tasks.conftest import MakeWorkers, Workers, as_npy, numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import FakeStore

from ladle.batch.output import folder
from ladle.batch.tasks.commit import Commit
from ladle.client.testing import FunctionModel, FunctionServer

KILLED = Path(__file__).parents[1] / "programs" / "killed.py"
COUNT = 3
BAD = frozenset((4, 17))


class Killed(BaseException):
    """Ends a worker without a chance to tidy up, as far as that goes within a process."""


# What happens to a worker: at which step another one runs, and at which step it is killed.
Fate = tuple[int, int | None, int | None]
FATES = st.lists(
    st.tuples(
        st.integers(0, COUNT - 1),
        st.none() | st.integers(1, 30),
        st.none() | st.integers(1, 30),
    ),
    max_size=6,
)


def let_run(workers: Workers, fates: Iterator[Fate]) -> None:
    """Start a worker; in the middle of it, where its fate says so, the next one runs."""
    fate = next(fates, None)
    if fate is None:
        return
    index, other_at, killed_at = fate
    steps = 0

    def on_step(_step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == other_at:
            let_run(workers, fates)
        if steps == killed_at:
            raise Killed

    with suppress(Killed):
        workers.run(index, COUNT, on_step)
    assert_commits_hold(workers)


def assert_commits_hold(workers: Workers) -> None:
    """What is committed is there, byte for byte as long as the commit says."""
    files = workers.files()
    for name, data in files.items():
        if name.startswith("_tasks/"):
            for file in Commit.from_json(data).files:
                assert len(files[file.name]) == file.size


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 40), fates=FATES)
def test_whoever_is_killed_and_whatever_is_done_twice_every_row_is_there_once(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch, rows: int, fates: list[Fate]
) -> None:
    # A process that is gone removes nothing.
    monkeypatch.setattr(folder.ShardFiles, "discard", folder.ShardFiles.close)
    bad = frozenset(row for row in BAD if row < rows)
    make_workers.count = getattr(make_workers, "count", 0) + 1  # type: ignore[attr-defined]
    name = f"out{make_workers.count}"  # type: ignore[attr-defined]
    workers = make_workers({"x.npy": as_npy(numbers(rows, bad))}, name)
    remaining = iter(fates)
    for _ in fates:
        let_run(workers, remaining)
    summary = workers.run()
    assert (summary.rows, summary.failed) == (rows, len(bad))
    workers.assert_whole(rows, bad)
    before = workers.files()
    assert workers.run(1, COUNT).rows_now == 0
    assert workers.files() == before


@pytest.mark.parametrize("is_killed", [False, True])
def test_at_every_step_of_a_worker_another_may_do_all(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    monkeypatch.setattr(folder.ShardFiles, "discard", folder.ShardFiles.close)
    at, rows = 0, 15
    has_ended = False
    while not has_ended:
        at += 1
        steps: list[str] = []
        workers = make_workers({"x.npy": as_npy(numbers(rows, BAD - {17}))}, f"out{at}")

        on_step = partial(meanwhile, workers, steps, at, is_killed)
        with suppress(Killed):
            workers.run(0, 2, on_step)
        assert_commits_hold(workers)
        has_ended = len(steps) < at
        assert workers.run().rows == rows
        workers.assert_whole(rows, BAD - {17})
    assert at > 12  # three tasks, each of several steps


def meanwhile(workers: Workers, steps: list[str], at: int, is_killed: bool, step: str) -> None:
    """At one step of a worker let another one do all, and kill the first."""
    steps.append(step)
    if len(steps) == at:
        workers.run(1, 2)
        if is_killed:
            raise Killed


def test_twenty_workers_at_once_and_killed_at_random_leave_every_row_once(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder.ShardFiles, "discard", folder.ShardFiles.close)
    # Not numpy's files: many threads that read their headers at once can fail within CPython 3.11.
    file = io.BytesIO()
    pq.write_table(pa.table({"x": numbers(300, BAD)}), file, row_group_size=7)
    workers = make_workers({"x.parquet": file.getvalue()})
    random = Random(7)

    def run(index: int, killed_at: int) -> None:
        steps = 0

        def on_step(_step: str) -> None:
            nonlocal steps
            steps += 1
            if steps == killed_at:
                raise Killed

        with suppress(Killed):
            workers.run(index, 20, on_step)

    with ThreadPoolExecutor(20) as threads:
        # Each is started twice, and some never get to their end.
        doomed = [threads.submit(run, n % 20, random.randint(1, 40)) for n in range(40)]
        for one in doomed:
            one.result()
    assert_commits_hold(workers)
    assert workers.run().rows == 300
    workers.assert_whole(300, BAD)


def test_processes_that_are_killed_leave_every_row_once(tmp_path: Path) -> None:
    x = numbers(60)
    np.save(tmp_path / "x.npy", x)
    model = FunctionModel(
        lambda inputs: {"twice": 2 * inputs["x"]},
        inputs={"x": ("float32", (-1,))},
        outputs={"twice": ("float32", (-1,))},
    )
    with FunctionServer({"m": model}) as server:
        arguments = ["--server", server.address, "--model", "m", "--input", str(tmp_path / "x.npy")]
        arguments += ["--output", str(tmp_path / "out"), "--output-format", "jsonl"]
        arguments += ["--shard-rows", "7", "--quiet", "--task"]
        program = [sys.executable, str(KILLED)]

        def start(step: str, task: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*program, step, "1", *arguments, task])

        # Two that are the same one, at once, and a third.
        doomed = [
            start("shard in place", "0/3"),
            start("part in place", "0/3"),
            start("committed", "2/3"),
        ]
        assert {process.wait(180) for process in doomed} <= {-signal.SIGKILL, 0}
        last = [start("never", "1/3"), start("never", "1/3")]
        assert [process.wait(180) for process in last] == [0, 0]
    Workers((), tmp_path / "out", FakeStore()).assert_whole(60)
