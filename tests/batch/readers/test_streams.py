"""Compressed files are read like plain ones, and what is no UTF-8 text is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.batch.errors import BatchError
from ladle.batch.readers import tfrecord
from ladle.batch.readers.opening import open_reader
from ladle.batch.rows import Rows
from ladle.client.inputs.examples import to_example
from ladle.protos.files.records import frame

TEXTS = {"csv": "x\r\n1\r\n2\r\n3\r\n", "jsonl": '{"x": 1}\r\n{"x": 2}\r\n{"x": 3}\r\n'}


def read(input_format: str, path: Path) -> list[Rows]:
    opened = open_reader(input_format, [path])
    assert opened.columns[-1] == "x"
    chunks = list(opened.read(0, ("x",)))
    assert chunks[-1].share == 1
    return chunks


def values(chunks: list[Rows]) -> list[int]:
    return [int(str(value)) for rows in chunks for value in rows.columns["x"]]


@pytest.mark.parametrize("input_format", TEXTS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_read_with_a_byte_order_mark_and_from_gzip(
    input_format: str, compress: Callable[[bytes], bytes], mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(compress(mark + TEXTS[input_format].encode()))
    assert values(read(input_format, path)) == [1, 2, 3]


def gzip_pieces(data: bytes) -> bytes:
    return gzip.compress(data[:20]) + gzip.compress(data[20:])


@pytest.mark.parametrize("compress", [bytes, gzip.compress, gzip_pieces, zlib.compress])
@pytest.mark.parametrize("length", [1, 300, 70_000])
def test_records_are_read_plain_and_compressed(
    compress: Callable[[bytes], bytes], length: int, tmp_path: Path
) -> None:
    numbers = range(1, 4)
    records = [to_example({"x": n, "b": b"x" * length}).SerializeToString() for n in numbers]
    path = tmp_path / "a"
    path.write_bytes(compress(b"".join(map(frame, records))))
    assert values(read("tfrecord", path)) == [1, 2, 3]


@given(length=st.integers(0, 1 << 17))
def test_no_length_of_a_plain_record_is_taken_for_compressed_data(
    length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Lengths such as 0x8b1f and 0x0178 begin as gzip and zlib do."""
    path = tmp_path_factory.mktemp("records") / "a"
    for each in (length, 0x8B1F, 0x0178):
        path.write_bytes(frame(b"x" * each))
        [rows] = open_reader("tfrecord", [path]).read(0, ("record",))
        assert [len(record) for record in rows.columns["record"]] == [each]


def test_a_compressed_record_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(frame(b"x" * 101)))
    with pytest.raises(BatchError, match=r"a: the record at byte 0 .* expected at most 100 bytes"):
        open_reader("tfrecord", [path])


DAMAGED: list[tuple[Any, str]] = [
    (lambda data: gzip.compress(data)[:-9], "a: it can't be decompressed: "),
    (lambda data: gzip.compress(data)[:-8] + b"\0" * 8, "a: it can't be decompressed: CRC check"),
    (lambda data: gzip.compress(data)[:10] + b"what is this", "a: it can't be decompressed: Error"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
@pytest.mark.parametrize("input_format", [*TEXTS, "tfrecord"])
def test_damaged_compressed_data_is_one_line_with_the_file(
    input_format: str, damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    examples = [frame(to_example({"x": n}).SerializeToString()) for n in range(200)]
    data = TEXTS.get(input_format, "").encode() * 100 or b"".join(examples)
    path = tmp_path / "a"
    path.write_bytes(damage(data))
    with pytest.raises(BatchError, match=message) as raised:
        read(input_format, path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_zlib_file_that_is_cut_off_is_one_line_with_the_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0).bytes(100_000)
    path = tmp_path / "a"
    path.write_bytes(zlib.compress(frame(random))[:-1000])
    with pytest.raises(BatchError, match="a: it can't be decompressed: the file ends before"):
        open_reader("tfrecord", [path])


@pytest.mark.parametrize("input_format", TEXTS)
@pytest.mark.parametrize(
    ("encode", "name"),
    [
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16"),
        (lambda text: text.encode("utf-16-le"), "NUL bytes, as in UTF-16"),
        (lambda text: text.encode("utf-32"), "UTF-32"),
        (lambda text: gzip.compress(text.encode("utf-16")), "UTF-16"),
        (lambda text: bz2.compress(text.encode()), "a bzip2 file"),
        (lambda text: lzma.compress(text.encode()), "an xz file"),
    ],
)
def test_what_is_no_utf8_text_is_named_with_its_file(
    input_format: str, encode: Callable[[str], bytes], name: str, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(TEXTS[input_format]))
    with pytest.raises(BatchError, match=f"a: expected UTF-8 text, got {name}$"):
        open_reader(input_format, [path])
