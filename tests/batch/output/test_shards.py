"""Answers on their way into the folder, without anybody who asks."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import OutputFolder
from ladle.batch.output.manifest import Manifest
from ladle.batch.output.shards import ShardedOutput
from ladle.batch.rows import Answered
from ladle.batch.writers.jsonl import JsonlWriter
from ladle.batch.writers.writer import OpenFile

EMPTY = Manifest(input="", settings={}, version=1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OutputFolder]:
    with OutputFolder(tmp_path) as folder:
        yield folder


def output_to(
    folder: OutputFolder,
    manifest: Manifest = EMPTY,
    *,
    make_writer: Callable[[OpenFile], Any] = JsonlWriter,
    shard_rows: int = 4,
    shard_s: float = 300.0,
    now: Callable[[], float] = lambda: 0.0,
) -> ShardedOutput:
    return ShardedOutput(
        folder, manifest, make_writer, shard_rows=shard_rows, shard_s=shard_s, now=now
    )


def answer(start: int, stop: int, share: float = 0.0) -> Answered:
    numbers = np.arange(start, stop)
    return Answered(start=start, stop=stop, numbers=numbers, outputs={"y": numbers}, share=share)


def rows_in(folder: OutputFolder, part: str) -> list[int]:
    lines = (folder.path / part).read_text().splitlines()
    return [json.loads(line)["row"] for line in lines]


def test_a_shard_ends_where_it_is_full_and_at_the_end(folder: OutputFolder) -> None:
    output = output_to(folder)
    for start in range(0, 10, 2):
        output.write(answer(start, start + 2))
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
        output.write(answer(0, 4))
    in_place = steps.index("shard in place")
    assert steps[in_place : in_place + 3] == ["shard in place", "names synced", "manifest written"]


def test_a_shard_ends_when_it_has_been_open_for_long(folder: OutputFolder) -> None:
    now_s = 100.0
    output = output_to(folder, shard_s=60.0, now=lambda: now_s)
    output.write(answer(0, 1))
    now_s += 59.0
    output.write(answer(1, 2))
    assert not output.manifest.shards
    now_s += 1.0
    output.write(answer(2, 3))
    assert [shard.stop for shard in output.manifest.shards] == [3]


def test_it_tells_how_much_there_is_and_how_much_there_was(folder: OutputFolder) -> None:
    first = output_to(folder)
    first.write(answer(0, 4, share=0.25))
    assert (first.share, first.share_before) == (0.25, 0.0)
    second = output_to(folder, first.finish())
    assert (second.rows, second.failed) == (4, 0)
    second.write(answer(4, 8, share=0.5))
    second.write(answer(8, 12, share=0.75))
    assert (second.share, second.share_before) == (0.75, 0.5)


def test_a_full_disk_says_what_is_kept(folder: OutputFolder) -> None:
    class Full(JsonlWriter):
        def write(self, answered: Answered) -> None:
            if answered.start >= 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(answered)

    output = output_to(folder, make_writer=Full)
    output.write(answer(0, 2))
    output.write(answer(2, 4))
    with pytest.raises(BatchError, match="No space left on device; 4 rows are done"):
        output.write(answer(4, 6))
    output.discard()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "_lock",
        "_manifest.json",
        "part-00000.jsonl",
    ]
