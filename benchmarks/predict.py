"""`ladle predict` beside a bare grpcio loop that sends the same requests, in turns, in one run.

Prints the rows/s of both, their ratio, and the peak memory of `ladle predict`. The loop's requests
are made beforehand, and nobody looks at its answers: it is what gRPC for Python takes at least.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import model
from process import ServerProcess

from ladle.client.messages import requests

ROWS_PER_REQUEST = 512
_IN_FLIGHT = 8
_ROW_BYTES = 28 * 28
_SIGNATURE = "serving_uint8"


def main() -> None:
    """Make the data, measure, and print."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        data = Path(folder, "images.parquet")
        write_images(data, arguments.rows, as_lists=arguments.lists)
        print(f"{arguments.rows:,} rows, {data.stat().st_size >> 20} MB", flush=True)
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        ratios = []
        with ServerProcess("ladle", str(base_path)) as server:
            bare_rows_per_s(server.port, 50_000)  # warms the server up
            for _ in range(arguments.runs):
                bare = bare_rows_per_s(server.port, arguments.rows)
                rate, peak_mb, process_s = predict(server.port, data, Path(folder, "out"))
                ratios.append(rate / bare)
                print(
                    f"bare {bare:,.0f} rows/s, ladle predict {rate:,.0f} rows/s "
                    f"({arguments.rows / process_s:,.0f} with the process's start), "
                    f"ratio {rate / bare:.2f}, peak {peak_mb:.0f} MB",
                    flush=True,
                )
        print(f"median ratio {statistics.median(ratios):.2f}")


def write_images(path: Path, rows: int, *, as_lists: bool) -> None:
    """Write made-up images, `[rows, 784]` bytes, as a column of bytes or of lists of numbers."""
    random = np.random.default_rng(0)
    kind = pa.list_(pa.uint8(), _ROW_BYTES) if as_lists else pa.binary(_ROW_BYTES)
    with pq.ParquetWriter(path, pa.schema({"image": kind}), compression="none") as writer:
        for begin in range(0, rows, 100_000):
            count = min(100_000, rows - begin)
            pixels = random.integers(0, 256, count * _ROW_BYTES, dtype=np.uint8)
            if as_lists:
                column = pa.FixedSizeListArray.from_arrays(pa.array(pixels), _ROW_BYTES)
            else:
                buffers = [None, pa.py_buffer(pixels)]
                column = pa.FixedSizeBinaryArray.from_buffers(kind, count, buffers)
            writer.write_table(pa.table({"image": column}))


def bare_rows_per_s(port: int, rows: int) -> float:
    """Send the requests with some in flight, as fast as they are answered; return the rows/s."""
    random = np.random.default_rng(0)
    asked = requests.servable("bench", 1)
    bodies = [
        requests.predict(
            asked,
            {"image": random.integers(0, 256, (ROWS_PER_REQUEST, 28, 28), dtype=np.uint8)},
            signature=_SIGNATURE,
        ).body
        for _ in range(16)
    ]
    count = -(-rows // ROWS_PER_REQUEST)
    done: SimpleQueue[grpc.Future[bytes]] = SimpleQueue()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(requests.PREDICT)
        method(bodies[0])
        began = time.perf_counter()
        for index in range(count + _IN_FLIGHT):
            if index >= _IN_FLIGHT:
                done.get().result()
            if index < count:
                method.future(bodies[index % len(bodies)]).add_done_callback(done.put)
        return count * ROWS_PER_REQUEST / (time.perf_counter() - began)


def predict(port: int, data: Path, out: Path) -> tuple[float, float, float]:
    """Run `ladle predict`; return its rows/s, its peak memory in MB, and the process's seconds."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "ladle.cli", "predict", "--server", f"127.0.0.1:{port}"]
    command += ["--model", "bench", "--signature", _SIGNATURE, "--input", str(data)]
    command += ["--output", str(out), "--json", "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak_mb = 0.0
    while process.poll() is None:
        peak_mb = max(peak_mb, _peak_mb(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    assert process.returncode == 0, told
    return told["rows_now"] / told["seconds"], peak_mb, seconds


def _peak_mb(pid: int) -> float:
    """Return the most memory that a process has had; rusage would count this one's as well."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except ProcessLookupError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lists", action="store_true", help="a column of lists, not of bytes")
    parser.add_argument("--folder", help="where the data lies meanwhile")
    return parser


if __name__ == "__main__":
    main()
