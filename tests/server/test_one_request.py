"""How many modules one Predict enters, from its bytes to TensorFlow and back."""

from __future__ import annotations

import threading
from pathlib import Path
from types import FrameType

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S

import ladle.server
from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server import Config, Server

MOST = 20
ARCHITECTURE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()

SERVER = Path(ladle.server.__file__).parent
ROOTS = (SERVER, Path(tensors.__file__).parent.parent.parent)
WARM = 5
RECORDED = 10
# Both threads of a request enter one of them: the one that reads from the network, which takes the
# request, and the one that runs the batch, which makes the answer.
IN_BOTH_THREADS = (
    "ladle/server/rpc/prediction/predict.py",
    "ladle/server/rpc/alike/requests.py",
)
# A thread enters it when it starts, and one more may start amid the requests.
OF_A_NEW_THREAD = "ladle/server/core/machine/scheduling.py"


class Recorder:
    """A profile function for threads: notes which functions each of them enters, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.entered: dict[tuple[int, str], list[str]] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.is_on and event == "call":
            code = frame.f_code
            functions = self.entered.setdefault((threading.get_ident(), code.co_filename), [])
            if code.co_name not in functions:
                functions.append(code.co_name)

    def modules(self) -> dict[str, list[str]]:
        """Return ladle's modules that the threads of requests entered, each with its functions."""
        found: dict[str, dict[int, list[str]]] = {}
        for (thread, path), functions in self.entered.items():
            for root in ROOTS:
                if Path(path).is_relative_to(root):
                    relative = Path(path).relative_to(root)
                    name = f"ladle/server/{relative}" if root == SERVER else str(relative)
                    found.setdefault(name, {})[thread] = functions
                    break
        of_requests = {thread for name in IN_BOTH_THREADS for thread in found.get(name, {})}
        modules = {
            name: sorted({f for thread in of_requests & threads.keys() for f in threads[thread]})
            for name, threads in found.items()
        }
        modules.pop(OF_A_NEW_THREAD, None)
        return {name: functions for name, functions in modules.items() if functions}


@pytest.mark.parametrize("enable_batching", [True, None], ids=["vouched", "on trial"])
def test_one_predict_enters_few_modules(
    written_models: Path, transport_name: str, enable_batching: bool | None
) -> None:
    """In both threads: so many modules a reader has to open."""
    recorder = Recorder()
    config = Config(
        model_base_path=str(written_models / "half_plus_two"),
        model_name="m",
        port=None,
        transport=transport_name,
        drain_grace_seconds=0,
        enable_batching=enable_batching,
    )
    message = PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 1), np.float32)))
    request = message.SerializeToString()
    server = Server(config)
    threading.setprofile(recorder)  # of the threads that start from now on
    try:
        server.start()
        with grpc.insecure_channel(server.addresses[0]) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict"
            )
            for _ in range(WARM):
                call(request, timeout=TIMEOUT_S)
            recorder.is_on = True
            answers = [call(request, timeout=TIMEOUT_S) for _ in range(RECORDED)]
            recorder.is_on = False
    finally:
        threading.setprofile(None)
        server.stop(lame_duck=False)

    assert tensors.to_array(PredictResponse.FromString(answers[-1]).outputs["y"]) == [[2.5]]
    modules = recorder.modules()
    entered = "\n".join(f"{name}: {', '.join(functions)}" for name, functions in modules.items())
    assert any(name.startswith(f"ladle/server/transport/{transport_name}/") for name in modules)
    assert "ladle/server/saved_model/servable.py" in modules
    for name in modules:
        row = f"| `{name.removeprefix('ladle/').removeprefix('server/')}` |"
        assert row in ARCHITECTURE, f"expected a row of ARCHITECTURE.md for {name}, got none"
    assert len(modules) <= MOST, f"expected at most {MOST} modules, got {len(modules)}:\n{entered}"
