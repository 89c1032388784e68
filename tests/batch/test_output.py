"""Answers on their way into the folder, without anybody who asks."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.batch import output as output_module
from ladle.batch.errors import BatchError
from ladle.batch.folder import OpenFile, OutputFolder
from ladle.batch.manifest import Manifest
from ladle.batch.output import Output
from ladle.batch.rows import Answered
from ladle.batch.writers.jsonl import JsonlShard

EMPTY = Manifest(input="", settings={}, version=1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OutputFolder]:
    with OutputFolder(tmp_path) as folder:
        yield folder


def output_to(
    folder: OutputFolder,
    manifest: Manifest = EMPTY,
    *,
    make_writer: Callable[[OpenFile], Any] = JsonlShard,
    shard_rows: int = 4,
    shard_s: float = 300.0,
    now: Callable[[], float] = lambda: 0.0,
) -> Output:
    return Output(folder, manifest, make_writer, shard_rows=shard_rows, shard_s=shard_s, now=now)


def answer(start: int, stop: int, share: float = 0.0) -> Answered:
    numbers = np.arange(start, stop)
    return Answered(start=start, stop=stop, numbers=numbers, outputs={"y": numbers}, share=share)


def rows_in(folder: OutputFolder, part: str) -> list[int]:
    lines = (folder.path / part).read_text().splitlines()
    return [json.loads(line)["row"] for line in lines]


def test_answers_wait_for_those_of_earlier_rows(folder: OutputFolder) -> None:
    output = output_to(folder)
    output.add(answer(2, 4))
    output.write()
    assert (output.rows, output.waiting) == (0, 1)
    output.add(answer(0, 2))
    output.write()
    assert (output.rows, output.waiting) == (4, 0)
    assert rows_in(folder, "part-00000.jsonl") == [0, 1, 2, 3]


def test_a_shard_ends_where_it_is_full_and_at_the_end(folder: OutputFolder) -> None:
    output = output_to(folder)
    for start in range(0, 10, 2):
        output.add(answer(start, start + 2))
    output.write()
    assert [shard.stop for shard in output.manifest.shards] == [4, 8]
    manifest = output.finish()
    assert [shard.stop for shard in manifest.shards] == [4, 8, 10]
    assert folder.read() == manifest


def test_names_of_files_are_on_the_disk_before_the_manifest_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync = OutputFolder.sync_names

    def sync_names(folder: OutputFolder) -> None:
        sync(folder)
        steps.append("names synced")

    monkeypatch.setattr(OutputFolder, "sync_names", sync_names)
    with OutputFolder(tmp_path, steps.append) as folder:
        output = output_to(folder)
        output.add(answer(0, 4))
        output.write()
    in_place = steps.index("shard in place")
    assert steps[in_place : in_place + 3] == ["shard in place", "names synced", "manifest written"]


def test_a_shard_ends_when_it_has_been_open_for_long(folder: OutputFolder) -> None:
    now_s = 100.0
    output = output_to(folder, shard_s=60.0, now=lambda: now_s)
    output.add(answer(0, 1))
    output.write()
    now_s += 59.0
    output.add(answer(1, 2))
    output.write()
    assert not output.manifest.shards
    now_s += 1.0
    output.add(answer(2, 3))
    output.write()
    assert [shard.stop for shard in output.manifest.shards] == [3]


def test_it_tells_how_much_there_is_and_how_much_there_was(folder: OutputFolder) -> None:
    first = output_to(folder)
    first.add(answer(0, 4, share=0.25))
    first.write()
    assert (first.share, first.share_before) == (0.25, 0.0)
    second = output_to(folder, first.finish())
    assert (second.rows, second.failed) == (4, 0)
    second.add(answer(4, 8, share=0.5))
    second.add(answer(8, 12, share=0.75))
    second.write()
    assert (second.share, second.share_before) == (0.75, 0.5)


def test_what_waits_is_bounded_in_bytes(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "MAX_WAITING_BYTES", 100)
    output = output_to(folder)
    text = np.array([b"x" * 60, b"y" * 60], object)
    output.add(Answered(start=2, stop=4, numbers=np.arange(2, 4), outputs={"y": text}))
    assert output.is_full
    output.add(Answered(start=0, stop=2, numbers=np.arange(2), outputs={"y": text}))
    output.write()
    assert not output.is_full


def test_a_full_disk_says_what_is_kept(folder: OutputFolder) -> None:
    class Full(JsonlShard):
        def write(self, answered: Answered) -> None:
            if answered.start >= 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(answered)

    output = output_to(folder, make_writer=Full)
    for start in (0, 2, 4):
        output.add(answer(start, start + 2))
    with pytest.raises(BatchError, match="No space left on device; 4 rows are done"):
        output.write()
    output.discard()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "_lock",
        "_manifest.json",
        "part-00000.jsonl",
    ]
