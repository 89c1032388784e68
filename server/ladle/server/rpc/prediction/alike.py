"""Predict requests that are alike: where their tensors are, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ladle.server.call import Alike, ContentPath
from ladle.server.core.access import PRIORITY_KEY
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observer
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.alike.handling import handling
from ladle.server.rpc.alike.plans import Answers, Fields
from ladle.server.rpc.prediction.predict import (
    MAX_RESPONSE_BYTES,
    TENSOR_CONTENT_KEY,
    ParsedPredict,
    Predict,
    entry_head,
    spec_field,
)
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import Invocation

_INPUTS = 2
_KEY, _VALUE = 1, 2  # of each entry in a map
# `tensor_content`, and typed fields whose bytes on the wire are those of an array: of these dtypes,
# and no other.
_CONTENTS: dict[ContentPath, np.dtype[Any] | None] = {
    ContentPath((_INPUTS, _VALUE, 4), key=_KEY): None,
    ContentPath((_INPUTS, _VALUE, 5), key=_KEY): np.dtype(np.float32),
    ContentPath((_INPUTS, _VALUE, 6), key=_KEY): np.dtype(np.float64),
}


def predict_alike(
    manager: Manager, predict: Predict, observer: Observer, shadows: ShadowRuns | None = None
) -> Alike:
    """Return what handles Predict requests that are alike."""
    return Alike(
        handling(manager, _Predict(predict), observer, shadows),
        contents=tuple(_CONTENTS),
        metadata=(TENSOR_CONTENT_KEY, PRIORITY_KEY),
    )


class _Predict:
    """Predict as an AlikeMethod."""

    def __init__(self, predict: Predict) -> None:
        self.infer = predict
        self.dtypes = tuple(_CONTENTS.values())

    def is_lasting(self, _request: ParsedPredict) -> bool:
        """Return True: a label stays a label in the request, and is looked up each time."""
        return True

    def plan(
        self, model: Model, request: ParsedPredict, servable_id: ServableId
    ) -> tuple[Invocation, Answers]:
        """Return what to run, and what puts the answers."""
        invocation, encode = self.infer.plan(model, request)
        end = spec_field(servable_id, invocation.signature.name)
        return invocation, _Answers(end, encode, servable_id, typed=request.typed)

    def named(
        self, _request: ParsedPredict, contents: Sequence[tuple[int, bytes, bytes]]
    ) -> Sequence[str]:
        """Return which input each content is."""
        return [name.decode() for _, name, _ in contents]


class _Answers:
    """Puts PredictResponses."""

    start = b""

    def __init__(
        self,
        end: bytes,
        encode: Callable[[Outputs, ServableId], bytes],
        servable_id: ServableId,
        *,
        typed: bool,
    ) -> None:
        self.end = end
        self._encode = encode
        self._servable_id = servable_id
        self._typed = typed

    def encode(self, outputs: Outputs, _echo: bytes) -> bytes:
        """Return the whole answer to one request."""
        return self._encode(outputs, self._servable_id)

    def request_id(self, _echo: bytes) -> str:
        """Return nothing: a PredictRequest has no id."""
        return ""

    def fields(self, outputs: Outputs, count: int) -> Fields | None:
        """Return what comes before each output, and its bytes; None where they need encoding."""
        fields = []
        size = 0
        for alias, array in outputs.items():
            shape = array.shape
            if count > 1:
                shape = (shape[0] // count, *shape[1:])
            head = entry_head(alias, array.dtype, shape, self._typed)
            size += array.nbytes // count
            if head is None or size > MAX_RESPONSE_BYTES // 2:
                return None
            fields.append((head, array.tobytes()))
        return fields
