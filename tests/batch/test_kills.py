"""Whatever ends a run, and wherever: the next one ends with every row once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch.conftest import POISON, Predict
from numpy.typing import NDArray

from ladle.batch.dispatch.options import Options
from ladle.batch.execute import execute
from ladle.batch.job import Job
from ladle.batch.output import folder
from ladle.client import Client, Retry
from ladle.client.testing import FunctionServer

KILLED = Path(__file__).with_name("programs") / "killed.py"
STEPS = (
    "rows written",
    "shard written",
    "shard in place",
    "manifest written",
    "manifest in place",
)


class Cut(BaseException):
    """Ends a run without a chance to tidy up, as far as that goes within a process."""


def content(path: Path) -> dict[str, bytes]:
    """Return all that is in a folder, by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(params=["parquet"])
def output_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def undisturbed(
    predict: Predict, npy: Path, x: NDArray[Any], tmp_path: Path, output_format: str
) -> dict[str, bytes]:
    """What an undisturbed run makes of an input with two bad rows."""
    x[[3, 700], 0] = POISON
    np.save(npy, x)
    arguments = ("--input", npy, "--output-format", output_format, "--shard-rows", 200)
    assert predict(*arguments, "--output", tmp_path / "whole") == 3
    return content(tmp_path / "whole")


@pytest.mark.parametrize("output_format", ["jsonl"], indirect=True)  # starts without pyarrow
def test_killed_five_times_the_output_is_that_of_an_undisturbed_run(
    undisturbed: dict[str, bytes], server: FunctionServer, npy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--server", server.address, "--model", "m", "--input", str(npy)]
    arguments += ["--output", str(out)]
    arguments += ["--shard-rows", "200", "--output-format", "jsonl"]

    def run(step: str, count: int) -> int:
        program = [sys.executable, str(KILLED), step, str(count)]
        return subprocess.run([*program, *arguments], capture_output=True, timeout=60).returncode

    for count, step in zip((1, 2, 1, 1, 2), STEPS, strict=True):
        assert run(step, count) == -signal.SIGKILL, step
    assert run("never", 1) == 3
    assert content(out) == undisturbed


@pytest.mark.parametrize("step", STEPS)
def test_cut_off_at_any_time_it_goes_on(
    undisturbed: dict[str, bytes],
    server: FunctionServer,
    npy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """Each run may take one such step more than the one before."""
    # A process that is gone removes nothing.
    monkeypatch.setattr(folder.ShardFiles, "discard", folder.ShardFiles.close)
    wanted = Job(
        model="m",
        inputs=(str(npy),),
        output=tmp_path / "out",
        options=Options(shard_rows=200),
    )

    def connect(retries: bool) -> Client:
        return Client(server.address, retry=Retry() if retries else Retry(max_attempts=1))

    def cut_at(count: int) -> Callable[[str], None]:
        def on_step(name: str) -> None:
            nonlocal count
            count -= name == step
            if not count:
                raise Cut

        return on_step

    cuts = 0
    while True:
        try:
            summary = execute(wanted, connect, on_step=cut_at(cuts + 1))
            break
        except Cut:
            cuts += 1
        assert cuts < 20
    assert cuts >= 2
    assert (summary.rows, summary.failed) == (1000, 2)
    assert content(tmp_path / "out") == undisturbed
