"""What version swaps do to latency: p50 and p99 of a steady load, while versions come and without.

The load and the server are those of tests/e2e/test_lifecycle.py, which fails if any request does.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(_TESTS))

from e2e.serving import ServerProcess  # noqa: E402
from e2e.steady import Answer, SteadyLoad  # noqa: E402

_WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
import pathlib, saved_models
saved_models.write_half_plus_two_tf2(pathlib.Path(sys.argv[1]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "m")
        write = [sys.executable, "-c", _WRITE, str(base_path / "1"), str(_TESTS)]
        subprocess.run(write, check=True, capture_output=True)
        with (
            ServerProcess("m", base_path, "--file_system_poll_wait_seconds=0.1") as server,
            SteadyLoad(server.address, "m") as load,
        ):
            load.wait_for_version(1)
            load.wait_for_more(500)
            begun = len(load.answers)
            load.wait_for_more(2000)
            calm = load.answers[begun:]
            begun = len(load.answers)
            for number in range(2, 2 + arguments.swaps):
                shutil.copytree(base_path / "1", base_path / "staged")
                (base_path / "staged").rename(base_path / str(number))
                load.wait_for_version(number)
            load.stop()
            swapping = load.answers[begun:]
    print(f"{'':20} requests  failed  p50 ms  p99 ms  max ms")
    _print_row("without swaps", calm)
    _print_row(f"{arguments.swaps} swaps on end", swapping)
    print(f"p99 with swaps to p99 without: {_p99_ms(swapping) / _p99_ms(calm):.2f}")


def _p99_ms(answers: list[Answer]) -> float:
    return float(np.percentile([1000 * answer.took_s for answer in answers], 99))


def _print_row(name: str, answers: list[Answer]) -> None:
    failed = sum(bool(answer.failure) for answer in answers)
    p50, p99, most = np.percentile([1000 * answer.took_s for answer in answers], [50, 99, 100])
    print(f"{name:20} {len(answers):8} {failed:7} {p50:7.1f} {p99:7.1f} {most:7.1f}")


if __name__ == "__main__":
    main()
