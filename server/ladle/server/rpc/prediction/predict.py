"""PredictionService.Predict: named arrays in, named arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors, wire
from ladle.protos.serving_pb import ModelSpec, PredictRequest
from ladle.protos.tensorflow_pb import TensorProto
from ladle.protos.zero_copy import LEAST_BYTES, extract_tensor_contents
from ladle.server.core.errors import (
    Code,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
)
from ladle.server.core.machine import malloc
from ladle.server.core.servable import (
    DEFAULT_SIGNATURE,
    Arrays,
    Model,
    Signature,
)
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import (
    CLASSIFY_METHOD,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Invocation,
    find_signature,
    listed,
    method_name_complaint,
    parse,
    require_model_spec,
)

# What a caller sends, with the value "true", to get answers in `tensor_content`.
TENSOR_CONTENT_KEY = "ladle-tensor-content"

MAX_RESPONSE_BYTES = (1 << 31) - 1  # no gRPC message can be larger


class ParsedPredict(NamedTuple):
    """A PredictRequest that was read."""

    message: PredictRequest
    contents: Mapping[str, memoryview]
    """The `tensor_content` that was cut out of inputs, by input: views of the request's bytes."""
    typed: bool
    """Whether the caller is answered in typed fields, and not in `tensor_content`."""


class Predict:
    """PredictionService.Predict, as an InferMethod: a parser and an encoder. Thread-safe."""

    path = "/tensorflow.serving.PredictionService/Predict"

    def __init__(self, *, tensor_content: bool, check_method_names: bool = False) -> None:
        """Take how requests are read and answered.

        Args:
            tensor_content: how tensors are answered where the caller doesn't say.
            check_method_names: whether a signature has to be of the kind that the method is for.
        """
        self._tensor_content = tensor_content
        self._check_method_names = check_method_names

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> ParsedPredict:
        """Return a request, its large tensors as views of `data`.

        Raises:
            InvalidArgument: The bytes are no PredictRequest, or name no model.
        """
        if len(data) >= malloc.LARGE_BYTES:
            malloc.trim()  # of the pieces that the transport got it in
        contents: Mapping[str, memoryview] = {}
        if len(data) >= LEAST_BYTES:  # of smaller ones a copy is cheaper
            data, contents = extract_tensor_contents(data)
        message = parse(PredictRequest, data)
        require_model_spec(message)
        return ParsedPredict(message, contents, self.is_typed(metadata))

    def is_typed(self, metadata: Callable[[str], str | None]) -> bool:
        """Whether a caller is answered in typed fields, and not in `tensor_content`."""
        return not (self._tensor_content or metadata(TENSOR_CONTENT_KEY) == "true")

    def model_spec(self, request: ParsedPredict) -> ModelSpec:
        """Return which model and version the request names."""
        return request.message.model_spec

    def plan(
        self, model: Model, request: ParsedPredict
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], bytes]]:
        """Return what to run, and what encodes the PredictResponse.

        Raises:
            ServingError: The request does not fit the model.
        """
        invocation = plan(
            model, request.message, strict=self._check_method_names, contents=request.contents
        )
        signature, typed = invocation.signature.name, request.typed

        def encode(outputs: Outputs, servable_id: ServableId) -> bytes:
            return encode_response(outputs, servable_id, signature, typed=typed)

        return invocation, encode


