"""The inputs of a request: found by name, held to the signature, and read into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos.datatypes import BY_NAME, BY_NUMBER, Datatype
from ladle.protos.inference_pb import InferTensorContents, ModelInferRequest
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.machine import malloc
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.rpc.open_inference.parameters import refuse_shared_memory
from ladle.server.rpc.open_inference.tensors import (
    Tensor,
    elements,
    fixed_from_raw,
    from_raw,
    from_values,
    shown,
)


def read_inputs(
    message: ModelInferRequest,
    raw: Sequence[bytes | memoryview],
    signature: Signature,
    model: str,
) -> Arrays:
    """Return the signature's inputs from a request's tensors and the signature's defaults.

    Checks come in this order: presence of inputs; then for each input its datatype, shape and
    size; then the rows.

    Args:
        message: the request.
        raw: its raw contents, which `message` need not hold.
        signature: what it calls.
        model: what the caller calls the model.

    Raises:
        InvalidArgument: The tensors are not those that the signature takes.
        Unimplemented: One is in shared memory.
    """
    given = list(message.inputs)
    declared = signature.inputs
    names = [tensor.name for tensor in given]
    if names != [*declared]:  # nearly always they are, and in this order
        _check_names(names, signature, model)
    if raw and len(raw) != len(given):
        for tensor in given:
            refuse_shared_memory(tensor.parameters)
            _refuse_contents(tensor, model)
        raise InvalidArgument(
            f"the number of inputs ({len(given)}) does not match the expected number of raw input "
            f"contents ({len(raw)}) for model '{model}'."
        )
    arrays: dict[str, NDArray[Any]] = {}
    for at, tensor in enumerate(given):
        name, shape = names[at], tuple(tensor.shape)
        if tensor.parameters:
            refuse_shared_memory(tensor.parameters)
        spec = declared[name]
        datatype = BY_NAME.get(tensor.datatype)
        if datatype is None or datatype.data_type != spec.data_type:
            raise _wrong_datatype(name, tensor.datatype, spec, model)
        if not spec.admits(shape):
            raise _wrong_shape(shape, spec.shape, Tensor(name, model))
        if not raw:
            array = _typed(datatype, shape, tensor.contents, Tensor(name, model))
        else:
            _refuse_contents(tensor, model)
            view = fixed_from_raw(datatype, shape, raw[at])
            # The words for what is wrong are in there too.
            array = (
                from_raw(datatype, shape, raw[at], Tensor(name, model)) if view is None else view
            )
        if array.nbytes >= malloc.LARGE_BYTES:
            array = malloc.aligned(array)
        arrays[name] = array
    if len(arrays) > 1 and signature.batchable:
        _require_equal_rows(arrays, model)
    if len(arrays) < len(declared):
        for name in declared.keys() - arrays.keys():
            arrays[name] = signature.defaults[name]
    return arrays


def _check_names(names: Sequence[str], signature: Signature, model: str) -> None:
    declared = signature.inputs
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidArgument(f"input '{name[:200]}' already exists in request")
        if name not in declared:
            raise InvalidArgument(f"unexpected inference input '{name[:200]}' for model '{model}'")
        seen.add(name)
    if len(names) == len(declared):
        return
    absent = [name for name in declared if name not in seen and name not in signature.defaults]
    if absent:
        raise InvalidArgument(
            f"expected {len(declared)} inputs but got {len(names)} inputs for model "
            f"'{model}'. Got input(s) [{_quoted(names)}], but missing required input(s) "
            f"[{_quoted(absent)}]. Please provide all required input(s)."
        )


def _refuse_contents(tensor: ModelInferRequest.InferInputTensor, model: str) -> None:
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidArgument(
            "contents field must not be specified when using raw_input_contents for "
            f"'{tensor.name}' for model '{model}'"
        )


def _require_equal_rows(arrays: Mapping[str, NDArray[Any]], model: str) -> None:
    rows: int | None = None
    for name, array in arrays.items():
        if rows is not None and len(array) != rows:
            raise InvalidArgument(
                f"input '{name}' batch size does not match other inputs for '{model}'"
            )
        rows = len(array)


def _wrong_datatype(name: str, given: str, spec: TensorSpec, model: str) -> InvalidArgument:
    if given not in BY_NAME:
        return InvalidArgument(f"invalid datatype '{given[:100]}' for input '{name}'")
    wanted = BY_NUMBER.get(spec.data_type)
    return InvalidArgument(
        f"inference input '{name}' data-type is '{given}', but model '{model}' "
        f"expects '{wanted.name if wanted else spec}'"
    )


def _wrong_shape(
    shape: tuple[int, ...], declared: tuple[int, ...] | None, tensor: Tensor
) -> InvalidArgument:
    if any(size < 0 for size in shape):
        return InvalidArgument(
            f"invalid shape for input '{tensor.name}': shape [{shown(shape)}] contains one or more "
            "invalid dimensions"
        )
    return InvalidArgument(
        f"unexpected shape for input '{tensor.name}' for model '{tensor.model}'. "
        f"Expected [{shown(declared or ())}], got [{shown(shape)}]. "
    )


def _typed(
    datatype: Datatype, shape: tuple[int, ...], contents: InferTensorContents, tensor: Tensor
) -> NDArray[Any]:
    fields = [descriptor.name for descriptor, _ in contents.ListFields()]
    if not fields:
        if elements(shape, tensor) == 0:
            return np.empty(shape, datatype.dtype)
        raise InvalidArgument(
            f"unable to find data for input tensor '{tensor.name}' for model '{tensor.model}' in "
            "request."
        )
    if fields != [datatype.field]:
        other = next(field for field in fields if field != datatype.field)
        found = next(d.name for d in BY_NAME.values() if d.field == other)
        raise InvalidArgument(
            f"unexpected explicit tensor data for input tensor '{tensor.name}' for model "
            f"'{tensor.model}' of type '{found}', expected datatype '{datatype.name}'"
        )
    return from_values(datatype, shape, getattr(contents, fields[0]), tensor)


def _quoted(names: Iterable[str] | Mapping[str, object]) -> str:
    return ",".join(f"'{name}'" for name in names)
