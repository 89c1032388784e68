"""`ladle predict` from files to files, by a real server without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from batch.conftest import Batch, Model, function_model

from ladle.batch.dispatch.limiter import FIRST_LIMIT
from ladle.client import DeadlineExceeded, Overloaded, ServerError
from ladle.client.testing import FunctionServer


def test_every_row_has_its_prediction_once_in_order(batch: Batch, model: Model) -> None:
    assert batch.run("--rows-per-request", 30, "--shard-rows", 400) == 0
    batch.assert_whole()
    assert [part.name for part in sorted(batch.out.glob("part-*"))] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert max(model.rows) == 30
    assert sum(model.rows) == 1000


def test_what_is_done_is_not_done_again(batch: Batch, model: Model) -> None:
    assert batch.run() == 0
    model.rows.clear()
    assert "all was done before" not in batch.printed
    assert batch.run() == 0
    assert model.rows == []
    assert "all was done before" in batch.printed
    assert batch.run("--json") == 0
    told = json.loads(batch.printed)
    assert (told["rows"], told["failed"], told["rows_now"], told["versions"]) == (1000, 0, 0, [1])


def test_an_empty_input_makes_an_empty_output(batch: Batch) -> None:
    batch.change(np.empty((0, 4), np.uint8))
    assert batch.run() == 0
    assert batch.rows["row"] == []


def test_only_the_bad_rows_of_a_request_fail(batch: Batch) -> None:
    bad = (0, 77, 78, 400, 999)
    batch.poison(*bad)
    assert batch.run("--shard-rows", 400) == 3
    batch.assert_whole(without=bad)
    assert batch.failures == [
        {"row": row, "code": "INVALID_ARGUMENT", "reason": "the poison is in it"} for row in bad
    ]
    assert "5 failed; " in batch.printed
    assert batch.run("--shard-rows", 400) == 3, "still some failed"


def test_a_shard_whose_rows_all_fail_has_no_part(batch: Batch) -> None:
    batch.poison(*range(100, 200))
    assert batch.run("--shard-rows", 100) == 3
    batch.assert_whole(without=range(100, 200))
    assert not (batch.out / "part-00001.parquet").exists()
    assert len(batch.failures) == 100


def test_a_server_that_takes_smaller_requests_gets_them(batch: Batch, model: Model) -> None:
    def refuse(rows: int) -> None:
        if rows > 16:
            raise ServerError("too many", code=grpc.StatusCode.INVALID_ARGUMENT)

    model.before = refuse
    assert batch.run("--rows-per-request", 64, "--max-in-flight", 2) == 0
    batch.assert_whole()
    refused = [rows for rows in model.rows if rows > 16]
    assert len(refused) < 10, "later requests are cut to a size that works"


def test_a_model_too_slow_for_large_requests_gets_small_ones(batch: Batch, model: Model) -> None:
    def take_too_long(rows: int) -> None:
        if rows > 16:
            raise DeadlineExceeded("too slow")

    model.before = take_too_long
    assert batch.run("--rows-per-request", 64, "--max-in-flight", 1) == 0
    batch.assert_whole()


def test_a_busy_server_gets_fewer_requests_at_a_time_and_loses_none(
    batch: Batch, model: Model
) -> None:
    lock = threading.Lock()
    inside = refusals = 0
    gate = threading.Barrier(FIRST_LIMIT)
    has_met = threading.Event()

    def take_one_at_a_time(rows: int) -> None:
        nonlocal inside, refusals
        if not has_met.is_set():
            gate.wait(10)  # the first requests are there at once, and too many
            has_met.set()
        with lock:
            if not refusals or inside:
                refusals += 1
                raise Overloaded("full")
            inside += 1
        with lock:
            inside -= 1

    model.before = take_one_at_a_time
    assert batch.run("--rows-per-request", 50) == 0
    assert refusals > 0
    batch.assert_whole()


def test_of_two_servers_one_may_die(batch: Batch, model: Model, server: FunctionServer) -> None:
    def die(rows: int) -> None:
        if sum(model.rows) > 400:
            threading.Thread(target=server.stop).start()

    other = Model()
    model.before = die
    with FunctionServer({"m": function_model(other)}) as second:
        both = ("--server", f"{server.address},{second.address}")
        assert batch.run("--rows-per-request", 20, *both) == 0
    batch.assert_whole()
    assert sum(model.rows) > 400
    assert sum(other.rows) > 400


@pytest.mark.parametrize("extra", [(), ("--restart",)])
def test_a_folder_with_other_files_is_left_alone(batch: Batch, extra: tuple[str, ...]) -> None:
    batch.out.mkdir()
    theirs = batch.out / "part-00000.parquet"
    theirs.write_text("somebody's")
    assert batch.run(*extra) == 1
    assert 'expected an empty folder or one of ladle predict, found "part-00000.parquet"' in (
        batch.error
    )
    assert theirs.read_text() == "somebody's"
    assert [*batch.out.iterdir()] == [theirs], "there is no lock either"


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--help",), ("--restart", "--json")])
def test_a_broken_pipe_ends_quietly(
    batch: Batch, server: FunctionServer, arguments: tuple[str, ...]
) -> None:
    """As with `ladle predict ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ladle.cli", "predict", "--server", server.address]
    command += ["--model", "m", "--input", str(batch.npy), "--output", str(batch.out)]
    try:
        done = subprocess.run(
            [*command, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    told = [line for line in done.stderr.decode().splitlines() if "health_check" not in line]
    assert (done.returncode, told) == (0, [])
