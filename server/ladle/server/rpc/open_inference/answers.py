"""The answer to a request: which outputs, in which order, and how each is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ladle.protos import dtypes, wire
from ladle.protos.datatypes import BY_NUMBER, Datatype, to_raw
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.server.core.errors import InvalidArgument, ResourceExhausted, Unimplemented
from ladle.server.core.observation import Observation
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.open_inference.classification import classified
from ladle.server.rpc.open_inference.parameters import refuse_shared_memory
from ladle.server.rpc.queued import Outputs

ID = 3
"""The field of a request and of its answer that has the caller's id."""

_OUTPUTS = 5
_RAW_OUTPUTS = 6
MAX_RESPONSE_BYTES = (1 << 31) - 1  # no gRPC message can be larger


class AnswerForm(NamedTuple):
    """What answers have of their request, but for its id."""

    model_name: str
    """As the caller gave it."""
    signature: Signature
    wanted: tuple[str, ...]
    """The outputs in the order of the answer."""
    counts: Mapping[str, int]
    """How many classes are wanted of outputs that are classified."""
    card_json: str | None
    typed: bool
    """Whether the values go into typed fields."""

    def start(self, servable_id: ServableId) -> bytes:
        """Return the answer's first fields: the model as it was asked for, and what has run."""
        return _model_fields(self.model_name, servable_id.version)

    def encode(
        self,
        id_field: bytes,
        seen: Observation | None,
        outputs: Outputs,
        servable_id: ServableId,
    ) -> bytes:
        """Return the answer that is made of what a run gave.

        Args:
            id_field: the id, as `id_field` returns it.
            seen: where outputs are noted that the answer does not hold.
            outputs: what the run gave.
            servable_id: what has run.
        """
        if self.counts:
            if seen is not None:
                seen.outputs = {alias: outputs[alias] for alias in self.counts}
            outputs = dict(outputs)
            batched = self.signature.batchable
            for alias, count in self.counts.items():
                outputs[alias] = classified(
                    alias, outputs[alias], count, batched=batched, card=self.card_json
                )
        head = self.start(servable_id) + id_field
        return encode_answer(head, self.wanted, outputs, self.signature, typed=self.typed)


def id_field(request_id: str) -> bytes:
    """Return the field of an answer that repeats a request's id; nothing for none."""
    return wire.join(wire.bytes_field(ID, [request_id.encode()])) if request_id else b""


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
        described, raw_head = output_heads(alias, data_type, array.shape, nbytes)
        pieces.append(described)
        raws += (raw_head, raw)
        size += len(described) + len(raw_head) + nbytes
    if size > MAX_RESPONSE_BYTES:
        raise ResourceExhausted(
            f"the answer takes {size} bytes, more than the {MAX_RESPONSE_BYTES} of any message: "
            "send fewer rows, or name the outputs that you need"
        )
    pieces += raws
    return b"".join(pieces)


@lru_cache(maxsize=4096)
def _model_fields(model_name: str, version: int) -> bytes:
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
def output_heads(
    alias: str, data_type: int, shape: tuple[int, ...], nbytes: int
) -> tuple[bytes, bytes]:
    """Return what says what an output is, and what comes before its raw bytes."""
    output = ModelInferResponse.InferOutputTensor(
        name=alias, datatype=BY_NUMBER[data_type].name, shape=shape
    )
    described = wire.join(wire.bytes_field(_OUTPUTS, [output.SerializeToString()]))
    return described, wire.bytes_head(_RAW_OUTPUTS, nbytes)
