"""What a TensorFlow Lite model can be asked: its signatures, wherever the file has them.

A file has signatures in one of three forms, and they are looked for in this order: its own field
for them; a metadata entry of older converters, with serialized SignatureDefs; or none at all, and
then the whole model is one signature whose aliases are the tensors' names. tensorflow_model_server
reads the same three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.tensorflow_pb import SignatureDef, TensorInfo
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import DEFAULT_SIGNATURE, Arrays, Signature, TensorSpec

PREDICT_METHOD = "tensorflow/serving/predict"

# The metadata entry: a FlexBuffers map of names to serialized SignatureDefs.
_METADATA = "signature_defs_metadata"

# They write variables and tables, or draw random numbers.
_STATEFUL = frozenset(
    (
        "ASSIGN_VARIABLE",
        "HASHTABLE_IMPORT",
        "MULTINOMIAL",
        "RANDOM_STANDARD_NORMAL",
        "RANDOM_UNIFORM",
    )
)

Run: TypeAlias = "Callable[[Any, Arrays], Mapping[str, Any]]"
"""Runs one signature on an interpreter; returns all its outputs by alias."""


@dataclass(frozen=True)
class TFLiteFunction:
    """A signature, and how an interpreter of the model runs it."""

    signature: Signature
    run: Run


def functions(interpreter: Any, content: bytes) -> dict[str, TFLiteFunction]:
    """Return what the model can be asked, by signature name.

    Args:
        interpreter: has the model.
        content: the model's file.

    Raises:
        InvalidArgument: The metadata entry names tensors that the model lacks.
    """
    stateful = _state(content)
    return {
        name: replace(function, signature=replace(function.signature, stateful=stateful))
        for name, function in _functions(interpreter, content).items()
    }


def _functions(interpreter: Any, content: bytes) -> dict[str, TFLiteFunction]:
    if interpreter.get_signature_list():
        return {name: _own(interpreter, name) for name in interpreter.get_signature_list()}
    definitions = read_definitions(_metadata(content))
    if definitions:
        return {n: _by_tensors(interpreter, n, d) for n, d in definitions.items()}
    return {DEFAULT_SIGNATURE: _by_tensors(interpreter, DEFAULT_SIGNATURE, _whole(interpreter))}


def read_definitions(entry: bytes) -> dict[str, SignatureDef]:
    """Return the SignatureDefs of a metadata entry; none where the entry can't be read."""
    from flatbuffers import flexbuffers

    try:
        values = flexbuffers.GetRoot(entry).AsMap
        return {
            key.AsKey: SignatureDef.FromString(_bytes(values[key.AsKey])) for key in values.Keys
        }
    except Exception:  # damaged: whatever the reader of the format runs into
        return {}


def _bytes(value: Any) -> bytes:
    return bytes(value.AsBlob if value.IsBlob else value.AsStringBytes)


def definition(signature: Signature) -> SignatureDef:
    """Return the signature as GetModelMetadata answers it."""
    made = SignatureDef(method_name=signature.method_name)
    for specs, infos in ((signature.inputs, made.inputs), (signature.outputs, made.outputs)):
        for alias, spec in specs.items():
            info = TensorInfo(name=spec.feed_name, dtype=spec.data_type)
            for size in spec.shape or ():
                info.tensor_shape.dim.add(size=size)
            infos[alias].CopyFrom(info)
    return made


def _own(interpreter: Any, name: str) -> TFLiteFunction:
    runner = interpreter.get_signature_runner(name)
    signature = Signature(
        name=name,
        inputs={a: _spec(details) for a, details in runner.get_input_details().items()},
        outputs={a: _spec(details) for a, details in runner.get_output_details().items()},
        method_name=PREDICT_METHOD,
    )

    def run(interpreter: Any, inputs: Arrays) -> Mapping[str, Any]:
        outputs: Mapping[str, Any] = interpreter.get_signature_runner(name)(**inputs)
        return outputs

    return TFLiteFunction(signature, run)


