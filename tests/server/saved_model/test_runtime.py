"""How TensorFlow is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ladle.server.saved_model.runtime import has_gpu


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
