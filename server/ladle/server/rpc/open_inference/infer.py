"""ModelInfer: a parser and an encoder around the queue that Predict's requests wait in too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import wire
from ladle.protos.datatypes import BY_NAME, BY_NUMBER, Datatype, to_raw
from ladle.protos.inference_pb import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from ladle.protos.serving_pb import ModelSpec
from ladle.protos.zero_copy import extract_repeated_bytes
from ladle.server.core.errors import InvalidArgument, NotFound, ResourceExhausted, Unimplemented
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.machine import malloc
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.middleware import BlockingPart, ObservedCall
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.classification import classified, classify_counts
from ladle.server.rpc.open_inference.datatypes import Tensor, from_raw, from_values
from ladle.server.rpc.queued import Outputs, QueuedMethod
from ladle.server.rpc.request import Invocation, parse

PATH = "/inference.GRPCInferenceService/ModelInfer"

_RAW_INPUTS = 7
_RAW_OUTPUTS = 6
_MAX_RESPONSE_BYTES = (1 << 31) - 1  # no gRPC message can be larger

# The parameters with a meaning here, or a type that is held to: the protocol's own.
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_TRITON_TAKEN = "triton_enable_empty_final_response"


class ParsedInfer(NamedTuple):
    """A ModelInferRequest that was read."""

    message: ModelInferRequest
    raw: Sequence[bytes | memoryview]
    """The raw contents; large ones are views of the request."""
    name: names.Name
    spec: ModelSpec
    timeout_s: float | None
    typed: bool
    """Whether the answer goes into typed fields."""


class ModelInfer:
    """ModelInfer as an InferMethod. Thread-safe."""

    path = PATH

    def __init__(self, manager: Manager) -> None:
        """`manager` knows which models are configured, and their labels."""
        self._manager = manager

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> ParsedInfer:
        """Return a request, its large raw contents as views of `data`.

        Raises:
            InvalidArgument: The bytes are no ModelInferRequest, or a name or parameter is wrong.
            NotFound: No model is configured under the name.
        """
        rest, raw = extract_repeated_bytes(data, _RAW_INPUTS)
        message = parse(ModelInferRequest, rest)
        name = names.parse_name(message.model_name, self._manager)
        spec = names.parse_version(name, message.model_version)
        if not self._manager.is_known(name.model):
            raise names.missing(name, spec, self._manager)
        _check_parameters(message)
        return ParsedInfer(
            message,
            raw or message.raw_input_contents,
            name,
            names.resolve_label(self._manager, spec),
            _timeout_s(message.parameters),
            not message.parameters["binary_data_output"].bool_param
            if "binary_data_output" in message.parameters
            else False,
        )

    def model_spec(self, request: ParsedInfer) -> ModelSpec:
        """Return which model and version the request names."""
        return request.spec

    def plan(
        self, model: Model, request: ParsedInfer
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], bytes]]:
        """Return what to run, and what encodes the ModelInferResponse.

        Checks come in this order: signature, outputs, presence of inputs; then for each input its
        datatype, shape and size; then the rows.

        Raises:
            InvalidArgument: The request does not fit the signature.
            Unimplemented: It needs what the server does not have, such as shared memory.
        """
        message, given = request.message, request.name.given
        signature = names.find_signature(
            model, _text(message.parameters, "signature_name") or request.name.signature
        )
        wanted = _wanted_outputs(message, signature, given)
        counts = classify_counts(message, signature)
        inputs = _inputs(request, signature)
        encode = partial(_encode, request, signature, wanted, counts, model.card_json)
        in_signatures_order = tuple(alias for alias in signature.outputs if alias in set(wanted))
        return Invocation(signature, inputs, in_signatures_order), encode


class ModelInferMethod:
    """Answers ModelInfer calls. Thread-safe."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._method = ModelInfer(manager)
        self._queued = QueuedMethod(manager, self._method)

    def __call__(self, call: ObservedCall) -> BlockingPart | None:
        """Answer the call once its rows have run; never blocks.

        Returns what has to be called in a thread instead, where it has to wait for the model.
        """
        request = self._method.parse(call.request, call.metadata)
        deadline = call.deadline
        if request.timeout_s is not None:
            timeout = time.monotonic() + request.timeout_s
            deadline = timeout if deadline is None else min(deadline, timeout)
        try:
            part = self._queued.begin(call, request, deadline)
        except NotFound:
            raise names.missing(request.name, request.spec, self._manager) from None
        return part and partial(self._wait, part, request.name, request.spec)

    def _wait(
        self, part: BlockingPart, name: names.Name, spec: ModelSpec, call: ObservedCall
    ) -> None:
        try:
            part(call)
        except NotFound:
            raise names.missing(name, spec, self._manager) from None


