"""`make demo`, at a terminal and in a pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import TIMEOUT_S

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_at_a_terminal_the_server_goes_on_until_ctrl_c(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    with demo(tmp_path, stdin=terminal, stdout=terminal) as process:
        os.close(terminal)
        shown = ""
        while "Ctrl-C stops it." not in shown:
            shown += os.read(controller, 4096).decode()
        address = re.search(r"status page: (http://\S+/)", shown)
        assert address is not None, shown
        with urllib.request.urlopen(address[1], timeout=TIMEOUT_S) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(4 * TIMEOUT_S) == 0
    os.close(controller)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address[1], timeout=TIMEOUT_S)


def test_in_a_pipe_it_ends_by_itself(tmp_path: Path) -> None:
    with demo(tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        shown, _ = process.communicate(timeout=8 * TIMEOUT_S)  # it trains
    assert process.returncode == 0
    assert "Accuracy: 0.9" in shown
    assert "Ctrl-C" not in shown
    assert (tmp_path / "predictions.png").stat().st_size > 0


def test_the_clients_example_needs_no_server() -> None:
    command = [sys.executable, str(EXAMPLES / "embedded.py")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == "version 1: mean brightness [0.0, 1.0]\n"


@contextmanager
def demo(folder: Path, *, stdin: int, stdout: int) -> Iterator[subprocess.Popen[str]]:
    """The demo with its files in `folder`; whatever happens, it has ended afterwards."""
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--dir", str(folder)]
    process = subprocess.Popen(command, stdin=stdin, stdout=stdout, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # so that it ends its server too
            process.wait(4 * TIMEOUT_S)
