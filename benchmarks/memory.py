"""Whether memory comes back: resident memory over cycles of loading and unloading a model.

Drives a real `ladle serve` through ladle.v1.ModelRepository, with requests to the model in each
cycle. Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from ladle.protos import tensors
from ladle.protos.ladle_pb import (
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from ladle.protos.serving_pb import GetModelStatusRequest, GetModelStatusResponse, PredictRequest

_REPOSITORY = "/ladle.v1.ModelRepository"
_TIMEOUT_S = 120
_END = 50
_WRITE = """
import sys
import tensorflow as tf

class Large(tf.Module):
    def __init__(self):
        super().__init__()
        size = int(sys.argv[2]) * 250_000 // int(sys.argv[3])
        self.tables = [tf.Variable(tf.random.normal([size])) for _ in range(int(sys.argv[3]))]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def __call__(self, x):
        return {"y": x * tf.add_n([tf.reduce_sum(table) for table in self.tables])}

model = Large()
tf.saved_model.save(model, sys.argv[1], {"serving_default": model.__call__})
"""


def main() -> None:
    """Print resident memory after each cycle, and the last one's beside the fifth's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=100, help="the model's size")
    parser.add_argument("--variables", type=int, default=1, help="how many it is divided into")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [str(arguments.megabytes), str(arguments.variables)]
        write = [sys.executable, "-c", _WRITE, f"{folder}/m/1", *sizes]
        subprocess.run(write, check=True, capture_output=True)
        resident = measure(Path(folder), arguments.cycles)
    for cycle, megabytes in enumerate(resident, 1):
        print(f"cycle {cycle:3}: {megabytes:7.1f} MB")
    fifth, last = resident[min(4, len(resident) - 1)], resident[-1]
    print(f"after {len(resident)} cycles {last:.1f} MB, {last / fifth - 1:+.1%} of the 5th's")


def measure(folder: Path, cycles: int) -> list[float]:
    """Return the megabytes of resident memory after each cycle of a model in `folder`/m."""
    config = folder / "models.config"
    config.write_text("model_config_list {}")
    command = ["-m", "ladle.cli", "serve", "--port=auto", f"--model_config_file={config}"]
    server = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        listening = re.search(r":(\d+)$", server.stdout.readline().strip())
        assert listening is not None
        with grpc.insecure_channel(f"127.0.0.1:{listening[1]}") as channel:
            resident = []
            for _ in range(cycles):
                _cycle(channel, folder / "m")
                resident.append(_resident_megabytes(server.pid))
            return resident
    finally:
        server.kill()
        server.communicate()


def _cycle(channel: grpc.Channel, base_path: Path) -> None:
    load = LoadModelRequest()
    load.config.name, load.config.base_path = "m", str(base_path)
    load.config.model_platform = "tensorflow"
    _call(channel, f"{_REPOSITORY}/LoadModel", load, LoadModelResponse)
    predict = PredictRequest()
    predict.model_spec.name = "m"
    predict.inputs["x"].CopyFrom(tensors.to_proto(np.ones(8, np.float32)))
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    for _ in range(20):
        call(predict.SerializeToString(), timeout=_TIMEOUT_S)
    _call(channel, f"{_REPOSITORY}/UnloadModel", UnloadModelRequest(name="m"), UnloadModelResponse)
    status = GetModelStatusRequest()
    status.model_spec.name = "m"
    path = "/tensorflow.serving.ModelService/GetModelStatus"
    while any(
        version.state != _END
        for version in _call(channel, path, status, GetModelStatusResponse).model_version_status
    ):
        _call(channel, f"{_REPOSITORY}/ListModels", ListModelsRequest(), ListModelsResponse)


def _call(channel: grpc.Channel, path: str, request: Any, response: Any) -> Any:
    call: Any = channel.unary_unary(path, type(request).SerializeToString, response.FromString)
    return call(request, timeout=_TIMEOUT_S)


def _resident_megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
