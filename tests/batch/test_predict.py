"""`ladle predict` from files to files, by a real server without TensorFlow."""

from __future__ import annotations

import errno
import json
import re
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from batch.conftest import POISON, Model, Predict, answer, function_model
from numpy.typing import NDArray

from ladle.batch import folder
from ladle.batch.pace import FIRST_IN_FLIGHT
from ladle.client import DeadlineExceeded, Overloaded, ServerError
from ladle.client.testing import FunctionServer


def read(path: Path) -> dict[str, list[Any]]:
    """Return all parts of a Parquet output, one below the other."""
    rows: dict[str, list[Any]] = {"row": [], "scores": [], "total": []}
    for part in sorted(path.glob("part-*.parquet")):
        for name, values in pq.read_table(part).to_pydict().items():
            rows.setdefault(name, []).extend(values)
    return rows


def failures(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for part in sorted(path.glob("_failed-*.jsonl"))
        for line in part.read_text().splitlines()
    ]


def assert_whole(path: Path, x: NDArray[Any], without: tuple[int, ...] = ()) -> None:
    """Every row is there once, in order, with the answer to it."""
    numbers = [row for row in range(len(x)) if row not in without]
    found = read(path)
    expected = answer(x[numbers])
    assert found["row"] == numbers
    assert found["total"] == expected["total"].tolist()
    assert found["scores"] == expected["scores"].tolist()
    assert json.loads((path / "_manifest.json").read_text())["is_complete"]


