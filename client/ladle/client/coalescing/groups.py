"""Which predictions can share a request, and how the answer is split; no I/O.

A signature is coalesced only if all its inputs and outputs have an open first dimension. The first
dimension is then taken for the batch, whose rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ladle.client.calls.flows import PredictCall
from ladle.client.errors import (
    DeadlineExceeded,
    InvalidInput,
    LadleError,
    MessageTooLarge,
    ServerError,
)
from ladle.client.inputs.frames import Table
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata
from ladle.client.prediction import Prediction

M = TypeVar("M")

MAX_MEMBERS = 256
"""The most callers that share a request."""

# Errors that one caller's input or timeout may have caused. Each caller then sends its own request.
_MAY_BE_ONES_FAULT = (InvalidInput, MessageTooLarge, DeadlineExceeded, ServerError)


def coalescing_key(call: PredictCall, metadata: ModelMetadata | None) -> Hashable | None:
    """Return the coalescing key: predictions with equal keys can share a request.

    None for a prediction that can't share one. `metadata` is the cached metadata of the model; None
    where there is none yet, and then the prediction can't share.
    """
    if metadata is None:
        return None
    signature = metadata.signatures.get(call.signature or DEFAULT_SIGNATURE)
    if signature is None or not all(
        spec.shape and spec.shape[0] == -1
        for spec in (*signature.inputs.values(), *signature.outputs.values())
    ):
        return None
    if isinstance(call.inputs, Table):
        return None
    named = _named(call)
    if not named or any(not array.ndim for array in named.values()):
        return None
    if len({len(array) for array in named.values()}) != 1 or not rows_of(call):
        return None
    shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(named.items()))
    is_single = not isinstance(call.inputs, dict)
    # What differs in its metadata may be routed to another version.
    how = (call.signature, call.outputs, call.normalize, call.metadata)
    return call.target, how, is_single, shapes


def rows_of(call: PredictCall) -> int:
    """Return the number of rows of a prediction that has a coalescing key."""
    return len(next(iter(_named(call).values())))


def merge(calls: Sequence[PredictCall]) -> PredictCall:
    """Return one prediction with the rows of all `calls`, which have equal coalescing keys."""
    named = [_named(call) for call in calls]
    joined = {name: np.concatenate([arrays[name] for arrays in named]) for name in named[0]}
    first = calls[0]
    return replace(first, inputs=joined if isinstance(first.inputs, dict) else joined[""])


def split(
    outcome: Prediction | Exception, rows: Sequence[int]
) -> list[Prediction | Exception | None]:
    """Return each caller's share of the outcome; None for a caller that has to send again alone."""
    if isinstance(outcome, Prediction):
        starts = np.cumsum([0, *rows])
        if any(not a.ndim or len(a) != starts[-1] for a in outcome.outputs.values()):
            return [None] * len(rows)  # the outputs are not one per row, against the declaration
        return [
            replace(
                outcome,
                outputs={name: a[start : start + n] for name, a in outcome.outputs.items()},
            )
            for start, n in zip(starts.tolist(), rows, strict=False)
        ]
    if isinstance(outcome, _MAY_BE_ONES_FAULT):
        return [None] * len(rows)
    return [_own(outcome) for _ in rows]


def _own(error: Exception) -> Exception:
    """Return a copy of the error, because raising an error changes its traceback."""
    if not isinstance(error, LadleError):
        return error
    copy = type(error)(str(error), code=error.code, details=error.details)
    copy.__cause__ = error.__cause__
    return copy


def _named(call: PredictCall) -> dict[str, NDArray[Any]]:
    return call.inputs if isinstance(call.inputs, dict) else {"": call.inputs}


class Group(Generic[M]):
    """The callers that share one request."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.members: list[M] = []


class OpenGroups(Generic[M]):
    """The groups that still take members, by coalescing key. Not thread-safe."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Group[M]] = {}

    def join(self, key: Hashable, member: M) -> Group[M]:
        """Add a member to the open group of its key, or to a new group as its leader."""
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = Group(key)
        group.members.append(member)
        if len(group.members) >= MAX_MEMBERS:
            self.close(group)
        return group

    def close(self, group: Group[M]) -> None:
        """Take no more members into this group."""
        if self._open.get(group.key) is group:
            del self._open[group.key]
