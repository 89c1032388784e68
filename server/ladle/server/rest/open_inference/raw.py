"""A body that is one input's bytes and nothing else: shape and datatype are the signature's."""

from __future__ import annotations

import math

from ladle.protos import wire
from ladle.protos.datatypes import BY_NUMBER, LENGTH, Datatype
from ladle.protos.inference_pb import ModelInferRequest
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature
from ladle.server.rpc.open_inference.tensors import Tensor, size_mismatch

_RAW_INPUTS = 7


def raw_request(message: ModelInferRequest, body: bytes, signature: Signature) -> bytes:
    """Return a request whose only input is the body, one row of it.

    Args:
        message: names model, version and id; it is filled in.
        body: the bytes. For BYTES they are one element, without its length.
        signature: what is called.

    Raises:
        InvalidArgument: The signature has several inputs, or the shape can't be found out.
    """
    model = message.model_name
    if len(signature.inputs) != 1:
        raise InvalidArgument(
            "Raw request must only have 1 input (found 1) to be deduced but got "
            f"{len(signature.inputs)} inputs in '{model}' model configuration"
        )
    ((name, spec),) = signature.inputs.items()
    datatype = BY_NUMBER.get(spec.data_type)
    declared = spec.shape
    if declared is None or datatype is None:
        raise _not_deduced(name)
    inner = declared[1:] if signature.batchable else declared
    if datatype.name == "BYTES":
        if inner not in ((), (1,), (-1,)):
            raise InvalidArgument(
                f"For BYTE datatype raw input '{name}', the model must have input shape [1]"
            )
        shape = (1,) * len(declared)
        pieces: list[wire.Piece] = [LENGTH.pack(len(body)), body]
    else:
        shape = _deduced(inner, datatype, len(body), Tensor(name, model))
        shape = (1, *shape) if signature.batchable else shape
        pieces = [body]
    message.inputs.add(name=name, datatype=datatype.name, shape=shape)
    return wire.join([message.SerializeToString(), *wire.bytes_field(_RAW_INPUTS, pieces)])


def _deduced(
    inner: tuple[int, ...], datatype: Datatype, nbytes: int, tensor: Tensor
) -> tuple[int, ...]:
    """Return a shape with its one open dimension found out from the length of the body."""
    if inner.count(-1) > 1:
        raise _not_deduced(tensor.name)
    known = math.prod(size for size in inner if size != -1) * datatype.dtype.itemsize
    if -1 not in inner:
        if nbytes != known:
            raise size_mismatch(tensor, known, nbytes)
        return inner
    if not known or nbytes % known:
        raise size_mismatch(tensor, known * -(-nbytes // known) if known else 0, nbytes)
    return tuple(nbytes // known if size == -1 else size for size in inner)


def _not_deduced(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"The shape of the raw input '{name}' can not be deduced because there are more than one "
        "variable-sized dimension"
    )
