"""What importing the client costs, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# `google.protobuf` by itself is an empty package; the pool is what every use of it loads.
THE_THREE = "import numpy, grpc, google.protobuf.descriptor_pool"
THE_CLIENT = "import ladle.client"
MAX_RATIO = 1.3
MAX_ADDED_KB = 3_000


def run(code: str) -> str:
    # Python is allowed to keep what it compiles, as it is wherever ladle is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


def import_s(statement: str) -> float:
    """Return the CPU time of an import, which other processes disturb less than the clock's."""
    return float(
        run(f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)")
    )


def test_the_client_needs_neither_tensorflow_nor_an_extra() -> None:
    unwanted = ("tensorflow", "keras", "sklearn", "matplotlib", "ladle.server", "ladle.export")
    code = f"import sys, ladle.client; print([m for m in {unwanted!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_client_takes_little_longer_than_what_it_is_built_on() -> None:
    run(THE_CLIENT)  # compiled, and in the file cache
    three_s, client_s = [], []
    for _ in range(20):
        three_s.append(import_s(THE_THREE))
        client_s.append(import_s(THE_CLIENT))
        # The least of several runs is the one that nothing else got in the way of.
        if len(client_s) >= 3 and min(client_s) <= MAX_RATIO * min(three_s):
            return
    ratio = min(client_s) / min(three_s)
    raise AssertionError(f"expected at most {MAX_RATIO} times {THE_THREE!r}, got {ratio:.2f}")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_client_takes_little_memory_beside_what_it_is_built_on() -> None:
    def resident_kb(statement: str) -> int:
        told = run(f"{statement}\nprint(open('/proc/self/status').read())")
        return int(told.partition("VmRSS:")[2].split()[0])

    run(THE_CLIENT)  # compiled
    added_kb = resident_kb(THE_CLIENT) - resident_kb(THE_THREE)
    assert added_kb < MAX_ADDED_KB
