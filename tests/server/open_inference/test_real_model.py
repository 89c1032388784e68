"""A real SavedModel, asked over both protocols and every form, gives the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S
from numpy.typing import NDArray
from server.open_inference.harness import Served, request, row
from server.open_inference.test_inference import assert_same, from_json, json_of, read_binary

from ladle.protos import tensors
from ladle.protos.datatypes import BY_NAME, to_raw
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.server import Config, Server


@pytest.fixture(scope="module")
def real(written_models: Path) -> Iterator[Served]:
    base = str(written_models / "oddities")
    server = Server(
        Config(
            port=None,
            rest_api_port=None,
            model_name="oddities",
            model_base_path=base,
            drain_grace_seconds=0,
        )
    )
    server.start()
    ports = [address.rpartition(":")[2] for address in server.addresses]
    with (
        grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as channel,
        httpx.Client(base_url=f"http://127.0.0.1:{ports[-1]}", timeout=TIMEOUT_S) as http,
    ):
        yield Served(server, channel, http, {}, written_models)
    server.stop(lame_duck=False)


@row(33, 81)
@pytest.mark.parametrize(
    ("signature", "name", "values"),
    [
        ("through", "FP32", [1.5, -0.25, 1e38]),
        ("float16", "FP16", [1.5, -0.25, 65504]),
        ("bfloat16", "BF16", [1.5, -0.25, 3e38]),
        ("int16", "INT16", [-32768, 0, 32767]),
        ("string", "BYTES", [b"", "\u00e4".encode(), b"a\0b"]),
    ],
)
def test_five_ways_have_the_same_answer(
    real: Served, signature: str, name: str, values: list[Any]
) -> None:
    dtype = BY_NAME[name].dtype
    x: NDArray[Any] = np.array(values, dtype)
    y, wanted = "y", x * 2 if signature == "through" else x

    predict = PredictRequest(output_filter=[y])
    predict.model_spec.name = "oddities"
    predict.model_spec.signature_name = signature
    predict.inputs["x"].CopyFrom(tensors.to_proto(x))
    call: Any = real.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    answer = PredictResponse.FromString(call(predict.SerializeToString(), timeout=TIMEOUT_S))
    assert_same(tensors.to_array(answer.outputs[y]), wanted)

    message = request(f"oddities:{signature}", x=x)
    message.outputs.add(name=y)
    response = real.infer(message)
    assert response.raw_output_contents[0] == bytes(to_raw(wanted))

    binary = real.infer_over_rest(message, parameters={"binary_data_output": True})
    assert_same(read_binary(binary)[y], wanted)

    data = json_of(x[:, None])
    given = {"name": "x", "datatype": name, "shape": [3], "data": data}
    in_json = real.post(
        f"/v2/models/oddities:{signature}/infer", {"inputs": [given], "outputs": [{"name": y}]}
    )
    assert_same(from_json(in_json.json()["outputs"][0]), wanted)

    body = {"signature_name": signature, "inputs": [value for (value,) in data]}
    v1 = real.post("/v1/models/oddities:predict", body)
    if signature == "through":  # it asks for all outputs, and one is the input itself
        assert v1.status_code == 400
        return
    if name in ("FP16", "BF16", "INT16") and v1.status_code != 200:
        assert v1.status_code == 501  # TensorFlow Serving has no JSON for it
        return
    told = v1.json()["outputs"]
    told = told[y] if isinstance(told, dict) else told
    assert_same(from_json({"datatype": name, "shape": [3], "data": told}), wanted)
