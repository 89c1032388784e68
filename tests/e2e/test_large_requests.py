"""What a large request makes of a real server's memory: no more than gRPC takes to receive it."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e.memory import forget_peak, resident
from e2e.serving import ServerProcess
from fakes import TIMEOUT_S

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse

pytestmark = pytest.mark.e2e

SIZE = 128 << 20
# gRPC for Python holds a message three times while it hands it over (benchmarks/large.py). The
# rest is what the heap keeps between requests.
MOST = 3.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_requests_one_after_the_other_take_no_more_than_the_first(
    written_models: Path,
) -> None:
    values = np.ones(SIZE // 4, np.float32)
    request = PredictRequest(output_filter=["y"])
    request.model_spec.name = "oddities"
    request.model_spec.signature_name = "sum"
    small = PredictRequest.FromString(request.SerializeToString())
    request.inputs["x"].CopyFrom(tensors.to_proto(values))
    small.inputs["x"].CopyFrom(tensors.to_proto(values[:1]))
    options = [("grpc.max_send_message_length", -1)]
    with (
        ServerProcess("oddities", written_models / "oddities") as server,
        grpc.insecure_channel(server.address, options=options) as channel,
    ):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def total(message: PredictRequest) -> float:
            data = call(message.SerializeToString(), timeout=TIMEOUT_S)
            return float(tensors.to_array(PredictResponse.FromString(data).outputs["y"]))

        assert total(small) == 1
        before = resident(server.pid, "VmRSS")
        for _ in range(3):
            forget_peak(server.pid)
            assert total(request) == values.size
            grown = (resident(server.pid, "VmHWM") - before) / SIZE
            assert grown < MOST