def _check_parameters(message: ModelInferRequest) -> None:
    for key, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if key == "timeout":
            _require(key, kind, "int64_param")
            if value.int64_param < 0:
                raise InvalidArgument(
                    f"invalid value for 'timeout' parameter, expected >= 0, got {value.int64_param}"
                )
        elif key == "priority":
            if kind == "int64_param" and value.int64_param < 0:
                raise InvalidArgument("invalid value for 'priority' parameter, expected >= 0")
            _require(key, kind, "uint64_param", "int64_param")
        elif key == "sequence_id":
            _require(key, kind, "int64_param", "string_param")
        elif key in ("sequence_start", "sequence_end", "binary_data_output", _TRITON_TAKEN):
            _require(key, kind, "bool_param")
        elif key == "signature_name":
            _require(key, kind, "string_param")
        elif key.startswith("triton_"):
            raise InvalidArgument(
                f"parameter keys starting with 'triton_' are reserved, got '{key[:100]}'"
            )
    parameters = [tensor.parameters for tensor in message.inputs]
    parameters += [tensor.parameters for tensor in message.outputs]
    if any(key in given for given in parameters for key in _SHARED_MEMORY):
        raise Unimplemented("shared memory is not supported")


def _require(key: str, kind: str | None, *expected: str) -> None:
    if kind not in expected:
        one_of = " or ".join(expected)
        raise InvalidArgument(f"invalid value type for '{key}' parameter, expected {one_of}.")


def _timeout_s(parameters: Mapping[str, InferParameter]) -> float | None:
    if "timeout" not in parameters:
        return None
    return parameters["timeout"].int64_param / 1e6 or None


def _text(parameters: Mapping[str, InferParameter], key: str) -> str:
    return parameters[key].string_param if key in parameters else ""


def _wanted_outputs(
    message: ModelInferRequest, signature: Signature, model: str
) -> tuple[str, ...]:
    """Return the outputs in the order of the answer: as named, or all that can be carried."""
    carried = {
        alias: spec
        for alias, spec in signature.outputs.items()
        if spec.data_type in BY_NUMBER and not spec.unanswerable
    }
    if not message.outputs:
        if not carried:
            raise Unimplemented(
                f"no output of signature '{signature.name}' has a datatype in the Open Inference "
                "Protocol"
            )
        return tuple(carried)
    wanted: dict[str, None] = {}
    for output in message.outputs:
        alias = output.name
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"unexpected inference output '{alias[:200]}' for model '{model}'"
            )
        if alias not in carried:
            spec = signature.outputs[alias]
            what = spec.unanswerable or str(spec).partition(" ")[0]
            raise InvalidArgument(
                f"output '{alias}' of model '{model}' is {what}, which has no datatype here"
            )
        if alias in wanted:
            raise InvalidArgument(f"output '{alias}' already exists in request")
        wanted[alias] = None
    return tuple(wanted)


def _inputs(request: ParsedInfer, signature: Signature) -> Arrays:
    message, model = request.message, request.name.given
    given: dict[str, int] = {}
    for at, tensor in enumerate(message.inputs):
        if tensor.name in given:
            raise InvalidArgument(f"input '{tensor.name[:200]}' already exists in request")
        if tensor.name not in signature.inputs:
            raise InvalidArgument(
                f"unexpected inference input '{tensor.name[:200]}' for model '{model}'"
            )
        given[tensor.name] = at
    _require_inputs(given, signature, model)
    if request.raw:
        for tensor in message.inputs:
            if _typed_field(tensor.contents) is not None:
                raise InvalidArgument(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{tensor.name}' for model '{model}'"
                )
        if len(request.raw) != len(message.inputs):
            raise InvalidArgument(
                f"the number of inputs ({len(message.inputs)}) does not match the expected number "
                f"of raw input contents ({len(request.raw)}) for model '{model}'."
            )
    arrays: dict[str, NDArray[Any]] = {}
    for alias in signature.inputs:
        if alias in given:
            arrays[alias] = _input(request, given[alias], signature)
        else:
            arrays[alias] = signature.defaults[alias]
    if signature.batchable:
        _require_equal_rows({alias: arrays[alias] for alias in given}, model)
    return arrays


def _require_inputs(given: Mapping[str, int], signature: Signature, model: str) -> None:
    absent = [a for a in signature.inputs if a not in given and a not in signature.defaults]
    if absent:
        raise InvalidArgument(
            f"expected {len(signature.inputs)} inputs but got {len(given)} inputs for model "
            f"'{model}'. Got input(s) [{_quoted(given)}], but missing required input(s) "
            f"[{_quoted(absent)}]. Please provide all required input(s)."
        )


