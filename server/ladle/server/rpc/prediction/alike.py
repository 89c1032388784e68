"""Predict requests that are alike: where their tensors are, and how they are answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.server.call import Alike
from ladle.server.core.access import PRIORITY_KEY
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observer
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.alike.handling import Source, handling
from ladle.server.rpc.alike.plans import Fields
from ladle.server.rpc.prediction.predict import (
    MAX_RESPONSE_BYTES,
    TENSOR_CONTENT_KEY,
    ParsedPredict,
    Predict,
    entry_head,
    spec_field,
)
from ladle.server.rpc.queued import Outputs

_INPUTS = 2
_TENSOR_CONTENT = 4
# Typed fields whose bytes on the wire are those of an array: of these dtypes, and no other.
_RAW_FIELDS: dict[int, np.dtype[Any]] = {5: np.dtype(np.float32), 6: np.dtype(np.float64)}


def predict_alike(
    manager: Manager, predict: Predict, observer: Observer, shadows: ShadowRuns | None = None
) -> Alike:
    """Return what handles Predict requests that are alike."""
    return Alike(
        handling(manager, _Predict(predict), observer, shadows),
        map_field=_INPUTS,
        contents=(_TENSOR_CONTENT, *_RAW_FIELDS),
        metadata=(TENSOR_CONTENT_KEY, PRIORITY_KEY),
    )


class _Predict:
    """Predict as an AlikeMethod."""

    def __init__(self, predict: Predict) -> None:
        self.infer = predict

    def sources(
        self, _request: ParsedPredict, contents: Sequence[tuple[bytes, int, bytes]]
    ) -> Mapping[str, Source]:
        """Return where the bytes of each input are."""
        return {
            key.decode(): Source(number, _RAW_FIELDS.get(field))
            for number, (key, field, _) in enumerate(contents)
        }

    def answers(
        self, request: ParsedPredict, signature: Signature, servable_id: ServableId
    ) -> _Answers:
        """Return what puts the answers."""
        return _Answers(spec_field(servable_id, signature.name), typed=request.typed)


class _Answers:
    """Puts PredictResponses in fields."""

    def __init__(self, end: bytes, *, typed: bool) -> None:
        self.end = end
        self._typed = typed

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
