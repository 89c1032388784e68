"""What a load costs: CPU of each step, and how long others wait for Python's lock meanwhile.

    python benchmarks/loading.py            half a minute; the benchmarks' classifier
    python benchmarks/loading.py FOLDER     the SavedModel in a version's folder

A step's CPU is that of the whole process, and the least of several loads. A thread that wakes each
millisecond beside loads without a pause asks for Python's lock. Its waits are printed for slices of
Python's 5 ms, and for those that `ladle serve` has while it loads. What either thread waited for a
processor is taken off, so that other work on the machine disturbs little. Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import model

from ladle.server.core.machine import malloc
from ladle.server.core.machine.slices import SHORT_S
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model import loading, servable
from ladle.server.saved_model.runtime import tensorflow

_LOADS = 10
_SLICES_S = (0.005, SHORT_S)
_OWN_STEPS = {
    "warn_of_reaching_out": "look for what reaches files or Python",
    "prune": "pick what serving runs",
    "without_python": "look for calls of Python",
    "with_state": "look for state",
    "without_value": "look for variables without a value",
    "drop_graph": "free Python's copy of the graph",
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="a version's folder")
    parser.add_argument("--loads", type=int, default=_LOADS, help=f"default {_LOADS}")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder
        if folder is None:
            folder = Path(made, "1")
            model.publish(folder)
        load_and_unload(folder)  # the first is slower: modules are imported
        print("slices ms  waits  p50 ms  p95 ms  p99 ms  max ms")
        for slices_s in _SLICES_S:
            waits_ms = waits(folder, arguments.loads, slices_s)
            figures = " ".join(
                f"{each:7.2f}" for each in np.percentile(waits_ms, [50, 95, 99, 100])
            )
            print(f"{1000 * slices_s:9.2f} {len(waits_ms):6} {figures}")
        print("\nCPU ms  step")
        for step, cpu_s in steps(folder, arguments.loads).items():
            print(f"{1000 * cpu_s:6.1f}  {step}")


def load_and_unload(folder: Path) -> None:
    """Load a version, compile its first signature for all outputs, and unload it."""
    loaded = loading.load_saved_model(ServableId("m", 1), folder, loading.LoadOptions())
    if isinstance(loaded, servable.SavedModelServable):
        signature = next(iter(loaded.signatures.values()))
        loaded.compile(signature, tuple(signature.outputs))
    loaded.close()


def waits(folder: Path, loads: int, slices_s: float) -> list[float]:
    """Return how many ms a thread beside loads waited for Python's lock, each time it woke."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(slices_s)
    over = threading.Event()
    waited_ms: list[float] = []
    loading_thread = threading.get_native_id()

    def wake() -> None:
        threads = (threading.get_native_id(), loading_thread)
        unscheduled_s = sum(map(_unscheduled_s, threads))
        while not over.is_set():
            due = time.perf_counter() + 0.001
            time.sleep(0.001)
            late_s = time.perf_counter() - due
            before, unscheduled_s = unscheduled_s, sum(map(_unscheduled_s, threads))
            waited_ms.append(1000 * max(0.0, late_s - (unscheduled_s - before)))

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        for _ in range(loads):
            load_and_unload(folder)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(usual_s)
    return waited_ms


def steps(folder: Path, loads: int) -> dict[str, float]:
    """Return the CPU seconds of each step, of the load that took least for it."""
    tensorflow()
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    spent: dict[str, float] = defaultdict(float)

    def time_step(owner: Any, name: str, step: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[step] += time.process_time() - began

        setattr(owner, name, timed)

    time_step(SavedModelLoader, "__init__", "read saved_model.pb")
    for name, step in _OWN_STEPS.items():
        time_step(loading, name, step)
    time_step(SavedModelLoader, "load_graph", "import the graph")
    time_step(SavedModelLoader, "restore_variables", "restore the variables")
    time_step(SavedModelLoader, "run_init_ops", "initialise")
    time_step(loading, "load_saved_model", "LOAD, all of the above")
    time_step(servable.SavedModelServable, "compile", "compile a signature")
    time_step(malloc, "trim", "give memory back to the system")
    time_step(servable.SavedModelServable, "close", "UNLOAD")
    least: dict[str, float] = {}
    for _ in range(loads):
        spent.clear()
        load_and_unload(folder)
        least = {step: min(cpu_s, least.get(step, cpu_s)) for step, cpu_s in spent.items()}
    return least


def _unscheduled_s(thread: int) -> float:
    """Return for how long a thread of this process has waited for a processor."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9


if __name__ == "__main__":
    main()