def _input(request: ParsedInfer, at: int, signature: Signature) -> NDArray[Any]:
    given = request.message.inputs[at]
    model = request.name.given
    tensor = Tensor(given.name, model)
    datatype = BY_NAME.get(given.datatype)
    if datatype is None:
        raise InvalidArgument(f"invalid datatype '{given.datatype[:100]}' for input '{given.name}'")
    spec = signature.inputs[given.name]
    if datatype.data_type != spec.data_type:
        raise InvalidArgument(
            f"inference input '{given.name}' data-type is '{datatype.name}', but model '{model}' "
            f"expects '{BY_NUMBER[spec.data_type].name}'"
        )
    shape = tuple(given.shape)
    if not spec.admits(shape) or any(size < 0 for size in shape):
        _refuse_shape(shape, spec.shape, tensor)
    if request.raw:
        array = from_raw(datatype, shape, request.raw[at], tensor)
    else:
        array = _typed(datatype, shape, given.contents, tensor)
    return malloc.aligned(array) if array.nbytes >= malloc.LARGE_BYTES else array


def _refuse_shape(shape: tuple[int, ...], declared: tuple[int, ...] | None, tensor: Tensor) -> None:
    shown = ",".join(map(str, shape[:16])) + (",..." if len(shape) > 16 else "")
    if any(size < 0 for size in shape):
        raise InvalidArgument(
            f"invalid shape for input '{tensor.name}': shape [{shown}] contains one or more "
            "invalid dimensions"
        )
    expected = ",".join(map(str, declared or ()))
    raise InvalidArgument(
        f"unexpected shape for input '{tensor.name}' for model '{tensor.model}'. "
        f"Expected [{expected}], got [{shown}]. "
    )


def _typed(
    datatype: Datatype, shape: tuple[int, ...], contents: InferTensorContents, tensor: Tensor
) -> NDArray[Any]:
    field = _typed_field(contents)
    if field is None:
        if 0 in shape:
            return np.empty(shape, datatype.dtype)
        raise InvalidArgument(
            f"unable to find data for input tensor '{tensor.name}' for model '{tensor.model}' in "
            "request."
        )
    if field != datatype.field or len(contents.ListFields()) > 1:
        found = next(d.name for d in BY_NAME.values() if d.field == field)
        raise InvalidArgument(
            f"unexpected explicit tensor data for input tensor '{tensor.name}' for model "
            f"'{tensor.model}' of type '{found}', expected datatype '{datatype.name}'"
        )
    return from_values(datatype, shape, getattr(contents, field), tensor)


def _typed_field(contents: InferTensorContents) -> str | None:
    """Return the field that holds values; None where none does, though the message be there."""
    for field, _ in contents.ListFields():
        return str(field.name)
    return None


def _require_equal_rows(arrays: Mapping[str, NDArray[Any]], model: str) -> None:
    rows: int | None = None
    for alias, array in arrays.items():
        if rows is not None and array.shape[0] != rows:
            raise InvalidArgument(
                f"input '{alias}' batch size does not match other inputs for '{model}'"
            )
        rows = array.shape[0]


def _encode(
    request: ParsedInfer,
    signature: Signature,
    wanted: tuple[str, ...],
    counts: Mapping[str, int],
    card_json: str | None,
    outputs: Outputs,
    servable_id: ServableId,
) -> bytes:
    response = ModelInferResponse(
        model_name=request.name.given,
        model_version=str(servable_id.version),
        id=request.message.id,
    )
    arrays = []
    for alias in wanted:
        array = outputs[alias]
        data_type = signature.outputs[alias].data_type
        if alias in counts:
            array = classified(array, counts[alias], batched=signature.batchable, card=card_json)
            data_type = BY_NAME["BYTES"].data_type
        datatype = BY_NUMBER[data_type]
        response.outputs.add(name=alias, datatype=datatype.name, shape=array.shape)
        arrays.append((datatype, array))
    if request.typed and all(datatype.field for datatype, _ in arrays):
        for output, (datatype, array) in zip(response.outputs, arrays, strict=True):
            assert datatype.field is not None
            getattr(output.contents, datatype.field).extend(array.ravel().tolist())
        return response.SerializeToString()
    pieces: list[wire.Piece] = [response.SerializeToString()]
    for _, array in arrays:
        pieces += wire.bytes_field(_RAW_OUTPUTS, [to_raw(array)])
    if (size := wire.size(pieces)) > _MAX_RESPONSE_BYTES:
        raise ResourceExhausted(
            f"the answer takes {size} bytes, more than the {_MAX_RESPONSE_BYTES} of any message: "
            "send fewer rows, or name the outputs that you need"
        )
    return wire.join(pieces)


def _quoted(names_: Sequence[str] | Mapping[str, int]) -> str:
    return ",".join(f"'{name}'" for name in names_)
