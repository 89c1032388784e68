"""A model server made of nothing but tensorflow-serving-api's own stubs, for the client's tests.

Usage, by the conformance environment's Python: plain_server.py
Prints its address, and serves until its standard input ends. The models that it is configured to
serve are all alike: versions 1 and 2, with the signatures that
tests/client/servers/test_acceptance.py describes.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

Code = grpc.StatusCode
VERSIONS = (1, 2)
LABELS = {"stable": 1}
FLOAT, STRING = types_pb2.DT_FLOAT, types_pb2.DT_STRING
SIGNATURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "serving_default": (
        "predict",
        {"images": (FLOAT, (-1, 2, 2))},
        {"scores": (FLOAT, (-1, 2)), "mean": (FLOAT, (-1,))},
    ),
    "echo": ("predict", {"text": (STRING, (-1,))}, {"text": (STRING, (-1,))}),
    "classify": (
        "classify",
        {"inputs": (STRING, (-1,))},
        {"classes": (STRING, (-1, 2)), "scores": (FLOAT, (-1, 2))},
    ),
    "regress": ("regress", {"inputs": (STRING, (-1,))}, {"outputs": (FLOAT, (-1, 1))}),
}


class Models:
    """What is served, and how requests name it."""

    def __init__(self) -> None:
        self.names = {"m"}

    def version(self, spec: Any, context: Any) -> int:
        """Return the version that answers, or refuse the call."""
        wanted = spec.version.value if spec.HasField("version") else max(VERSIONS)
        if spec.version_label:
            if spec.version_label not in LABELS:
                refuse(context, Code.INVALID_ARGUMENT, f"unknown label {spec.version_label}")
            wanted = LABELS[spec.version_label]
        if spec.name not in self.names or wanted not in VERSIONS:
            refuse(context, Code.NOT_FOUND, f"Servable not found for request: {spec.name}")
        return int(wanted)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, models: Models) -> None:
        self._models = models

    def Predict(self, request: Any, context: Any) -> Any:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self._models.version(request.model_spec, context)
        name = request.model_spec.signature_name or "serving_default"
        if name not in SIGNATURES:
            refuse(context, Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        response.model_spec.signature_name = name
        _, inputs, declared = SIGNATURES[name]
        if request.inputs.keys() != inputs.keys():
            refuse(context, Code.INVALID_ARGUMENT, "input keys differ")
        given = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
        for alias in request.output_filter:
            if alias not in declared:
                refuse(context, Code.INVALID_ARGUMENT, f"output {alias} not found")
        for alias, array in self._run(given, context).items():
            if not request.output_filter or alias in request.output_filter:
                response.outputs[alias].CopyFrom(tf.make_tensor_proto(array))
        return response

    def _run(self, given: Any, context: Any) -> dict[str, Any]:
        if "text" in given:
            return {"text": given["text"]}
        images = given["images"]
        if images.dtype != np.float32 or images.shape[1:] != (2, 2):
            refuse(context, Code.INVALID_ARGUMENT, "images: expected float32 [-1, 2, 2]")
        if np.isnan(images).any():
            refuse(context, Code.INVALID_ARGUMENT, "images: expected numbers, got NaN")
        mean = images.mean(axis=(1, 2))
        return {"scores": np.stack([mean, 1 - mean], axis=1), "mean": mean}

    def Classify(self, request: Any, context: Any) -> Any:
        version = self._models.version(request.model_spec, context)
        response = classification_pb2.ClassificationResponse(model_spec=request.model_spec)
        response.model_spec.version.value = version
        classify(request.input, response.result)
        return response

    def Regress(self, request: Any, context: Any) -> Any:
        version = self._models.version(request.model_spec, context)
        response = regression_pb2.RegressionResponse(model_spec=request.model_spec)
        response.model_spec.version.value = version
        regress(request.input, response.result)
        return response

    def MultiInference(self, request: Any, context: Any) -> Any:
        response = inference_pb2.MultiInferenceResponse()
        for task in request.tasks:
            result = response.results.add(model_spec=task.model_spec)
            result.model_spec.version.value = self._models.version(task.model_spec, context)
            if task.method_name == "tensorflow/serving/classify":
                classify(request.input, result.classification_result)
            else:
                regress(request.input, result.regression_result)
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self._models.version(request.model_spec, context)
        for field in request.metadata_field:
            if field != "signature_def":
                refuse(context, Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, (method, inputs, outputs) in SIGNATURES.items():
            signature = signatures.signature_def[name]
            signature.method_name = f"tensorflow/serving/{method}"
            describe(inputs, signature.inputs)
            describe(outputs, signature.outputs)
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        self._models.version(request.model_spec, context)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in VERSIONS:
            if request.model_spec.version.value in (0, version):
                response.model_version_status.add(version=version, state="AVAILABLE")
        return response

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        self._models.names = {model.name for model in request.config.model_config_list.config}
        return model_management_pb2.ReloadConfigResponse()


def classify(rows: Any, result: Any) -> None:
    """Give each example the classes "x" and "rest", scored by its feature x."""
    for x in xs(rows):
        row = result.classifications.add()
        row.classes.add(label="x", score=x)
        row.classes.add(label="rest", score=1 - x)


def regress(rows: Any, result: Any) -> None:
    """Give each example its feature x."""
    for x in xs(rows):
        result.regressions.add(value=x)


def xs(rows: Any) -> list[float]:
    """Return feature x of each example; an example's own goes before the context's."""
    with_context = type(rows.example_list_with_context)()
    with_context.CopyFrom(rows.example_list_with_context)  # to read a map's key makes it
    shared = with_context.context.features.feature["x"].float_list.value
    return [
        (example.features.feature["x"].float_list.value or shared)[0]
        for example in (*rows.example_list.examples, *with_context.examples)
    ]


def describe(declared: dict[str, Any], infos: Any) -> None:
    """Put what a signature declares into its message."""
    for alias, (dtype, shape) in declared.items():
        info = meta_graph_pb2.TensorInfo(name=f"{alias}:0", dtype=dtype)
        for size in shape:
            info.tensor_shape.dim.add(size=size)
        infos[alias].CopyFrom(info)


def refuse(context: Any, code: grpc.StatusCode, details: str) -> NoReturn:
    """End the call with a status."""
    context.abort(code, details)
    raise AssertionError("abort raises")


def main() -> None:
    """Serve until standard input ends."""
    models = Models()
    server = grpc.server(ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert not any(name.partition(".")[0] == "ladle" for name in sys.modules)
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(grace=None).wait()


if __name__ == "__main__":
    main()
