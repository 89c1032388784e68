"""What an export leaves that is killed; failing_publisher.py has every step of the last part."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from exporting import ONE_EPOCH

from ladle.export import Dataset, export_model
from ladle.export.publishing import destination
from ladle.export.publishing.publish import STAGING_PREFIX, STALE_AFTER_S, publish, staging_folder
from ladle.export.saved_model import written
from ladle.export.single_io import export as single_io

pytestmark = pytest.mark.e2e

STAGES: tuple[tuple[ModuleType, str], ...] = (
    (single_io, "make_endpoints"),
    (written, "write_saved_model"),
    (written, "check_operations"),
    (written, "check_signatures"),
    (written, "write_warmup"),
    (single_io, "write_evaluation"),
    (single_io, "write_card"),
    (destination, "publish"),
)
KILLED = (
    "import os, signal, sys; from ladle.cli import main\n"
    "import ladle.export.single_io.export as single_io\n"
    "import ladle.export.saved_model.checked as checked\n"
    "from checking import run_in_this_process\n"
    "checked.run_in_subprocess = run_in_this_process\n"
    "single_io.write_card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "main(['export', *sys.argv[1:]])"
)


def earlier_version(base_path: Path) -> None:
    (base_path / "1").mkdir(parents=True)
    (base_path / "1" / "saved_model.pb").write_bytes(b"graph")


def check_left(base_path: Path) -> None:
    """See that only version 1 is there, as it was, and that the next publisher tidies up."""
    assert [path.name for path in base_path.iterdir() if path.name.isdigit()] == ["1"]
    files = [path for path in (base_path / "1").rglob("*") if path.is_file()]
    assert [(path.name, path.read_bytes()) for path in files] == [("saved_model.pb", b"graph")]
    for staged in base_path.glob(f"{STAGING_PREFIX}*"):
        then = staged.stat().st_mtime - STALE_AFTER_S - 60
        os.utime(staged, (then, then))
    with staging_folder(base_path) as folder:
        (folder / "saved_model.pb").write_bytes(b"new")
        assert publish(folder).version == 2
    assert sorted(path.name for path in base_path.iterdir()) == ["1", "2"]


def test_no_stage_of_an_export_leaves_what_a_server_would_take(
    tmp_path: Path, small: Dataset, checked_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at a stage, it would leave the files that are there then, so these are looked at."""
    base_path = tmp_path / "model"
    earlier_version(base_path)
    copies: list[tuple[str, Path]] = []

    def copy(stage: str) -> None:
        copies.append((stage, tmp_path / f"left-{len(copies)}"))
        shutil.copytree(base_path, copies[-1][1])

    def watched(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            copy(f"before {stage}")
            result = function(*arguments, **options)
            if stage != "publish":
                copy(f"after {stage}")
            return result

        return run

    for module, stage in STAGES:
        monkeypatch.setattr(module, stage, watched(stage, getattr(module, stage)))
    monkeypatch.setattr(os, "fsync", watched("publish", os.fsync))
    rename = Path.rename

    def copy_and_rename(staged: Path, target: Path) -> Path:
        copy("rename")
        return rename(staged, target)

    monkeypatch.setattr(Path, "rename", copy_and_rename)
    assert export_model(base_path, small, options=ONE_EPOCH).version == 2
    monkeypatch.undo()
    reached = [stage for stage, _ in copies]
    assert {f"after {stage}" for _, stage in STAGES if stage != "publish"} < set(reached)
    before = reached.index("rename") + 1
    staged = [len(list(path.glob(f"{STAGING_PREFIX}*/*"))) for _, path in copies[:before]]
    assert staged[0] == 0
    assert staged[-1] > 3  # the whole version, but for its name
    for _, path in copies[:before]:
        check_left(path)


@pytest.fixture
def killed(tmp_path: Path, npz: Path) -> Path:
    """The base path of an export that killed itself before its last file."""
    base_path = tmp_path / "model"
    earlier_version(base_path)
    arguments = [str(base_path), "--data", str(npz), "--epochs=1", "--run-eagerly", "--quiet"]
    command = [sys.executable, "-c", KILLED, *arguments]
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # of what tests share
    ended = subprocess.run(command, env=path, capture_output=True, timeout=240, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return base_path


def test_a_killed_export_leaves_no_version_and_the_next_one_tidies_up(killed: Path) -> None:
    (staged,) = killed.glob(f"{STAGING_PREFIX}*")
    assert (staged / "saved_model.pb").exists()
    check_left(killed)
