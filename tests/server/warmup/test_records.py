from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.server.core.errors import Code, ServingError
from ladle.server.warmup.records import frame, masked_checksum, read_records

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(tmp_path: Path, content: bytes) -> list[bytes]:
    path = tmp_path / "records"
    path.write_bytes(content)
    return list(read_records(path))


def test_the_checksum_is_crc32c() -> None:
    """The check value of CRC-32C for "123456789" is e3069283 (RFC 3720 has it too)."""
    crc = 0xE3069283
    assert masked_checksum(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


@in_one_folder
@given(records=st.lists(st.binary(max_size=100), max_size=5))
def test_what_was_framed_is_read(tmp_path: Path, records: list[bytes]) -> None:
    assert read(tmp_path, b"".join(map(frame, records))) == records


@in_one_folder
@given(
    records=st.lists(st.binary(max_size=20), min_size=1, max_size=3),
    place=st.integers(0, 200),
    flip=st.integers(1, 255),
)
def test_any_altered_byte_is_noticed(
    tmp_path: Path, records: list[bytes], place: int, flip: int
) -> None:
    content = bytearray(b"".join(map(frame, records)))
    content[place % len(content)] ^= flip
    with pytest.raises(ServingError, match="TFRecord") as caught:
        read(tmp_path, bytes(content))
    assert caught.value.code is Code.DATA_LOSS


@in_one_folder
@given(record=st.binary(max_size=20), kept=st.integers(1, 100))
def test_a_record_that_is_cut_off_is_noticed(tmp_path: Path, record: bytes, kept: int) -> None:
    content = frame(record)
    with pytest.raises(ServingError, match="TFRecord"):
        read(tmp_path, frame(b"whole") + content[: min(kept, len(content) - 1)])


@in_one_folder
@given(content=st.binary(min_size=1, max_size=200))
def test_what_is_no_tfrecord_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ServingError):
        read(tmp_path, content)


def test_a_huge_length_takes_no_memory(tmp_path: Path) -> None:
    """Its checksum may well be right: whoever wrote the file has made it."""
    length = (1 << 62).to_bytes(8, "little")
    header = length + masked_checksum(length).to_bytes(4, "little")
    with pytest.raises(ServingError, match="4611686018427387904 bytes and 4, 10 are left"):
        read(tmp_path, header + bytes(10))


@pytest.mark.e2e
def test_tensorflow_reads_and_writes_the_same(tmp_path: Path) -> None:
    import tensorflow as tf

    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"abc")
        writer.write(b"")
    assert path.read_bytes() == frame(b"abc") + frame(b"")
    assert list(read_records(path)) == [b"abc", b""]


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "records")
    with pytest.raises(OSError, match="expected a regular file, got a FIFO"):
        list(read_records(tmp_path / "records"))
