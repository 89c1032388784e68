"""What libraries write to the standard error, without some of its lines."""

from __future__ import annotations

import os

import pytest

from ladle.server.core.machine.stderr import without_lines


def test_all_but_the_lines_left_out_come_in_their_order(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    with without_lines(lambda line: b"noise" in line):
        os.write(2, b"one\nnoise\ntwo\nno end")
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == "before\none\ntwo\nno end\nafter\n"


def test_what_was_written_comes_whatever_is_raised(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with without_lines(lambda line: False):
            os.write(2, b"why\n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capfd.readouterr().err == "why\n"


def test_a_process_without_standard_error_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", closed)
    done = []
    with without_lines(lambda line: True):
        done.append(1)
    assert done
