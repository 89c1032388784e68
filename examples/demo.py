"""The whole path on real images: train, publish, serve and predict.

`make demo` runs it. On a terminal the server goes on until Ctrl-C; otherwise the demo stops it and
ends. Everything that it makes lies in ./demo, or in the folder given by --dir.
"""

from __future__ import annotations

import argparse
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ladle.client import Client, LadleError, Prediction
from ladle.client.plots import save_predictions
from ladle.export import Dataset, ExportError, load_data

MODEL = "digits"
BATCH_SIZE = 64
SHOWN = 12
MIN_ACCURACY = 0.95
EXPORT_TIMEOUT_S = 600
# TensorFlow's import is most of it.
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60

LADLE = [sys.executable, "-m", "ladle.cli"]


class DemoError(Exception):
    """What ends the demo, in one line."""


class Server(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen[str]
    grpc: str
    """Where gRPC is, such as 127.0.0.1:8500."""
    http: str
    """The URL of the status page."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="default: ./demo")
    folder: Path = parser.parse_args(argv).dir
    # Shells have what runs in the background ignore it, and then Python does nothing at Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)  # so that `finally` is reached, and the server stopped
    try:
        run(folder)
    except (DemoError, ExportError, ImportError, LadleError, OSError) as error:
        print("demo:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def run(folder: Path) -> None:
    """Train, publish, serve and predict, with all files in `folder`."""
    base_path = folder / "models" / MODEL
    base_path.mkdir(parents=True, exist_ok=True)
    export(base_path)
    held_out = load_data(MODEL)
    print("\nStarting the server", flush=True)
    with serving(base_path, folder / "server.log") as server:
        print(
            f"Serving {base_path} on {server.grpc}; asking it about held-out images\n", flush=True
        )
        predict_held_out(server.grpc, held_out, folder / "predictions.png")
        if sys.stdin.isatty() and sys.stdout.isatty():
            stay(server)


def predict_held_out(address: str, held_out: Dataset, picture: Path) -> None:
    """Predict the held-out images, print how that went, and draw some of them into `picture`."""
    with Client(address) as client:
        predictions = [
            client.predict(MODEL, held_out.x_test[start : start + BATCH_SIZE])
            for start in range(0, len(held_out.x_test), BATCH_SIZE)
        ]
    probabilities = np.concatenate([prediction["probabilities"] for prediction in predictions])
    truths = held_out.y_test
    print_table(predictions[0], truths[:SHOWN], held_out.labels)
    accuracy = float(np.mean(probabilities.argmax(axis=1) == truths))
    print(f"\nAccuracy: {accuracy:.4f} on {len(truths)} held-out images")
    save_predictions(
        picture,
        held_out.x_test[:SHOWN],
        probabilities[:SHOWN],
        truths[:SHOWN].tolist(),
        predictions[0].labels,
    )
    print(f"Picture:  {picture}")
    if accuracy < MIN_ACCURACY:
        raise DemoError(f"expected an accuracy of at least {MIN_ACCURACY}, got {accuracy:.4f}")


def stay(server: Server) -> None:
    """Say where to look and how to stop, and wait for Ctrl-C."""
    print(f"\nThe server goes on. Draw a digit on its status page: {server.http}")
    try:
        print("Ctrl-C stops it.", flush=True)
        status = server.process.wait()
    except KeyboardInterrupt:
        print("\nStopping the server", flush=True)
    else:
        raise DemoError(f"ladle serve: ended with exit status {status} unasked")


def export(base_path: Path) -> None:
    """Train the classifier and publish it as the next version under `base_path`."""
    command = [*LADLE, "export", str(base_path), "--data", MODEL]
    try:
        status = subprocess.run(command, timeout=EXPORT_TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        raise DemoError(f"ladle export: not done within {EXPORT_TIMEOUT_S} s") from None
    if status:
        raise DemoError(f"ladle export: expected exit status 0, got {status}")


@contextmanager
def serving(base_path: Path, log: Path) -> Iterator[Server]:
    """Serve the newest version under `base_path`; gives the server, and stops it.

    Raises:
        DemoError: The server doesn't listen, or doesn't end well; its log tells more.
    """
    command = [*LADLE, "serve", "--port=auto", "--rest_api_port=auto", f"--model_name={MODEL}"]
    command.append(f"--model_base_path={base_path.resolve()}")
    with log.open("w") as stderr:
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which stops the server
        )
    try:
        grpc, http = _ports(server, log)
        yield Server(server, f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}/")
        server.send_signal(signal.SIGTERM)
        if status := _wait(server, "after SIGTERM"):
            raise DemoError(f"ladle serve: expected exit status 0 on SIGTERM, got {status}: {log}")
    finally:
        server.kill()  # does nothing to one that has ended
        server.wait()


def print_table(prediction: Prediction, truths: NDArray[Any], labels: tuple[str, ...]) -> None:
    """Print what was predicted for the first images, how surely, and what they are."""
    print(f"{'image':>5}  {'predicted':>9}  {'probability':>11}  {'true':>4}")
    for number, (truth, [best]) in enumerate(zip(truths, prediction.top(1), strict=False), start=1):
        true_label = labels[truth]
        mark = "" if best.label == true_label else "  wrong"
        print(f"{number:>5}  {best.label:>9}  {best.score:>11.1%}  {true_label:>4}{mark}")


def _ports(server: subprocess.Popen[str], log: Path) -> tuple[int, int]:
    """Return the ports for gRPC and HTTP, in whose order the server says where it listens."""
    assert server.stdout is not None
    ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    # Reads to the end, so that the server never waits for a full pipe.
    threading.Thread(
        target=_read_ports, args=(server.stdout, ports), name="server-stdout", daemon=True
    ).start()
    return _port(server, log, ports), _port(server, log, ports)


def _port(server: subprocess.Popen[str], log: Path, ports: queue.SimpleQueue[int | None]) -> int:
    try:
        port = ports.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        raise DemoError(f"ladle serve: not listening within {START_TIMEOUT_S} s: {log}") from None
    if port is None:
        status = _wait(server, "after closing its output")
        reason = (log.read_text(errors="replace").splitlines() or [""])[-1]
        raise DemoError(f"ladle serve: ended with exit status {status} unasked: {reason}")
    return port


def _read_ports(stdout: TextIO, ports: queue.SimpleQueue[int | None]) -> None:
    with stdout:
        for line in stdout:
            if found := re.search(r"listening on \S+:(\d+)", line):
                ports.put(int(found[1]))
    ports.put(None)


def _wait(server: subprocess.Popen[str], after: str) -> int:
    try:
        return server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DemoError(f"ladle serve: still running {STOP_TIMEOUT_S} s {after}") from None


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
