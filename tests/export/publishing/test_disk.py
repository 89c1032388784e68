"""Files that TensorFlow writes, and what is said where it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle.export.publishing.disk import write_records
from ladle.server.warmup.records import read_records


def test_records_are_written(tmp_path: Path) -> None:
    write_records(tmp_path / "records", [b"one", b"", b"three"])
    assert list(read_records(tmp_path / "records")) == [b"one", b"", b"three"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_os_error_in_the_systems_words(tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"^No space left on device$"):
        write_records(tmp_path / "records", [b"one"])


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file or directory$"):
        write_records(tmp_path / "gone" / "records", [b"one"])
