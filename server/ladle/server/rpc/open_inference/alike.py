"""ModelInfer requests that are alike: where their tensors are, and how they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ladle.protos.inference_pb import ModelInferRequest
from ladle.server.call import Alike, ContentPath
from ladle.server.core.access import PRIORITY_KEY
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observer
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.alike.handling import handling
from ladle.server.rpc.alike.plans import Answers, Fields
from ladle.server.rpc.open_inference.answers import (
    ID,
    MAX_RESPONSE_BYTES,
    AnswerForm,
    output_heads,
)
from ladle.server.rpc.open_inference.infer import ModelInfer, ParsedInfer
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import Invocation

_RAW_INPUTS = 7
_INPUTS, _NAME, _TYPED = 5, 1, 5
# Raw contents, and typed fields whose bytes on the wire are those of an array: of these dtypes, and
# no other.
_CONTENTS: dict[ContentPath, np.dtype[Any] | None] = {
    ContentPath((_RAW_INPUTS,)): None,
    ContentPath((_INPUTS, _TYPED, 6), key=_NAME): np.dtype(np.float32),
    ContentPath((_INPUTS, _TYPED, 7), key=_NAME): np.dtype(np.float64),
}


def infer_alike(
    manager: Manager, infer: ModelInfer, observer: Observer, shadows: ShadowRuns | None = None
) -> Alike:
    """Return what handles ModelInfer requests that are alike."""
    return Alike(
        handling(manager, _ModelInfer(infer), observer, shadows),
        contents=tuple(_CONTENTS),
        metadata=(PRIORITY_KEY,),
        echo=ID,
    )


class _ModelInfer:
    """ModelInfer as an AlikeMethod."""

    def __init__(self, infer: ModelInfer) -> None:
        self.infer = infer
        self.dtypes = tuple(_CONTENTS.values())

    def is_lasting(self, request: ParsedInfer) -> bool:
        """Whether no label and no signature had to be told from the texts that name the model."""
        version = request.message.model_version
        return not request.name.signature and (not version or version.isdecimal())

    def plan(
        self, model: Model, request: ParsedInfer, servable_id: ServableId
    ) -> tuple[Invocation, Answers]:
        """Return what to run, and what puts the answers."""
        invocation, form = self.infer.outline(model, request)
        return invocation, _Answers(form, servable_id)

    def named(
        self, request: ParsedInfer, contents: Sequence[tuple[int, bytes, bytes]]
    ) -> Sequence[str] | None:
        """Return which input each content is; None for requests with a timeout.

        A timeout begins when its request comes, and so each of them ends at another time.
        """
        if request.deadline is not None:
            return None
        if request.raw:
            return [tensor.name for tensor in request.message.inputs]
        return [name.decode() for _, name, _ in contents]


class _Answers:
    """Puts ModelInferResponses."""

    end = b""

    def __init__(self, form: AnswerForm, servable_id: ServableId) -> None:
        self.start = form.start(servable_id)
        self._form = form
        self._servable_id = servable_id

    def encode(self, outputs: Outputs, echo: bytes) -> bytes:
        """Return the whole answer to one request."""
        return self._form.encode(echo, None, outputs, self._servable_id)

    def request_id(self, echo: bytes) -> str:
        """Return the id that a request brings."""
        return ModelInferRequest.FromString(echo).id

    def fields(self, outputs: Outputs, count: int) -> Fields | None:
        """Return what comes before the raw bytes of each output, and the bytes.

        None where there are strings, classes or typed fields: these need encoding.
        """
        form = self._form
        if form.typed or form.counts:
            return None
        described = b""
        raw: Fields = []
        size = 0
        for alias in form.wanted:
            array = outputs[alias]
            if array.dtype.hasobject:
                return None
            shape = array.shape
            if count > 1:
                shape = (shape[0] // count, *shape[1:])
            nbytes = array.nbytes // count
            data_type = form.signature.outputs[alias].data_type
            output, raw_head = output_heads(alias, data_type, shape, nbytes)
            described += output
            raw.append((raw_head, array.tobytes()))
            size += len(output) + len(raw_head) + nbytes
        if size > MAX_RESPONSE_BYTES // 2:
            return None
        (head, data), *rest = raw
        return [(described + head, data), *rest]
