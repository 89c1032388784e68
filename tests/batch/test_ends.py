"""What ends a run of `ladle predict` before its last row is told in one line."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from batch.conftest import Batch, Model, function_model

from ladle.batch.output import folder
from ladle.client import ServerError
from ladle.client.testing import FunctionServer

LIMITED = Path(__file__).with_name("programs") / "limited.py"


def test_a_run_whose_first_rows_all_fail_ends(batch: Batch, model: Model) -> None:
    def fail(rows: int) -> None:
        raise ServerError("broken")

    model.before = fail
    assert batch.run() == 1
    assert "the first 200 rows all failed, which --max-failed would allow; row 0: broken" in (
        batch.error
    )


def test_a_run_ends_when_more_rows_fail_than_may(batch: Batch) -> None:
    batch.poison(5, 6, 7)
    assert batch.run("--max-failed", 2) == 1
    assert "more than 2 rows failed" in batch.error
    assert batch.run("--max-failed", 3) == 3


def test_a_server_that_is_gone_ends_the_run(
    batch: Batch, model: Model, server: FunctionServer
) -> None:
    answered = 0

    def die(rows: int) -> None:
        nonlocal answered
        answered += rows
        if answered > 600:
            threading.Thread(target=server.stop).start()

    model.before = die
    arguments = ("--rows-per-request", 50, "--shard-rows", 100, "--max-in-flight", 1)
    assert batch.run(*arguments, "--patience", "0.2") == 1
    told = batch.error
    assert re.match(r"ladle predict: no answer for \d+ s: Predict at 127\.0\.0\.1:", told)
    assert 500 <= batch.manifest["rows"] <= 700
    assert not batch.manifest["is_complete"]


def test_no_server_ends_the_run_before_anything_is_written(batch: Batch) -> None:
    assert batch.run("--server", "127.0.0.1:1", "--timeout", "5") == 1
    assert batch.error.startswith("ladle predict: GetModelMetadata at 127.0.0.1:1: UNAVAILABLE")
    assert not batch.out.exists()


def test_two_processes_do_not_write_to_one_folder(batch: Batch) -> None:
    with folder.OutputFolder(batch.out):
        assert batch.run() == 1
    assert "another process is writing to it" in batch.error


def test_a_file_system_without_locks_is_told(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert batch.run() == 1
    told = batch.error
    assert "expected a file system with locks" in told
    assert told.endswith("No locks available\n")


def test_a_full_disk_loses_nothing(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, synced = folder.sync, 0

    def fill_up(file: Any) -> None:
        nonlocal synced
        synced += 1
        if synced > 5:  # the manifest, two shards, each with the manifest after it
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        sync(file)

    monkeypatch.setattr(folder, "sync", fill_up)
    assert batch.run("--shard-rows", 200) == 1
    assert batch.error == (
        f"ladle predict: {batch.out}: No space left on device; 400 rows are done, and the same "
        "command goes on after them\n"
    )
    monkeypatch.undo()
    assert not list(batch.out.glob(".part*")), "what was begun is removed, to make room"
    assert batch.run("--shard-rows", 200) == 0
    batch.assert_whole()


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl", "npy"])
@pytest.mark.parametrize("limit", [2_500, 4_000])
def test_a_disk_that_takes_no_more_is_one_line_and_the_run_goes_on_later(
    batch: Batch, server: FunctionServer, output_format: str, limit: int
) -> None:
    """By a limit of the system, which fails writes in the middle as a full disk does."""
    arguments = ["--server", server.address, "--model", "m", "--input", str(batch.npy)]
    arguments += ["--output", str(batch.out), "--output-format", output_format]
    arguments += ["--rows-per-request", "50", "--quiet"]
    limited = subprocess.run(
        [sys.executable, str(LIMITED), str(limit), *arguments, "--shard-rows", "1000"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (limited.returncode, limited.stdout) == (1, "")
    assert limited.stderr.splitlines()[-1] == (
        f"ladle predict: {batch.out}: File too large; 0 rows are done, and the same command goes "
        "on after them"
    )
    assert "Traceback" not in limited.stderr
    assert "Exception ignored" not in limited.stderr
    assert not list(batch.out.glob(".part*"))
    assert batch.run("--output-format", output_format) == 0
    assert batch.manifest["rows"] == 1000


def test_an_output_that_is_no_row_for_each_input_is_told(
    batch: Batch, model: Model, server: FunctionServer
) -> None:
    declared = function_model(model)
    server.models["m"] = replace(declared, run=lambda inputs: {"count": [len(inputs["x"])]})
    assert batch.run("--rows-per-request", 500) == 1
    assert 'output "count": expected 500 rows for as many inputs, got shape [1]' in batch.error


def test_an_input_that_changes_while_it_is_read_is_told(batch: Batch, model: Model) -> None:
    model.before = lambda rows: np.save(batch.npy, batch.x[::-1])
    assert batch.run() == 1
    assert "the input was changed while it was read" in batch.error


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl", "npy"])
def test_a_run_that_ends_amid_a_shard_leaves_nothing_of_it(
    batch: Batch, model: Model, monkeypatch: pytest.MonkeyPatch, output_format: str
) -> None:
    """Files are closed under writers that have begun to write, and that nobody has ended."""

    def stop(rows: int) -> None:
        if sum(model.rows) > 700:
            raise ServerError("enough", code=grpc.StatusCode.NOT_FOUND)

    model.before = stop
    monkeypatch.setattr("ladle.batch.writers.parquet.ROWS_IN_GROUP", 60)
    arguments = ("--rows-per-request", 50, "--shard-rows", 400, "--max-in-flight", 1)
    assert batch.run(*arguments, "--output-format", output_format) == 1
    parts = {file.name for file in batch.out.iterdir() if file.name[0] != "_"}
    assert parts
    assert all(name.startswith("part-00000") for name in parts)
    assert "enough" in batch.error
