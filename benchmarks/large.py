"""What a large request makes of a server's memory, beside a bare grpcio server that reads as much.

Prints how far each process's peak lies above what it held before, in sizes of the message; Linux
only, for /proc. The bare server does nothing with the message: what it takes is grpcio's own.
The classifier takes memory of its own for as many numbers as the images have, and with oneDNN
TensorFlow keeps what operations have taken. A signature that only adds up its input takes next to
nothing, and shows what is ladle's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import model
from process import ServerProcess

_BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc

class Read(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

options = [("grpc.max_receive_message_length", -1)]
server = grpc.server(ThreadPoolExecutor(2), handlers=[Read()], options=options)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""

_CLIENT = """
import sys
import grpc, numpy as np
from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest

port, megabytes = int(sys.argv[1]), float(sys.argv[2])
request = PredictRequest()
request.model_spec.name = "bench"
request.model_spec.signature_name = sys.argv[3]
rows = max(1, int(megabytes * (1 << 20) / (784 * 4)))
request.inputs["image"].CopyFrom(tensors.to_proto(np.zeros((rows, 28, 28), np.float32)))
data = request.SerializeToString()
del request
options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
    channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(data, timeout=300)
"""


def main() -> None:
    """Print a line for each server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=255, help="float32 images in the request")
    parser.add_argument("--requests", type=int, default=4, help="one after the other")
    arguments = parser.parse_args()
    command = [sys.executable, "-c", _BARE]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as bare:
        assert bare.stdout is not None
        port = int(bare.stdout.readline())
        _print("bare grpcio", peaks(bare.pid, port, arguments.megabytes, arguments.requests))
        bare.kill()
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "model", "1"))
        for signature in ("serving_default", "serving_sum"):
            with ServerProcess("ladle", str(Path(folder, "model"))) as server:
                given = server.pid, server.port, arguments.megabytes, arguments.requests
                _print(f"ladle, {signature}", peaks(*given, signature))


def peaks(
    pid: int, port: int, megabytes: int, requests: int, signature: str = "serving_default"
) -> list[float]:
    """Return the peak of each request, above what was held at first, in sizes of the request."""
    _send(port, 0, signature)
    before = _resident(pid, "VmRSS")
    grown = []
    for _ in range(requests):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        _send(port, megabytes, signature)
        grown.append((_resident(pid, "VmHWM") - before) / (megabytes << 20))
    return grown


def _send(port: int, megabytes: int, signature: str) -> None:
    command = [sys.executable, "-c", _CLIENT, str(port), str(megabytes), signature]
    subprocess.run(command, check=True, capture_output=True)


def _resident(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _print(name: str, grown: Sequence[float]) -> None:
    print(f"{name:24} " + "  ".join(f"{multiple:.2f}" for multiple in grown), flush=True)


if __name__ == "__main__":
    main()
