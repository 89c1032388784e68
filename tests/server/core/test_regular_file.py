from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ladle.protos.files.regular_file import (
    NotRegularError,
    open_regular,
    read_bytes,
)
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.regular_file import read_text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\nb", "a\nb"),
        (b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "a: 1\nb: 2\n"),
        ("ü".encode(), "ü"),
        (b"", ""),
    ],
)
def test_text_is_read_whatever_editor_wrote_it(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_text(tmp_path / "file", 100) == text


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_fifo, "a FIFO"),
        (os.mkdir, "a folder"),
        (link_to_zero, "a device"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    """A FIFO without a writer would block whoever opens it, for ever."""
    path = tmp_path / "file"
    make(path)
    with pytest.raises(NotRegularError, match=kind):
        open_regular(path)
    with pytest.raises(InvalidArgument, match=f"^can't be read: .*, got {kind}"):
        read_text(path, 100)


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    make_socket(Path("s"))
    with pytest.raises(OSError, match="No such device"):
        open_regular(Path("s"))


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 1) == b"x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"\xff\xfea", "it is no text in UTF-8"),
        (b"x" * 11, "at most 10 bytes"),
    ],
)
def test_what_can_not_be_read_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidArgument, match=says):
        read_text(tmp_path / "file", 10)
