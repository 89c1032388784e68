"""What a server needs for models of several kinds: CPU of a request, and memory.

Each kind is served by a real `ladle serve` of its own, and asked by ladle's client. CPU
is that of the server's process, on all cores, so what else the machine does disturbs it little: its
inverse is the requests/s that a core bears. Memory is the process's resident set, with TensorFlow's
files. Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ladle.client import Client

_IN_FLIGHT = 8
_TIMEOUT_S = 120.0
_WRITE = """
import sys
import keras
from keras import layers
kind, path = sys.argv[1:]
if kind == "dense":
    model = keras.Sequential(
        [keras.Input((784,)), layers.Dense(128, "relu"), layers.Dense(10, "softmax")])
elif kind == "small-convolutions":
    model = keras.Sequential([
        keras.Input((28, 28, 1)), layers.Conv2D(6, 5, activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(120, "relu"), layers.Dense(84, "relu"), layers.Dense(10, "softmax")])
elif kind == "text":
    model = keras.Sequential([
        keras.Input((128,), dtype="int32"), layers.Embedding(20_000, 128), layers.LSTM(128),
        layers.Dense(2, "softmax")])
elif kind == "mobilenet":
    model = keras.applications.MobileNetV2(weights=None)
else:
    model = keras.applications.ResNet50(weights=None)
model.export(path, verbose=False)
"""


class Kind(NamedTuple):
    """A kind of model: what one example of it is."""

    title: str
    shape: tuple[int, ...]
    dtype: str = "float32"


KINDS = {
    "dense": Kind("dense, 784-128-10", (784,)),
    "small-convolutions": Kind("small convolutions, 28 x 28", (28, 28, 1)),
    "text": Kind("LSTM over 128 words", (128,), "int32"),
    "mobilenet": Kind("MobileNetV2, 224 x 224", (224, 224, 3)),
    "resnet": Kind("ResNet50, 224 x 224", (224, 224, 3)),
}


class Served(NamedTuple):
    """A server in a process of its own."""

    pid: int
    address: str

    def cpu_s(self) -> float:
        """The CPU seconds that it has used, on all cores."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Its resident memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--transport", default="auto", help="as ladle serve takes it")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load, for each figure")
    arguments = parser.parse_args()
    transport = arguments.transport
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "none.config").write_text("model_config_list {}")
        with serving(f"--model_config_file={folder / 'none.config'}", transport) as server:
            print(f"no model: {server.megabytes():.0f} MB", flush=True)
        print(
            "| model | MB on disk | MB loaded | MB after load | CPU ms of 1 | a core bears |"
            " CPU ms an example, of 32 |\n|---|---|---|---|---|---|---|"
        )
        for kind in arguments.only:
            path = folder / kind / "1"
            write = [sys.executable, "-c", _WRITE, kind, str(path)]
            subprocess.run(write, check=True, capture_output=True)
            disk = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
            with serving(str(folder / kind), transport) as server:
                with Client(server.address, timeout=_TIMEOUT_S) as client:
                    client.metadata(kind)  # waits for it
                time.sleep(2)  # what comes after a load: memory goes back
                loaded = server.megabytes()
                one = cost_s(server, kind, 1, arguments.seconds)
                many = cost_s(server, kind, 32, arguments.seconds) / 32
                print(
                    f"| {KINDS[kind].title} | {disk:.1f} | {loaded:.0f} | "
                    f"{server.megabytes():.0f} | {1e3 * one:.2f} | {1 / one:.0f}/s | "
                    f"{1e3 * many:.3f} |",
                    flush=True,
                )


@contextmanager
def serving(what: str, transport: str) -> Iterator[Served]:
    """Run `ladle serve` with a folder or a flag, and yield once its port is open."""
    command = [sys.executable, "-m", "ladle.cli", "serve", what, f"--transport={transport}"]
    command += ["--port=auto", "--rest_api_port=auto", "--drain_grace_seconds=1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)", process.stdout.readline())
        assert found is not None, "the server ended"
        yield Served(process.pid, f"localhost:{found[1]}")
    finally:
        process.terminate()
        process.wait(_TIMEOUT_S)


def cost_s(server: Served, kind: str, rows: int, seconds: float) -> float:
    """Return the CPU seconds of a request of so many examples, 8 in flight."""
    shape, dtype = KINDS[kind].shape, KINDS[kind].dtype
    examples: Any = np.zeros((rows, *shape), dtype)
    counts = [0] * _IN_FLIGHT
    with Client(server.address, timeout=_TIMEOUT_S) as client:
        client.predict(kind, examples)
        until = time.monotonic() + seconds
        before = server.cpu_s()

        def ask(caller: int) -> None:
            while time.monotonic() < until:
                client.predict(kind, examples)
                counts[caller] += 1

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(_IN_FLIGHT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (server.cpu_s() - before) / sum(counts)


if __name__ == "__main__":
    main()
