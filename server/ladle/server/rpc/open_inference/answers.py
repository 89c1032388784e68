"""The answer to a request: which outputs, in which order, and how each is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from ladle.protos import dtypes, wire
from ladle.protos.datatypes import BY_NUMBER, Datatype, to_raw
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.server.core.errors import InvalidArgument, ResourceExhausted, Unimplemented
from ladle.server.core.servable import Signature
from ladle.server.rpc.open_inference.parameters import refuse_shared_memory

_OUTPUTS = 5
_RAW_OUTPUTS = 6
_MAX_RESPONSE_BYTES = (1 << 31) - 1  # no gRPC message can be larger


def wanted_outputs(
    given: Sequence[ModelInferRequest.InferRequestedOutputTensor],
    signature: Signature,
    model: str,
) -> tuple[str, ...]:
    """Return the outputs in the order of the answer: as named, or all that can be carried.

    Raises:
        InvalidArgument: An output is named twice, is none of the signature's, or has no datatype.
        Unimplemented: All are wanted, and none has a datatype; or one is to go to shared memory.
    """
    if not given:
        wanted = signature.carried_outputs
        if not wanted:
            raise Unimplemented(
                f"no output of signature '{signature.name}' has a datatype in the Open Inference "
                "Protocol"
            )
        return wanted
    named: dict[str, None] = {}
    for output in given:
        alias = output.name
        refuse_shared_memory(output.parameters)
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"unexpected inference output '{alias[:200]}' for model '{model}'"
            )
        if alias not in signature.carried_outputs:
            spec = signature.outputs[alias]
            what = spec.unanswerable or dtypes.name(spec.data_type)
            raise InvalidArgument(
                f"output '{alias}' of model '{model}' is {what}, which has no datatype here"
            )
        if alias in named:
            raise InvalidArgument(f"output '{alias}' already exists in request")
        named[alias] = None
    return tuple(named)


def encode_answer(
    head: bytes,
    wanted: Sequence[str],
    outputs: Mapping[str, NDArray[Any]],
    signature: Signature,
    *,
    typed: bool,
) -> bytes:
    """Return the serialized ModelInferResponse, the values copied once.

    Args:
        head: the fields that come before the outputs, serialized.
        wanted: the outputs in the order of the answer.
        outputs: their values; those that are classified are of `bytes` by now.
        signature: what has run.
        typed: whether the values go into typed fields; FP16 and BF16 have none, and with one of
            them all go raw.

    Raises:
        ResourceExhausted: No message can hold so much.
    """
    if typed:
        datatypes = [_datatype(signature, alias, outputs[alias]) for alias in wanted]
        if all(datatype.field for datatype in datatypes):
            return head + _typed(wanted, outputs, datatypes)
    pieces: list[Any] = [head]
    raws: list[Any] = []
    size = len(head)
    for alias in wanted:
        array = outputs[alias]
        raw: Any = array
        if array.dtype.kind in "biuf" and array.flags.c_contiguous:
            nbytes = array.nbytes  # numbers in order are a buffer as they are
        else:
            raw = to_raw(array)
            nbytes = len(raw)
        data_type = dtypes.STRING if array.dtype.hasobject else signature.outputs[alias].data_type
        described, raw_head = _output_heads(alias, data_type, array.shape, nbytes)
        pieces.append(described)
        raws += (raw_head, raw)
        size += len(described) + len(raw_head) + nbytes
    if size > _MAX_RESPONSE_BYTES:
        raise ResourceExhausted(
            f"the answer takes {size} bytes, more than the {_MAX_RESPONSE_BYTES} of any message: "
            "send fewer rows, or name the outputs that you need"
        )
    pieces += raws
    return b"".join(pieces)


@lru_cache(maxsize=4096)
def model_fields(model_name: str, version: int) -> bytes:
    """Return the answer's first fields: the model as it was asked for, and what has run."""
    return ModelInferResponse(model_name=model_name, model_version=str(version)).SerializeToString()


def _datatype(signature: Signature, alias: str, array: NDArray[Any]) -> Datatype:
    data_type = dtypes.STRING if array.dtype.hasobject else signature.outputs[alias].data_type
    return BY_NUMBER[data_type]


def _typed(
    wanted: Sequence[str], outputs: Mapping[str, NDArray[Any]], datatypes: Sequence[Datatype]
) -> bytes:
    response = ModelInferResponse()
    for alias, datatype in zip(wanted, datatypes, strict=True):
        array = outputs[alias]
        output = response.outputs.add(name=alias, datatype=datatype.name, shape=array.shape)
        assert datatype.field is not None
        getattr(output.contents, datatype.field).extend(array.ravel().tolist())
    return response.SerializeToString()


@lru_cache(maxsize=4096)
def _output_heads(
    alias: str, data_type: int, shape: tuple[int, ...], nbytes: int
) -> tuple[bytes, bytes]:
    """Return what says what an output is, and what comes before its raw bytes."""
    output = ModelInferResponse.InferOutputTensor(
        name=alias, datatype=BY_NUMBER[data_type].name, shape=shape
    )
    described = wire.join(wire.bytes_field(_OUTPUTS, [output.SerializeToString()]))
    return described, wire.bytes_head(_RAW_OUTPUTS, nbytes)
