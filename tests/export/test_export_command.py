"""The command in a process of its own; test_cli.py has its quick tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checking import run_in_this_process

from ladle.export.cli import main

pytestmark = pytest.mark.e2e


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ladle.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_command_publishes_and_says_how_to_serve(tmp_path: Path, npz: Path) -> None:
    base_path = tmp_path / "my models" / "small"
    finished = run("export", base_path, "--data", npz, "--epochs", 1, "--plots", tmp_path / "plots")
    assert finished.returncode == 0
    version, accuracy, serve = finished.stdout.splitlines()
    assert version == f"Published version 1: {base_path}/1"
    assert re.fullmatch(r"Accuracy: [01]\.\d{4} on 6 held-out examples", accuracy)
    assert serve == f"Serve it: ladle serve '{base_path}'"
    before, progress, *warned = finished.stderr.splitlines()  # not a word of TensorFlow's own
    assert before.startswith("Before training: loss ")
    assert "and guessing gives -ln(1/3) = 1.0986; probabilities of the first example: 0." in before
    assert "1/1" in progress
    assert all(line.startswith("ladle export: warning: small.npz: ") for line in warned)
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["accuracy.svg", "confusion.svg", "loss.svg"]


def test_the_command_in_json_and_quiet(
    tmp_path: Path, npz: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # which the command sets
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    options = ["--epochs=1", "--run-eagerly", "--json", "--quiet"]
    assert main([str(tmp_path / "m"), "--data", str(npz), *options]) == 0
    printed = capsys.readouterr()
    warned = printed.err.splitlines()
    assert all(line.startswith("ladle export: warning: small.npz: ") for line in warned)
    summary = json.loads(printed.out)
    assert summary["path"] == str(tmp_path / "m" / "1")
    assert summary.keys() == {"version", "path", "accuracy", "held_out_examples", "serve"}


def test_a_disk_that_refuses_to_write_on_is_one_line(tmp_path: Path, npz: Path) -> None:
    """A limit on the size of files stands for a full disk, which a test cannot make."""
    program = (
        "import resource, sys; from ladle.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    options = ["--epochs=1", "--run-eagerly", "--quiet"]
    arguments = [str(tmp_path / "model"), "--data", str(npz), *options]
    finished = subprocess.run(
        # Without bytecode, which Python would leave cut off at the limit, for others to read.
        [sys.executable, "-B", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 1
    *warned, said = finished.stderr.splitlines()
    assert said == f"ladle export: {tmp_path}/model: cannot publish: File too large"
    assert all(line.startswith("ladle export: warning: ") for line in warned)
    assert list((tmp_path / "model").iterdir()) == []


def test_ctrl_c_while_training_is_one_line_and_publishes_nothing(tmp_path: Path, npz: Path) -> None:
    program = (
        "import signal, sys; from ladle.cli import main\n"
        # What a shell starts in the background ignores it otherwise, and what that starts.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    arguments = [str(tmp_path / "model"), "--data", str(npz), "--epochs", "100000"]
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("Epoch 2/"))
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr
        assert process.wait(60) == 130
    assert last == "ladle: export: interrupted\n"
    assert list((tmp_path / "model").iterdir()) == []
