"""How TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ladle.server.saved_model.runtime import has_gpu, name_temporary_folder


@pytest.mark.parametrize("sign", ["/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"])
def test_a_gpu_is_noticed_by_its_driver(sign: str) -> None:
    assert has_gpu(sign.__eq__)
    assert not has_gpu(lambda _: False)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU, whose errors are shown")
def test_a_machine_without_a_gpu_is_not_told_that_cuda_failed() -> None:
    program = (
        "from ladle.server.saved_model.runtime import tensorflow\n"
        "tensorflow().compat.v1.Session(graph=tensorflow().Graph()).close()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "cuInit" not in ran.stderr


def test_a_file_system_without_room_for_temporary_files_is_no_hindrance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "gettempdir", none)
        name_temporary_folder()
    assert tempfile.gettempdir() == "/tmp"


def test_a_temporary_folder_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name_temporary_folder()
    assert tempfile.gettempdir() == str(tmp_path)