def test_every_row_has_its_prediction_once_in_order(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status = predict("--input", npy, "--output", out, "--rows-per-request", 30, "--shard-rows", 400)
    assert status == 0
    assert_whole(out, x)
    assert [part.name for part in sorted(out.glob("part-*"))] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert max(model.rows) == 30
    assert sum(model.rows) == 1000


def test_what_is_done_is_not_done_again(
    predict: Predict, model: Model, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--input", npy, "--output", tmp_path / "out")
    assert predict(*arguments) == 0
    model.rows.clear()
    capsys.readouterr()
    assert predict(*arguments) == 0
    assert model.rows == []
    assert "all was done before" in capsys.readouterr().out
    assert predict(*arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["failed"], told["rows_now"], told["versions"]) == (1000, 0, 0, [1])


def test_only_the_bad_rows_of_a_request_fail(
    predict: Predict,
    x: NDArray[Any],
    npy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = (0, 77, 78, 400, 999)
    x[list(bad), 0] = POISON
    np.save(npy, x)
    out = tmp_path / "out"
    assert predict("--input", npy, "--output", out, "--shard-rows", 400) == 3
    assert_whole(out, x, without=bad)
    assert failures(out) == [
        {"row": row, "code": "INVALID_ARGUMENT", "reason": "the poison is in it"} for row in bad
    ]
    assert "5 failed; " in capsys.readouterr().out
    assert predict("--input", npy, "--output", out, "--shard-rows", 400) == 3, "still some failed"


def test_a_shard_whose_rows_all_fail_has_no_part(
    predict: Predict, x: NDArray[Any], npy: Path, tmp_path: Path
) -> None:
    x[100:200, 0] = POISON
    np.save(npy, x)
    out = tmp_path / "out"
    assert predict("--input", npy, "--output", out, "--shard-rows", 100) == 3
    assert_whole(out, x, without=tuple(range(100, 200)))
    assert not (out / "part-00001.parquet").exists()
    assert len(failures(out)) == 100


def test_a_run_whose_first_rows_all_fail_ends(
    predict: Predict, model: Model, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(rows: int) -> None:
        raise ServerError("broken")

    model.before = fail
    assert predict("--input", npy, "--output", tmp_path / "out") == 1
    assert "the first 200 rows all failed, which --max-failed would allow; row 0: broken" in (
        capsys.readouterr().err
    )


def test_a_run_ends_when_more_rows_fail_than_may(
    predict: Predict,
    x: NDArray[Any],
    npy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    x[[5, 6, 7], 0] = POISON
    np.save(npy, x)
    out = tmp_path / "out"
    assert predict("--input", npy, "--output", out, "--max-failed", 2) == 1
    assert "more than 2 rows failed" in capsys.readouterr().err
    assert predict("--input", npy, "--output", out, "--max-failed", 3) == 3


def test_a_server_that_takes_smaller_requests_gets_them(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    def refuse(rows: int) -> None:
        if rows > 16:
            raise ServerError("too many", code=grpc.StatusCode.INVALID_ARGUMENT)

    model.before = refuse
    out = tmp_path / "out"
    arguments = ("--input", npy, "--output", out, "--rows-per-request", 64, "--max-in-flight", 2)
    assert predict(*arguments) == 0
    assert_whole(out, x)
    refused = [rows for rows in model.rows if rows > 16]
    assert len(refused) < 10, "later requests are cut to a size that works"


def test_a_busy_server_gets_fewer_requests_at_a_time_and_loses_none(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    lock = threading.Lock()
    inside = refusals = 0
    gate = threading.Barrier(FIRST_IN_FLIGHT)
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
    out = tmp_path / "out"
    assert predict("--input", npy, "--output", out, "--rows-per-request", 50) == 0
    assert refusals > 0
    assert_whole(out, x)


def test_a_server_that_is_gone_ends_the_run_in_one_line(
    predict: Predict,
    model: Model,
    server: FunctionServer,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    answered = 0

    def die(rows: int) -> None:
        nonlocal answered
        answered += rows
        if answered > 600:
            threading.Thread(target=server.stop).start()

    model.before = die
    arguments = ("--input", npy, "--output", out, "--rows-per-request", 50, "--shard-rows", 100)
    assert predict(*arguments, "--patience", "0.2", "--max-in-flight", "1") == 1
    told = capsys.readouterr().err
    assert re.match(r"ladle predict: no answer for \d+ s: Predict at 127\.0\.0\.1:", told)
    assert len(told.splitlines()) == 1
    manifest = json.loads((out / "_manifest.json").read_text())
    assert 500 <= manifest["rows"] <= 700
    assert not manifest["is_complete"]


def test_no_server_is_one_line(
    npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ladle.batch import cli

    arguments = ["--server", "127.0.0.1:1", "--model", "m", "--timeout", "5"]
    arguments += ["--input", str(npy), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith("ladle predict: GetModelMetadata at 127.0.0.1:1: UNAVAILABLE")
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def begin(predict: Predict, model: Model, npy: Path, out: Path) -> None:
    """Leave a folder with the first 400 rows done."""

    def stop(rows: int) -> None:
        if sum(model.rows) > 450:
            raise ServerError("enough", code=grpc.StatusCode.NOT_FOUND)

    model.before = stop
    arguments = ("--input", npy, "--output", out, "--rows-per-request", 50, "--shard-rows", 200)
    assert predict(*arguments, "--max-in-flight", 1) == 1
    assert json.loads((out / "_manifest.json").read_text())["rows"] == 400
    model.before = lambda rows: None


def test_a_run_goes_on_where_the_one_before_ended(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin(predict, model, npy, out)
    model.rows.clear()
    assert predict("--input", npy, "--output", out, "--shard-rows", 200) == 0
    assert sum(model.rows) == 600
    assert_whole(out, x)


def test_a_changed_input_is_refused_unless_allowed(
    predict: Predict,
    model: Model,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    begin(predict, model, npy, out)
    capsys.readouterr()
    longer = np.concatenate([x, x[:5]])
    np.save(npy, longer)
    arguments = ("--input", npy, "--output", out, "--shard-rows", 200)
    assert predict(*arguments) == 1
    assert "the input has changed since 400 of its rows were done" in capsys.readouterr().err
    assert predict(*arguments, "--allow-changed-input") == 0
    assert_whole(out, longer)


def test_rows_added_to_an_input_that_was_done_are_predicted(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    arguments = ("--input", npy, "--output", tmp_path / "out")
    assert predict(*arguments) == 0
    model.rows.clear()
    longer = np.concatenate([x, x[:5]])
    np.save(npy, longer)
    assert predict(*arguments, "--allow-changed-input") == 0
    assert sum(model.rows) == 5
    assert_whole(tmp_path / "out", longer)


def test_another_version_is_refused_unless_allowed(
    predict: Predict,
    model: Model,
    server: FunctionServer,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    begin(predict, model, npy, out)
    server.models["m"] = function_model(model, version=2)
    capsys.readouterr()
    arguments = ("--input", npy, "--output", out, "--shard-rows", 200)
    assert predict(*arguments) == 1
    assert "version 1 of the model answered 400 rows and version 2 is served now" in (
        capsys.readouterr().err
    )
    assert predict(*arguments, "--allow-changed-model", "--json") == 0
    assert json.loads(capsys.readouterr().out)["versions"] == [1, 2]
    assert_whole(out, x)


def test_a_version_that_takes_over_amid_a_run_ends_it(
    predict: Predict,
    model: Model,
    server: FunctionServer,
    npy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def swap(rows: int) -> None:
        if sum(model.rows) > 300:
            server.models["m"] = function_model(model, version=2)

    model.before = swap
    arguments = ("--input", npy, "--output", tmp_path / "out", "--rows-per-request", 50)
    assert predict(*arguments, "--shard-rows", 100) == 1
    assert "--allow-changed-model goes on with it" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert {version for shard in manifest["shards"] for version in shard["versions"]} == {1}


def test_other_settings_are_refused_and_restart_begins_anew(
    predict: Predict,
    model: Model,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    begin(predict, model, npy, out)
    capsys.readouterr()
    arguments = ("--input", npy, "--output", out, "--outputs", "total", "--shard-rows", 500)
    assert predict(*arguments) == 1
    assert 'another outputs: [], not ["total"]; --restart' in capsys.readouterr().err
    assert predict(*arguments, "--restart") == 0
    assert read(out)["total"] == answer(x)["total"].tolist()
    assert read(out)["scores"] == []
    assert len(list(out.glob("part-*"))) == 2, "nothing is left of the run before"


@pytest.mark.parametrize("extra", [(), ("--restart",)])
def test_a_folder_with_other_files_is_left_alone(
    predict: Predict,
    npy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part-00000.parquet").write_text("somebody's")
    assert predict("--input", npy, "--output", out, *extra) == 1
    assert 'expected an empty folder or one of ladle predict, found "part-00000.parquet"' in (
        capsys.readouterr().err
    )
    assert (out / "part-00000.parquet").read_text() == "somebody's"
    assert len(list(out.iterdir())) == 1, "and gets no lock either"


def test_two_processes_do_not_write_to_one_folder(
    predict: Predict, npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder.OutputFolder(tmp_path / "out"):
        assert predict("--input", npy, "--output", tmp_path / "out") == 1
    assert "another process is writing to it" in capsys.readouterr().err


def test_a_file_system_without_locks_is_told(
    predict: Predict,
    npy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert predict("--input", npy, "--output", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "expected a file system with locks" in told
    assert told.endswith("No locks available\n")


def test_a_full_disk_is_one_line_and_loses_nothing(
    predict: Predict,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    sync, synced = folder._sync, 0

    def fill_up(file: Any) -> None:
        nonlocal synced
        synced += 1
        if synced > 5:  # the manifest, two shards, each with the manifest after it
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        sync(file)

    monkeypatch.setattr(folder, "_sync", fill_up)
    arguments = ("--input", npy, "--output", out, "--shard-rows", 200)
    assert predict(*arguments) == 1
    told = capsys.readouterr().err
    assert told == (
        f"ladle predict: {out}: No space left on device; 400 rows are done, and the same command "
        "goes on after them\n"
    )
    monkeypatch.undo()
    assert not list(out.glob(".part*")), "what was begun is removed, to make room"
    assert predict(*arguments) == 0
    assert_whole(out, x)


def test_an_output_that_is_no_row_for_each_input_is_told(
    predict: Predict,
    model: Model,
    server: FunctionServer,
    npy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dataclasses import replace

    declared = function_model(model)
    server.models["m"] = replace(declared, run=lambda inputs: {"count": [len(inputs["x"])]})
    arguments = ("--input", npy, "--output", tmp_path / "out", "--rows-per-request", 500)
    assert predict(*arguments) == 1
    assert 'output "count": expected 500 rows for as many inputs, got shape [1]' in (
        capsys.readouterr().err
    )


def test_an_input_that_changes_while_it_is_read_is_told(
    predict: Predict,
    model: Model,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model.before = lambda rows: np.save(npy, x[::-1])
    assert predict("--input", npy, "--output", tmp_path / "out") == 1
    assert "the input was changed while it was read" in capsys.readouterr().err


def test_an_empty_input_makes_an_empty_output(predict: Predict, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 4), np.uint8))
    assert predict("--input", tmp_path / "x.npy", "--output", tmp_path / "out") == 0
    assert read(tmp_path / "out")["row"] == []


def test_of_two_servers_one_may_die(
    predict: Predict,
    model: Model,
    server: FunctionServer,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
) -> None:
    def die(rows: int) -> None:
        if sum(model.rows) > 400:
            threading.Thread(target=server.stop).start()

    other = Model()
    model.before = die
    with FunctionServer({"m": function_model(other)}) as second:
        both = ("--server", f"{server.address},{second.address}")
        arguments = ("--input", npy, "--output", tmp_path / "out", "--rows-per-request", 20)
        assert predict(*arguments, *both) == 0
    assert_whole(tmp_path / "out", x)
    assert sum(model.rows) > 400
    assert sum(other.rows) > 400


def test_an_interruption_leaves_what_is_done_and_says_how_to_go_on(
    predict: Predict,
    model: Model,
    npy: Path,
    x: NDArray[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(progress: object, state: Any) -> None:
        if state.rows >= 400:
            raise KeyboardInterrupt

    monkeypatch.setattr("ladle.batch.progress.Progress.tell", interrupt)
    arguments = ("--input", npy, "--output", tmp_path / "out", "--shard-rows", 200)
    with pytest.raises(KeyboardInterrupt):
        predict(*arguments, "--rows-per-request", 50)
    assert capsys.readouterr().err == ("ladle predict: the same command goes on where this ends\n")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict")]
    monkeypatch.undo()
    assert predict(*arguments) == 0
    assert_whole(tmp_path / "out", x)


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl", "npy"])
def test_a_run_that_ends_amid_a_shard_leaves_nothing_of_it(
    predict: Predict,
    model: Model,
    npy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output_format: str,
) -> None:
    """Files are closed under writers that have begun to write, and that nobody has ended."""

    def stop(rows: int) -> None:
        if sum(model.rows) > 700:
            raise ServerError("enough", code=grpc.StatusCode.NOT_FOUND)

    model.before = stop
    monkeypatch.setattr("ladle.batch.writers.parquet.ROWS_IN_GROUP", 60)
    arguments: tuple[object, ...] = (
        "--input",
        npy,
        "--output",
        tmp_path / "out",
        "--output-format",
        output_format,
    )
    arguments += ("--rows-per-request", 50, "--shard-rows", 400, "--max-in-flight", 1)
    assert predict(*arguments) == 1
    parts = {file.name for file in (tmp_path / "out").iterdir() if file.name[0] != "_"}
    assert parts
    assert all(name.startswith("part-00000") for name in parts)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_model_too_slow_for_large_requests_gets_small_ones(
    predict: Predict, model: Model, npy: Path, x: NDArray[Any], tmp_path: Path
) -> None:
    def take_too_long(rows: int) -> None:
        if rows > 16:
            raise DeadlineExceeded("too slow")

    model.before = take_too_long
    arguments = ("--input", npy, "--output", tmp_path / "out", "--rows-per-request", 64)
    assert predict(*arguments, "--max-in-flight", "1") == 0
    assert_whole(tmp_path / "out", x)