def _whole(interpreter: Any) -> SignatureDef:
    made = SignatureDef(method_name=PREDICT_METHOD)
    for details, infos in (
        (interpreter.get_input_details(), made.inputs),
        (interpreter.get_output_details(), made.outputs),
    ):
        for tensor in details:
            infos[tensor["name"]].name = tensor["name"]
    return made


def _by_tensors(interpreter: Any, name: str, given: SignatureDef) -> TFLiteFunction:
    fed = _found(interpreter.get_input_details(), given.inputs, name)
    fetched = _found(interpreter.get_output_details(), given.outputs, name)
    signature = Signature(
        name=name,
        inputs={alias: _spec(details) for alias, details in fed.items()},
        outputs={alias: _spec(details) for alias, details in fetched.items()},
        method_name=given.method_name or PREDICT_METHOD,
    )
    feeds = {alias: details["index"] for alias, details in fed.items()}
    fetches = {alias: details["index"] for alias, details in fetched.items()}

    def run(interpreter: Any, inputs: Arrays) -> Mapping[str, Any]:
        shapes = {details["index"]: details["shape"] for details in interpreter.get_input_details()}
        for alias, array in inputs.items():
            if tuple(shapes[feeds[alias]]) != array.shape:
                interpreter.resize_tensor_input(feeds[alias], array.shape)
        interpreter.allocate_tensors()
        for alias, array in inputs.items():
            interpreter.set_tensor(feeds[alias], array)
        interpreter.invoke()
        return {alias: interpreter.get_tensor(index) for alias, index in fetches.items()}

    return TFLiteFunction(signature, run)


def _found(
    details: list[dict[str, Any]], infos: Mapping[str, TensorInfo], signature: str
) -> dict[str, dict[str, Any]]:
    """Return the model's tensor for each alias; converters differ in the `:0` of a name."""
    tensors = {tensor["name"].removesuffix(":0"): tensor for tensor in details}
    found = {}
    for alias, info in infos.items():
        tensor = tensors.get(info.name.removesuffix(":0"))
        if tensor is None:
            raise InvalidArgument(
                f"signature {signature!r}: {alias!r} names the tensor {info.name!r}, and the model "
                f"has {sorted(tensors)}"
            )
        found[alias] = tensor
    return found


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        data_type=dtypes.from_numpy(np.dtype(details["dtype"])),
        shape=tuple(int(size) for size in details["shape_signature"]),
        feed_name=details["name"],
    )


def _metadata(content: bytes) -> bytes:
    """Return the bytes of the metadata entry with SignatureDefs; empty if there is none."""
    schema = _schema()
    try:
        model = schema.Model.GetRootAs(content, 0)
        for at in range(model.MetadataLength()):
            entry = model.Metadata(at)
            if entry is not None and entry.Name() == _METADATA.encode():
                data: NDArray[np.uint8] | int = model.Buffers(entry.Buffer()).DataAsNumpy()
                return b"" if isinstance(data, int) else data.tobytes()
    except Exception:  # a damaged table: whatever the generated reader runs into
        return b""
    return b""


def _state(content: bytes) -> str:
    """Return why requests must run exactly once, for all signatures of a file; empty if none must.

    Operations of TensorFlow that the file needs (Flex) and other custom ones count as stateful: an
    interpreter doesn't say what they do.
    """
    schema = _schema()
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(content, 0)
    for at in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(at)
        # Files of old converters have the number in the narrow field alone.
        name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
        if name == "CUSTOM":
            name = (code.CustomCode() or b"CUSTOM").decode(errors="replace")
            return f"the model has an operation whose state is not known: {name}"
        if name in _STATEFUL:
            return f"the model has state that each run may change or use: operation {name}"
    for at in range(model.SubgraphsLength()):
        graph = model.Subgraphs(at)
        if any(graph.Tensors(n).IsVariable() for n in range(graph.TensorsLength())):
            return "the model has a tensor that keeps its value between runs"
    return ""


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        from tensorflow.lite.python import schema_py_generated
    return schema_py_generated
