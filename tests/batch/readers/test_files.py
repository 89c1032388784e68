"""Which files are the input, and whether they are still the same."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from ladle.batch.errors import BatchError
from ladle.batch.readers import files
from ladle.batch.readers.opening import open_reader

X = np.arange(40, dtype=np.int64).reshape(20, 2)


def test_folders_are_searched_and_what_is_hidden_is_passed_over(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.JPG", ".hidden.png", "_tmp/c.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files.find([str(tmp_path)]) == ("images", [tmp_path / "b.png", tmp_path / "sub/a.JPG"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gone.npy"], "gone.npy: no such file or folder"),
        (["what.dat"], 'no format has the extension ".dat"'),
        (["a.csv", "b.npy"], "expected files of one format, got csv, npy"),
        (["empty"], "the folder holds no file of a format that can be read"),
    ],
)
def test_inputs_that_are_none_are_told(names: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in names:
        if name not in ("gone.npy", "empty"):
            (tmp_path / name).touch()
    with pytest.raises(BatchError, match=message):
        files.find([str(tmp_path / name) for name in names])


def test_a_fingerprint_changes_with_the_file_and_only_then(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in paths:
        np.save(path, X)
    before = files.fingerprint(paths)
    assert files.fingerprint(paths) == before
    assert files.fingerprint(paths[:1]) != before
    np.save(paths[0], X + 1)
    assert files.fingerprint(paths) != before


def test_a_file_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.npy")
    np.save(path, X)
    before = files.fingerprint([path])
    assert before == files.fingerprint([path])
    assert before != files.fingerprint([path.rename(tmp_path / "cafe.npy")])


@pytest.mark.parametrize("name", ["a.csv.gz", "a.JSONL.gz", "a.tfrecord.gz"])
def test_the_extension_before_gz_is_the_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b""))
    expected = (name.split(".")[1].lower(), [tmp_path / name])
    assert files.find([str(tmp_path / name)]) == expected
    assert files.find([str(tmp_path)]) == expected


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """It can't be read a second time, and its reader would wait for whoever writes."""
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(BatchError, match=r"a\.csv: expected a file"):
        files.find([str(tmp_path / "a.csv")])


def test_what_is_no_file_among_images_fails_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "list.txt").write_text("pipe.png\r\nfolder.png\r\na.png\r\n")
    input_format, paths = files.find([str(tmp_path / "list.txt")])
    assert files.fingerprint(paths) == files.fingerprint(paths)
    [rows] = open_reader(input_format, paths).read(0, ("path", "bytes"))
    assert [(row.row, row.reason.rpartition(": ")[2]) for row in rows.failed] == [
        (0, "expected a file"),
        (1, "expected a file"),
    ]
    assert list(rows.columns["bytes"]) == [b"A"]


def test_a_list_may_have_names_that_are_no_utf8_or_hold_odd_spaces(tmp_path: Path) -> None:
    names = [b"caf\xe9.png", b"a\x0bb.png", "a\u2028b.png".encode()]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"\n".join(names))
    _, paths = files.find([str(tmp_path / "list.txt")])
    assert paths == [tmp_path / os.fsdecode(name) for name in names]
