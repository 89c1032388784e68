"""What importing the client brings, in processes of its own.

What it takes beside numpy, grpc and protobuf is measured in tests/e2e/test_plain_install.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# `google.protobuf` by itself is an empty package; the pool is what every use of it loads.
THE_THREE = "import numpy, grpc, google.protobuf.descriptor_pool"
THE_CLIENT = "import ladle.client"
# 3,100 to 3,800 with Python 3.10 to 3.13.
MAX_ADDED_KB = 4_500


def run(code: str) -> str:
    # Python is allowed to keep what it compiles, as it is wherever ladle is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_the_client_needs_neither_tensorflow_nor_an_extra() -> None:
    unwanted = ("tensorflow", "keras", "sklearn", "matplotlib", "ladle.server", "ladle.export")
    code = f"import sys, ladle.client; print([m for m in {unwanted!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_client_takes_little_memory_beside_what_it_is_built_on() -> None:
    def resident_kb(statement: str) -> int:
        told = run(f"{statement}\nprint(open('/proc/self/status').read())")
        return int(told.partition("VmRSS:")[2].split()[0])

    run(THE_CLIENT)  # compiled
    added_kb = resident_kb(THE_CLIENT) - resident_kb(THE_THREE)
    assert added_kb < MAX_ADDED_KB
