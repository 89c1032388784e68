"""What requests make of the server's memory, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIB = 1 << 20
PROGRAM = r"""
import json, sys, threading
from pathlib import Path
import grpc, numpy as np
from fakes import FakeServable
from transports import TRANSPORTS
from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.services import methods

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def answer(inputs):
    x = inputs["x"]
    return {"y": np.ones((len(x), 100_000), np.float32) if x.shape[1] == 3 else x[:, :1]}

model = FakeServable(answer)
manager = Manager(lambda _id, _path: BatchingServable(model, BatchOptions()))
manager.aspire("m", {1: Path("/m/1")})
assert manager.wait_until_settled(["m"], 30)
limits = Limits(int(sys.argv[1]), ByteBudget(1 << 62))
served = methods(manager, tensor_content=True)
transport = TRANSPORTS[sys.argv[2]](
    served, max_threads=2, limits=limits, compressed_requests=True
)
port = transport.listen("127.0.0.1:0")
transport.start()
print(json.dumps([port, peak()]), flush=True)
sys.stdin.readline()
print(peak(), flush=True)
"""

CLIENT = r"""
import sys, threading
import grpc, numpy as np
from ladle.protos import tensors
from ladle.protos.ladle_pb import PredictStreamRequest
from ladle.protos.serving_pb import PredictRequest

port, kind = int(sys.argv[1]), sys.argv[2]
request = PredictRequest()
request.model_spec.name = "m"
x = request.inputs["x"]
if kind == "large":
    x.CopyFrom(tensors.to_proto(np.zeros((16, 2 << 20), np.float32)))
elif kind == "stopped reader":
    request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 3), np.float32)))
elif kind == "gzip":
    request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 25 << 20), np.float32)))
elif kind == "thousand inputs":
    for n in range(1000):
        request.inputs[f"x{n}"].float_val.append(1.0)
else:
    x.dtype = 1
    x.tensor_shape.dim.add().size = 1 << int(kind)
    x.float_val.append(1.0)


def stop_reading(channel):
    # Sends what is answered with 200 MB, as far as it is taken, and reads the window alone.
    message = PredictStreamRequest(id=1, request=request).SerializeToString()
    taken = [0]
    over = threading.Event()

    def messages():
        for _ in range(500):
            taken[0] += 1
            yield message
        over.wait()

    stream = channel.stream_stream("/ladle.v1.StreamingPrediction/PredictStream", None, None)
    next(stream(messages(), timeout=60))
    seen = 0
    while seen != taken[0] or not seen:
        seen = taken[0]
        over.wait(0.5)
    assert seen < 500, "all was taken"
    del request.inputs["x"]
    request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))


options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict", None, None)
    try:
        if kind == "stopped reader":
            stop_reading(channel)
        compression = grpc.Compression.Gzip if kind == "gzip" else None
        call(request.SerializeToString(), timeout=60, compression=compression)
        print("OK")
    except grpc.RpcError as error:
        print(error.code().name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "code", "allowed"),
    [
        # gRPC holds a message three times while it hands it to Python; nothing comes on top.
        ("large", "OK", 3.5 * 128 * MIB),
        ("40", "INVALID_ARGUMENT", 16 * MIB),
        ("thousand inputs", "INVALID_ARGUMENT", 16 * MIB),
        # 100 MiB of zeros; past the limit of 1 MiB there are 64 MiB to explain the refusal in.
        ("gzip", "RESOURCE_EXHAUSTED", 80 * MIB),
        # A window of 64 answers of 0.4 MB, each in two pieces, and the connection's buffers.
        ("stopped reader", "OK", 80 * MIB),
    ],
)
def test_memory_is_bounded_by_what_was_sent(
    kind: str, code: str, allowed: float, transport_name: str
) -> None:
    environment = [sys.executable, "-c"]
    program = f"import sys; sys.path.insert(0, {str(__file__.rsplit('/server/', 1)[0])!r})\n"
    with subprocess.Popen(
        [*environment, program + PROGRAM, str(MIB if kind == "gzip" else 1 << 30), transport_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port, before = json.loads(server.stdout.readline())
            client = subprocess.run(
                [*environment, CLIENT, str(port), kind], capture_output=True, text=True, check=True
            )
            assert client.stdout.split() == [code]
            server.stdin.write("\n")
            server.stdin.flush()
            after = int(server.stdout.readline())
        finally:
            server.kill()
    assert after - before < allowed, f"{(after - before) / MIB:.0f} MiB more"