def plan(
    servable: Model,
    request: PredictRequest,
    *,
    strict: bool,
    contents: Mapping[str, memoryview] = MappingProxyType({}),
) -> Invocation:
    """Return what to run for a request; `strict` holds the signature to its method name.

    `contents` are the large tensor contents that `read_request` extracted from the inputs.

    Raises:
        ServingError: The request does not fit the model.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = find_signature(servable, name)
    if signature is None:
        raise FailedPrecondition(
            f'Serving signature key "{name}" not found. The model has {sorted(servable.signatures)}'
        )
    if strict:
        _check_method_name(signature)
    inputs = read_inputs(request.inputs, signature, contents)
    return Invocation(signature, inputs, wanted_outputs(request.output_filter, signature))


def read_inputs(
    given: Mapping[str, TensorProto],
    signature: Signature,
    contents: Mapping[str, memoryview] = MappingProxyType({}),
) -> Arrays:
    """Return the signature's inputs from a request's tensors and the signature's defaults.

    Shapes are not compared with the signature: upstream runs what the model takes.

    Raises:
        InvalidArgument: Names, a dtype or a tensor are not as the signature wants them.
    """
    declared = signature.inputs
    if len(given) != len(declared) or not all(map(given.__contains__, declared)):
        _check_names(given, signature)
    arrays: dict[str, NDArray[Any]] = {}
    for alias, spec in declared.items():
        if alias not in given:
            arrays[alias] = signature.defaults[alias]
            continue
        proto = given[alias]
        try:
            array = tensors.to_array(proto, contents.get(alias))
        except tensors.TensorError as error:
            raise InvalidArgument(f"tensor parsing error: {alias}: {error}") from None
        if proto.dtype != spec.data_type:
            raise InvalidArgument(
                f"input {alias!r}: expected {spec}, "
                f"got {dtypes.name(proto.dtype)} {list(array.shape)}"
            )
        if array.nbytes >= malloc.LARGE_BYTES:
            array = malloc.aligned(array)  # a copy, and the message can go
        arrays[alias] = array
    return arrays


def _check_names(given: Collection[str], signature: Signature) -> None:
    declared = signature.inputs
    missing = [a for a in declared if a not in given and a not in signature.defaults]
    extra = [alias for alias in given if alias not in declared]
    if missing or extra:
        raise InvalidArgument(
            f"input size does not match signature {signature.name!r}: "
            f"{len(given)}!={len(declared)} len({listed(given)}) != len({listed(declared)}). "
            f"Sent extra: {listed(extra)}. Missing but required: {listed(missing)}."
        )


def wanted_outputs(output_filter: Sequence[str], signature: Signature) -> tuple[str, ...]:
    """Return the aliases to fetch, in the signature's order: those of the filter, or all.

    The answer is a map: whoever wants the same outputs, in whatever order, can share a batch.

    Raises:
        InvalidArgument: The filter names an output twice, or one that there is not.
    """
    if not output_filter:
        return tuple(signature.outputs)
    wanted: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {listed(signature.outputs)}."
            )
        if alias in wanted:
            raise InvalidArgument(f"duplicate output tensor alias: {alias}")
        wanted.add(alias)
    return tuple(alias for alias in signature.outputs if alias in wanted)


def _check_method_name(signature: Signature) -> None:
    complaint = method_name_complaint(
        signature, "prediction", PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD
    )
    if complaint:
        raise ServingError(complaint, Code.INTERNAL)  # the code that upstream has for it


def encode_response(
    outputs: Mapping[str, NDArray[Any]], servable_id: ServableId, signature: str, *, typed: bool
) -> bytes:
    """Return the serialized PredictResponse, each output's values copied once."""
    pieces: list[Any] = []
    size = 0
    for alias, array in outputs.items():
        head = entry_head(alias, array.dtype, array.shape, typed)
        if head is None:
            entry = wire.map_entry(1, alias, tensors.to_wire(array, typed=typed))
            pieces += entry
            size += wire.size(entry)
        else:
            # The array itself is a buffer, and joined without a copy before.
            pieces += (head, array if array.flags.c_contiguous else array.copy())
            size += len(head) + array.nbytes
    pieces.append(spec_field(servable_id, signature))
    if size > MAX_RESPONSE_BYTES:
        raise ResourceExhausted(
            f"the answer takes {size} bytes, more than the {MAX_RESPONSE_BYTES} of any message: "
            "send fewer rows, or name the outputs that you need in output_filter"
        )
    return b"".join(pieces)


@lru_cache(maxsize=4096)
def entry_head(
    alias: str, dtype: np.dtype[Any], shape: tuple[int, ...], typed: bool
) -> bytes | None:
    """Return what comes before an output's bytes; None where they need encoding."""
    head = tensors.raw_head(dtype, shape, typed=typed)
    if head is None:
        return None
    return wire.map_entry_head(1, alias, len(head) + math.prod(shape) * dtype.itemsize) + head


@lru_cache(maxsize=4096)
def spec_field(servable_id: ServableId, signature: str) -> bytes:
    """Return the end of an answer: the version that has answered, and which signature."""
    spec = ModelSpec(name=servable_id.name, signature_name=signature)
    spec.version.value = servable_id.version
    return wire.join(wire.bytes_field(2, [spec.SerializeToString()]))
