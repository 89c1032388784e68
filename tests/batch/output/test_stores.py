"""`ladle predict` reads from stores and writes to them, and goes on there after it was killed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch.conftest import Model, Predict, answer
from numpy.typing import NDArray
from stores import FakeStore, lose_first_answers

from ladle.store.errors import Denied, Unreachable
from ladle.store.url import StoreUrl

IN, OUT = "s3://bucket/in", "s3://bucket/out"


@pytest.fixture
def store(npy: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """Holds the thousand rows as in/a/x.npy."""
    made = FakeStore()
    made.write("in/a/x.npy", npy.read_bytes())

    def open_store(_url: StoreUrl) -> FakeStore:
        return made

    for module in ("execute", "stores.inputs"):
        monkeypatch.setattr(f"ladle.batch.{module}.open_store", open_store)
    return made


def manifest(store: FakeStore) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(store.objects["out/_manifest.json"][0])
    return loaded


def assert_whole(store: FakeStore, x: NDArray[np.uint8]) -> None:
    """Every row is there once, in order, and nothing else is."""
    told = manifest(store)
    assert told["is_complete"]
    names = [name for shard in told["shards"] for name in shard["files"]]
    assert {f"out/{name}" for name in [*names, "_manifest.json"]} == {
        key for key in store.objects if key.startswith("out/")
    }
    rows: list[int] = []
    totals: list[int] = []
    for name in names:
        table = pq.read_table(io.BytesIO(store.objects[f"out/{name}"][0]))
        rows += table["row"].to_pylist()
        totals += table["total"].to_pylist()
    assert rows == list(range(len(x)))
    assert totals == answer(x)["total"].tolist()


@pytest.mark.parametrize("given", [IN, f"{IN}/a/x.npy"])
def test_a_place_is_read_and_written(
    store: FakeStore, predict: Predict, x: NDArray[np.uint8], given: str
) -> None:
    store.write("in/_skipped/y.npy", b"nonsense")
    store.write("in/notes.md", b"nonsense")
    assert predict("--input", given, "--output", OUT, "--shard-rows", 300) == 0
    assert_whole(store, x)
    assert len(manifest(store)["shards"]) == 4


def test_a_folder_may_go_to_a_store_and_back(
    store: FakeStore, predict: Predict, x: NDArray[np.uint8], npy: Path, tmp_path: Path
) -> None:
    assert predict("--input", npy, "--output", OUT) == 0
    assert_whole(store, x)
    assert predict("--input", IN, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "part-00000.parquet").exists()


def test_what_is_done_is_not_done_again(store: FakeStore, predict: Predict, model: Model) -> None:
    assert predict("--input", IN, "--output", OUT) == 0
    model.rows.clear()
    assert predict("--input", IN, "--output", OUT) == 0
    assert model.rows == []


@pytest.mark.parametrize("at", range(12))
def test_cut_off_anywhere_every_row_is_there_once(
    store: FakeStore,
    predict: Predict,
    x: NDArray[np.uint8],
    at: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = at

    def cut_off(request: str, key: str) -> None:
        nonlocal left
        left -= key.startswith("out")
        if left < 0:
            raise Unreachable(f"s3://bucket/{key}: the store can't be reached")

    store.before = cut_off
    arguments = ("--input", IN, "--output", OUT, "--shard-rows", 300)
    assert predict(*arguments) == 1
    told = capsys.readouterr().err
    assert "the store can't be reached" in told
    assert len(told.splitlines()) == 1
    store.before = lambda _request, _key: None
    assert predict(*arguments) == 0
    assert_whole(store, x)


def test_the_first_of_two_runs_ends_when_the_second_begins(
    store: FakeStore,
    predict: Predict,
    x: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--input", IN, "--output", OUT, "--shard-rows", 300)
    inner: list[int] = []

    def second(request: str, key: str) -> None:
        if request == "upload" and "part-00001" in key and not inner:
            inner.append(-1)
            inner[0] = predict(*arguments)

    store.before = second
    assert predict(*arguments) == 1
    assert inner == [0]
    assert "another process is writing there" in capsys.readouterr().err
    # The next run takes away what the first has left.
    assert predict(*arguments) == 0
    assert_whole(store, x)


def test_objects_of_others_are_left_alone(
    store: FakeStore, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("out/precious.txt", b"x")
    assert predict("--input", IN, "--output", OUT) == 1
    assert 'found "precious.txt"' in capsys.readouterr().err
    assert predict("--input", IN, "--output", OUT, "--restart") == 1
    assert store.objects["out/precious.txt"][0] == b"x"


def test_messages_name_urls(
    store: FakeStore, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("in/a/x.npy", b"nonsense")
    assert predict("--input", IN, "--output", OUT) == 1
    assert f"{IN}/a/x.npy" in capsys.readouterr().err
    for arguments, message in (
        (["--input", f"{IN}/none"], "there is no object of a format that can be read"),
        (["--input", "hdfs://x"], "--input: expected s3://BUCKET/PATH"),
        (["--input", IN, "--output", "hdfs://x"], "--output: expected s3://BUCKET/PATH"),
    ):
        assert predict(*arguments) == 1
        assert message in capsys.readouterr().err

    def denied(_request: str, _key: str) -> None:
        raise Denied(f"{IN}: the store refuses access")

    store.before = denied
    assert predict("--input", IN, "--output", OUT) == 1
    assert f"--input: {IN}: the store refuses access" in capsys.readouterr().err


def test_an_input_that_is_replaced_while_it_is_fetched_ends_the_run(
    store: FakeStore, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    def replaced(request: str, key: str) -> None:
        if request == "get":
            store.write("in/a/x.npy", b"other")

    store.before = replaced
    assert predict("--input", IN, "--output", OUT) == 1
    assert "has changed meanwhile" in capsys.readouterr().err


def test_a_manifest_that_was_written_although_the_answer_was_lost_is_the_runs_own(
    store: FakeStore, predict: Predict, x: NDArray[np.uint8]
) -> None:
    lose_first_answers(store, "_manifest.json")
    assert predict("--input", IN, "--output", OUT, "--shard-rows", 300) == 0
    assert_whole(store, x)


def test_of_many_inputs_the_message_names_the_right_one(
    store: FakeStore, predict: Predict, npy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"s3://bucket/{letter}" for letter in "abcdefghijkl"]
    for place in places:
        store.write(f"{place.removeprefix('s3://bucket/')}/x.npy", npy.read_bytes())
    store.write("l/x.npy", b"nonsense")
    assert predict("--input", *places, "--output", OUT) == 1
    assert "s3://bucket/l/x.npy" in capsys.readouterr().err


def test_a_manifest_of_others_removes_no_file_of_this_machine(
    store: FakeStore, predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--input", IN, "--output", OUT) == 0
    precious = tmp_path / "precious"
    precious.write_bytes(b"x")
    told = manifest(store)
    told["shards"][0]["files"] = [str(precious)]
    told["is_complete"] = False
    store.write("out/_manifest.json", json.dumps(told).encode())
    ended = predict("--input", IN, "--output", OUT)
    assert precious.exists()
    assert ended == 1
    assert "expected names of files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (f"in/{'x' * 252}.npy", "File name too long"),
        ("in/a/x.npy/y.npy", "directory"),  # beside in/a/x.npy
    ],
)
def test_an_object_that_can_be_no_file_is_told_in_one_line(
    store: FakeStore, predict: Predict, capsys: pytest.CaptureFixture[str], key: str, why: str
) -> None:
    store.write(key, store.objects["in/a/x.npy"][0])
    assert predict("--input", IN, "--output", OUT) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "can't be kept on this machine" in told
    assert why.lower() in told.lower() or "exists" in told
    assert store.objects.keys() & {"out/_manifest.json"} == set()
