"""What many workers make of each format, and what they refuse."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch.tasks.conftest import BAD, MakeWorkers, Workers, as_npy, numbers
from stores import lose_first_answers

from ladle.batch import execute
from ladle.batch.columns.mapping import parse_rule
from ladle.batch.dispatch.options import Options
from ladle.batch.errors import BatchError, ChangedError, ModelLost
from ladle.batch.job import Job
from ladle.batch.tasks.checking import as_text, check, ranges
from ladle.client import Client
from ladle.client.errors import NotFound
from ladle.store.url import StoreUrl

IN_STORE = pytest.mark.parametrize("make_workers", ["store"], indirect=True)


def as_parquet(start: int, stop: int, group: int) -> bytes:
    file = io.BytesIO()
    x = np.arange(start, stop)
    pq.write_table(
        pa.table({"x": x.astype(np.float32), "id": x + 1000}), file, row_group_size=group
    )
    return file.getvalue()


def as_csv(start: int, stop: int) -> bytes:
    return b"".join([b"id,x\n", *(b"%d,%d\n" % (n + 1000, n) for n in range(start, stop))])


def test_rows_of_parquet_files_are_numbered_through_all(make_workers: MakeWorkers) -> None:
    files = {"a.parquet": as_parquet(0, 10, 4), "b/c.parquet": as_parquet(10, 33, 30)}
    workers = make_workers(files, settings={"keep": ("id",)})
    assert workers.run(1, 2).tasks_now == 6
    workers.assert_whole(33)
    # Row groups of 4, 4 and 2; and one group that is cut, because it has more than 7 rows.
    ends = [(task["start"], task["stop"]) for task in workers.manifest()["tasks"]]
    assert ends == [(0, 4), (4, 10), (10, 17), (17, 24), (24, 31), (31, 33)]
    assert all(line["id"] == line["row"] + 1000 for line in workers.lines())


@IN_STORE
def test_a_store_is_asked_for_footers_and_for_each_file_once(make_workers: MakeWorkers) -> None:
    files = {f"{n}.parquet": as_parquet(7 * n, 7 * n + 7, 7) for n in range(8)}
    workers = make_workers(files)
    workers.run()
    workers.assert_whole(56)
    # The first file shows the columns as well; the footers are the whole of files so small.
    size = len(files["0.parquet"])
    whole = [key for key, _, length in workers.store.reads if length == size]
    assert len(whole) <= 2 * len(files) + 1


def test_lines_are_numbered_in_their_file(make_workers: MakeWorkers) -> None:
    files = {
        "a.csv": as_csv(0, 20),
        "b.csv.gz": gzip.compress(as_csv(0, 3)),
        "c.csv": as_csv(0, 0),
        "d.csv": b"id,x\n1000,0\nragged\n1002,2\n",
    }
    workers = make_workers(files, settings={"rules": (parse_rule("x=x:float32"),), "keep": ("id",)})
    summary = workers.run(0, 3)
    assert (summary.rows, summary.failed, summary.tasks, summary.tasks_now) == (26, 1, 4, 4)
    lines = workers.lines()
    by_file: dict[str, list[int]] = {}
    for line in lines:
        by_file.setdefault(line["file"].rpartition("/")[2], []).append(line["row"])
    assert by_file == {"a.csv": list(range(20)), "b.csv.gz": [0, 1, 2], "d.csv": [0, 2]}
    assert all(line["twice"] == 2 * line["row"] for line in lines)
    (failed,) = workers.lines("_failed-")
    assert failed["file"].endswith("/d.csv")
    assert failed["row"] == 1
    # A long file has several parts.
    first = workers.manifest()["tasks"][0]
    assert first["file"].endswith("/a.csv")
    assert [file["name"][-12:] for file in first["files"]] == [f"-0000{n}.jsonl" for n in range(3)]


def test_json_lines_may_begin_with_an_empty_file(make_workers: MakeWorkers) -> None:
    line = json.dumps({"x": 0.0}).encode()
    rules = (parse_rule("x=x:float32"),)
    workers = make_workers({"a.jsonl": b"", "b.jsonl": line}, settings={"rules": rules})
    assert workers.run().rows == 1
    assert [row["row"] for row in workers.lines()] == [0]


@pytest.mark.parametrize("output_format", ["parquet", "csv", "npy"])
def test_other_formats_are_written(make_workers: MakeWorkers, output_format: str) -> None:
    workers = make_workers({"a.csv": as_csv(0, 10)}, output_format)
    rules = (parse_rule("x=x:float32"),)
    assert workers.run(rules=rules, output_format=output_format).rows == 10
    names = [name for name in workers.files() if name.startswith("part-")]
    assert len(names) == (4 if output_format == "npy" else 2)
    if output_format == "parquet":
        tables = [pq.read_table(io.BytesIO(workers.files()[name])) for name in sorted(names)]
        assert pa.concat_tables(tables).column_names == ["row", "file", "twice"]


def test_the_output_has_one_column_with_the_file(make_workers: MakeWorkers) -> None:
    workers = make_workers({"a.csv": b"file,x\na,1\n"})
    with pytest.raises(BatchError, match='--keep: the output has a column "file" of its own'):
        workers.run(rules=(parse_rule("x=x:float32"),), keep=("file",))
    assert not workers.files()


def test_an_input_that_has_changed_is_found(make_workers: MakeWorkers) -> None:
    make_workers({"x.npy": as_npy(numbers(20))}).run()
    for changed in ({"x.npy": as_npy(numbers(21))}, {"y.npy": as_npy(numbers(1))}):
        workers = make_workers(changed)
        with pytest.raises(ChangedError, match=r"the input has changed since .* was planned"):
            workers.run()


def test_an_input_that_changes_under_way_is_found(make_workers: MakeWorkers) -> None:
    workers = make_workers({"a.npy": as_npy(numbers(10)), "b.npy": as_npy(numbers(10))})

    def change(step: str) -> None:
        if step == "committed":
            make_workers({"b.npy": as_npy(numbers(11))})

    with pytest.raises(BatchError, match=r"b\.npy: (it was changed|the object has changed) "):
        workers.run(on_step=change)
    assert "_manifest.json" not in workers.files()


def test_files_with_other_columns_are_named(make_workers: MakeWorkers) -> None:
    other = io.BytesIO()
    pq.write_table(pa.table({"y": [1.0]}), other)
    workers = make_workers({"a.parquet": as_parquet(0, 3, 3), "b.parquet": other.getvalue()})
    with pytest.raises(BatchError, match=r"in-out/b\.parquet: expected the columns x, got y"):
        workers.run()


@pytest.mark.parametrize(
    ("name", "data"), [("a.parquet", b"PAR1"), ("a.npy", b"nonsense"), ("a.npz", b"PK\3\4")]
)
def test_what_can_not_be_read_is_named_and_nothing_is_planned(
    make_workers: MakeWorkers, name: str, data: bytes
) -> None:
    workers = make_workers({name: data})
    with pytest.raises(BatchError, match=f"in-out/{name}: ") as refused:
        workers.run()
    assert len(str(refused.value).splitlines()) == 1
    assert not workers.files()


def test_other_settings_are_another_job(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(20))})
    workers.run()
    with pytest.raises(ChangedError, match='the plan has another output_format: "jsonl", not "csv'):
        workers.run(output_format="csv")
    # How much goes in a part is the plan's.
    assert replace(workers, options=Options(shard_rows=3)).run().tasks == 3


def test_later_workers_ask_the_version_that_the_first_one_found(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(20))})

    def publish(step: str) -> None:
        workers.client.versions = {1, 2}
        if step == "committed":
            workers.run(1, 2)

    assert workers.run(0, 2, publish).versions == (1,)
    workers.assert_whole(20)
    with pytest.raises(ChangedError, match="asks for version 1 of the model, and version 2 is"):
        workers.run(version=2)
    workers.client.versions = {2}
    with pytest.raises(NotFound):
        workers.run()
    assert workers.run(allow_changed_model=True).rows_now == 0


def test_a_version_that_goes_ends_the_worker_and_not_the_job(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(20))})

    def unload(step: str) -> None:
        if step == "committed":
            workers.client.versions = {2}

    with pytest.raises(ModelLost, match="version 1 is not served"):
        workers.run(on_step=unload)
    assert workers.run(allow_changed_model=True).versions == (1, 2)
    workers.assert_whole(20)


def test_failed_rows_of_all_tasks_are_counted_against_the_bound(make_workers: MakeWorkers) -> None:
    bad = frozenset((1, 8, 15))
    workers = make_workers({"x.npy": as_npy(numbers(20, bad))})
    workers.options = replace(workers.options, max_failed=2)
    with pytest.raises(BatchError, match="more than 2 rows failed; row 15: the row is bad"):
        workers.run()
    workers.options = replace(workers.options, max_failed=3)
    assert workers.run().failed == 3
    workers.assert_whole(20, bad)


def test_an_input_that_fails_wholly_ends_a_worker_soon(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(np.full(500, BAD, np.float32))})
    workers.options = Options(shard_rows=300)
    with pytest.raises(BatchError, match="the first 200 rows all failed"):
        workers.run()


def test_what_others_put_there_is_left_alone(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(3))})
    if isinstance(workers.output, Path):
        workers.output.mkdir()
        (workers.output / "precious.txt").write_bytes(b"x")
    else:
        workers.store.write("out/precious.txt", b"x")
    message = r'ladle predict --task, found "precious\.txt"'
    with pytest.raises(BatchError, match=message):
        workers.run()
    with pytest.raises(BatchError, match=message):
        check(workers.output)
    assert workers.files() == {"precious.txt": b"x"}


def test_one_process_and_many_workers_do_not_write_to_one_place(
    make_workers: MakeWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", numbers(3))

    def alone(workers: Workers, *, restart: bool = False) -> None:
        job = Job(
            model="m",
            inputs=(str(tmp_path / "x.npy"),),
            output=workers.output,
            output_format="jsonl",
            restart=restart,
        )
        execute.execute(job, lambda _: cast(Client, workers.client))

    workers = make_workers({"x.npy": as_npy(numbers(3))}, "many")
    monkeypatch.setattr("ladle.batch.execute.open_store", lambda _: workers.store)
    workers.run()
    for restart in False, True:
        with pytest.raises(BatchError, match="holds the output of many workers, which goes on wi"):
            alone(workers, restart=restart)
    workers.assert_whole(3)
    assert workers.client.priorities == {"low"}, "whoever waits for an answer comes first"
    workers = make_workers({"x.npy": as_npy(numbers(3))}, "one")
    alone(workers)
    before = workers.files()
    with pytest.raises(BatchError, match="the output of one process, which goes on without --task"):
        workers.run()
    assert workers.files() == before


@IN_STORE
def test_a_store_that_overwrites_is_refused_before_anything_is_predicted(
    make_workers: MakeWorkers,
) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(3))})
    put = workers.store.put

    def overwrite(key: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> str:
        return put(key, data, if_match=if_match)

    workers.store.put = overwrite  # type: ignore[method-assign]
    with pytest.raises(BatchError, match="expected a store with conditional writes"):
        workers.run()
    assert workers.client.rows == []
    assert set(workers.files()) == {"_plan.json"}


@IN_STORE
def test_a_commit_whose_answer_was_lost_is_the_workers_own(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(20))})
    for name in "_plan.json", "000001.json", "_manifest.json":
        lose_first_answers(workers.store, name)
    assert workers.run().tasks_now == 3
    workers.assert_whole(20)


def test_how_far_a_job_is_can_be_seen(make_workers: MakeWorkers) -> None:
    class Stop(Exception):
        pass

    workers = make_workers({"x.npy": as_npy(numbers(40))})
    left = 2

    def stop(step: str) -> None:
        nonlocal left
        left -= step == "committed"
        if not left:
            raise Stop

    with pytest.raises(BatchError, match="there is no output of ladle predict --task"):
        check(workers.output)
    with pytest.raises(Stop):
        workers.run(1, 3, stop)
    found = check(workers.output)
    assert not found.is_complete
    assert [task.task for task in found.missing] == [0, 1, 4, 5]
    assert (found.missing[0].start, found.missing[0].stop) == (0, 7)
    assert (found.missing[0].file or "").endswith("in-out/x.npy")
    assert as_text(found) == f"{workers.output}: 2 of 6 tasks done; missing: 0-1, 4-5"
    workers.run()
    found = check(workers.output)
    assert (found.is_complete, found.rows, found.failed) == (True, 40, 0)
    assert as_text(found) == f"{workers.output}: complete: 40 rows, 6 tasks"
    part = min(name for name in workers.files() if name.startswith("part-"))
    if isinstance(workers.output, StoreUrl):
        workers.store.write(f"out/{part}", b"")
    else:
        (workers.output / part).unlink()
    found = check(workers.output)
    assert (found.is_complete, found.damaged) == (False, (part,))
    assert part in as_text(found)


def test_missing_tasks_are_shown_as_ranges() -> None:
    assert ranges([3, 5, 6, 7, 9]) == "3, 5-7, 9"
    assert ranges(range(0, 100, 2)).endswith("36, 38, and 30 more")


def test_parts_have_the_checksums_of_their_commits(make_workers: MakeWorkers) -> None:
    workers = make_workers({"x.npy": as_npy(numbers(20))})
    workers.run()
    files = workers.files()
    for task in workers.manifest()["tasks"]:
        for file in task["files"]:
            assert sha256(files[file["name"]]).hexdigest() == file["sha256"]


@pytest.mark.parametrize("make_workers", ["folder"], indirect=True)
def test_a_folder_without_links_is_refused(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    workers = make_workers({"x.npy": as_npy(numbers(3))})
    with pytest.raises(BatchError, match="expected a file system with hard links"):
        workers.run()


def test_images_are_tasks_of_several(make_workers: MakeWorkers) -> None:
    """Their bytes are what the model gets; here, text that is no image fails row by row."""
    workers = make_workers({f"{n:02}.png": b"no image" for n in range(10)})
    summary = workers.run()
    assert (summary.rows, summary.failed, summary.tasks) == (10, 10, 2)
    assert [line["row"] for line in workers.lines("_failed-")] == list(range(10))
