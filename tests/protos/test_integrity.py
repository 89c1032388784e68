from __future__ import annotations

import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from steps import lines_run

from ladle.protos.files.integrity import find_missing

ONE_COPY: dict[str, Any] = {
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "deadline": None,
}
pytestmark = pytest.mark.e2e  # TensorFlow writes the models


@pytest.fixture(scope="module", params=["half_plus_two", "half_plus_two_tf2"])
def version(request: pytest.FixtureRequest, written_models: Path) -> Path:
    return written_models / str(request.param) / "1"


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    return shutil.copytree(version, tmp_path / "1")


def files(version: Path) -> list[Path]:
    """The files that a model can't do without, relative to its folder."""
    every = (path.relative_to(version) for path in version.rglob("*") if path.is_file())
    return [path for path in every if path.name != "fingerprint.pb"]


def test_what_tensorflow_wrote_is_whole(version: Path) -> None:
    assert find_missing(version) is None


def test_each_file_is_missed(copy: Path) -> None:
    for path in files(copy):
        taken = (copy / path).rename(copy.parent / "taken")
        assert find_missing(copy), path
        taken.rename(copy / path)


def test_no_order_of_copying_seems_whole_before_the_end(version: Path, tmp_path: Path) -> None:
    for number, first in enumerate(files(version)):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = [first, *(path for path in files(version) if path != first)]
        for path in order:
            assert find_missing(folder), f"{order} before {path}"
            (folder / path).parent.mkdir(exist_ok=True)
            data = (version / path).read_bytes()
            (folder / path).write_bytes(data[: len(data) // 2])
            assert find_missing(folder), f"{order} amid {path}"
            (folder / path).write_bytes(data)
        assert find_missing(folder) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_anywhere_is_noticed(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(files(copy)))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))

    path.write_bytes(whole[:cut])
    try:
        assert find_missing(copy)
    finally:
        path.write_bytes(whole)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_garbage_is_judged_without_breaking(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(files(copy)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=20))

    path.write_bytes(whole[:at] + garbage + whole[at + len(garbage) :])
    try:
        assert isinstance(find_missing(copy), str | None)
    finally:
        path.write_bytes(whole)


def test_what_lies_there_in_the_place_of_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "model.keras").touch()
    assert find_missing(tmp_path) == (
        "there is no saved_model.pb; model.keras is a file of Keras: "
        "write a SavedModel with model.export()"
    )
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    assert find_missing(tmp_path) == (
        "there is no saved_model.pb; it is in export/: a version's folder has to hold it directly"
    )


def test_what_git_keeps_in_the_place_of_a_large_file_is_named(copy: Path) -> None:
    """A clone without Git LFS has such files."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234567\n"
    large = [path for path in files(copy) if path.name != "variables.index"]
    for path in large:
        whole = (copy / path).read_bytes()
        (copy / path).write_bytes(pointer + b"\n" * len(whole))
        assert find_missing(copy) == (
            f"{path} is a pointer of Git LFS, and not the file: fetch it with git lfs pull"
        )
        (copy / path).write_bytes(whole)
    assert len(large) == 2


def test_other_forms_of_a_model_are_taken_as_they_are(tmp_path: Path) -> None:
    assert find_missing(tmp_path) == "there is no saved_model.pb"
    for name in ("model.tflite", "saved_model.pbtxt"):
        (tmp_path / name).write_bytes(b"x")
        assert find_missing(tmp_path) is None
        (tmp_path / name).unlink()
    assert find_missing(tmp_path / "nope") == "it is not a folder"


def test_a_shard_that_can_not_be_read_is_missed(copy: Path) -> None:
    (shard,) = (copy / "variables").glob("variables.data-*")
    size = shard.stat().st_size
    shard.unlink()
    shard.mkdir()
    assert find_missing(copy) == (
        f"variables/{shard.name} can't be read: expected a regular file, got a folder"
    )
    shard.rmdir()
    shard.symlink_to("/dev/zero")
    assert "got a device" in str(find_missing(copy))
    shard.unlink()
    shard.write_bytes(bytes(size))
    assert find_missing(copy) is None


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def table(entries: bytes, handles: int) -> bytes:
    """An index of one block of entries, which its table of blocks names so many times."""
    block = entries + struct.pack("<II", 0, 1) + bytes(5)
    handle = varint(0) + varint(len(entries) + 8)
    one = b"\0" + varint(1) + varint(len(handle)) + b"k" + handle
    blocks = one * handles + struct.pack("<II", 0, 1)
    footer = varint(0) + varint(0) + varint(len(block)) + varint(len(blocks))
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    return block + blocks + bytes(5) + footer.ljust(40, b"\0") + magic


def test_a_crafted_index_takes_steps_in_proportion_to_its_size(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x12\x00")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.data-00000-of-00001").touch()
    steps = []
    for size in (200, 800):
        entries = b"\0\0\0" * size  # keys and values without a byte
        (tmp_path / "variables" / "variables.index").write_bytes(table(entries, size))
        steps.append(lines_run(find_missing, tmp_path))
    assert steps[1] <= 4 * steps[0] + 50


def test_keys_that_share_long_beginnings_are_not_written_out(tmp_path: Path) -> None:
    """With 100,000 keys of 300 KB each, all but a byte of them shared, that took 18 s."""
    (tmp_path / "saved_model.pb").write_bytes(b"\x12\x00")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.data-00000-of-00001").touch()
    long = 100_000
    entries = b"\0" + varint(long) + b"\0" + bytes(long) + (varint(long) + b"\0\0") * 1000
    (tmp_path / "variables" / "variables.index").write_bytes(table(entries, 1))
    tracemalloc.start()
    assert find_missing(tmp_path) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(entries)
