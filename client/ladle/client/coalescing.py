"""Several callers' predictions in one request: who can share one, and who gets what of it.

Decisions without I/O. Only signatures whose inputs and outputs all have an open first dimension
are shared, since their rows don't depend on each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import (
    DeadlineExceeded,
    InvalidInput,
    LadleError,
    MessageTooLarge,
    ServerError,
)
from ladle.client.flows import Wanted
from ladle.client.inputs import DEFAULT_SIGNATURE
from ladle.client.models import ModelMetadata
from ladle.client.prediction import Prediction

M = TypeVar("M")

MAX_MEMBERS = 256
"""How many callers share a request at most."""

# What one caller's input may be to blame for, or one caller's haste; each then asks for itself.
_MAY_BE_ONES_FAULT = (InvalidInput, MessageTooLarge, DeadlineExceeded, ServerError)


def mould(wanted: Wanted, metadata: ModelMetadata | None) -> Hashable | None:
    """Return what predictions have to have in common to share a request; None for those who can't.

    `metadata` is what is known of the model; before anything is, nobody shares.
    """
    if metadata is None:
        return None
    signature = metadata.signatures.get(wanted.signature or DEFAULT_SIGNATURE)
    if signature is None or not all(
        spec.shape and spec.shape[0] == -1
        for spec in (*signature.inputs.values(), *signature.outputs.values())
    ):
        return None
    named = _named(wanted)
    if not named or any(not array.ndim for array in named.values()):
        return None
    if len({len(array) for array in named.values()}) != 1 or not rows_of(wanted):
        return None
    shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(named.items()))
    is_single = not isinstance(wanted.given, dict)
    return wanted.asked, wanted.signature, wanted.outputs, wanted.normalize, is_single, shapes


def rows_of(wanted: Wanted) -> int:
    """Return how many rows a prediction that has a mould brings."""
    return len(next(iter(_named(wanted).values())))


def merge(all_wanted: Sequence[Wanted]) -> Wanted:
    """Return one prediction of all rows, for predictions of one mould."""
    named = [_named(wanted) for wanted in all_wanted]
    joined = {name: np.concatenate([arrays[name] for arrays in named]) for name in named[0]}
    first = all_wanted[0]
    return replace(first, given=joined if isinstance(first.given, dict) else joined[""])


def settle(
    outcome: Prediction | Exception, rows: Sequence[int]
) -> list[Prediction | Exception | None]:
    """Return what each caller gets; None for a caller who has to ask for itself."""
    if isinstance(outcome, Prediction):
        starts = np.cumsum([0, *rows])
        if any(not a.ndim or len(a) != starts[-1] for a in outcome.outputs.values()):
            return [None] * len(rows)  # outputs that are not by row, whatever was declared
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
    """Return an error for one caller alone: each raises it, which leaves traces in it."""
    if not isinstance(error, LadleError):
        return error
    copy = type(error)(str(error), code=error.code, details=error.details)
    copy.__cause__ = error.__cause__
    return copy


def _named(wanted: Wanted) -> dict[str, NDArray[Any]]:
    return wanted.given if isinstance(wanted.given, dict) else {"": wanted.given}


class Group(Generic[M]):
    """The callers who will share one request."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.members: list[M] = []


class Gathering(Generic[M]):
    """The groups that are still open; not thread-safe."""

    def __init__(self) -> None:
        self._open: dict[Hashable, Group[M]] = {}

    def join(self, key: Hashable, member: M) -> Group[M]:
        """Add a caller to the open group of its mould, or to a new one that it then leads."""
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = Group(key)
        group.members.append(member)
        if len(group.members) >= MAX_MEMBERS:
            self.close(group)
        return group

    def close(self, group: Group[M]) -> None:
        """Let nobody in any more."""
        if self._open.get(group.key) is group:
            del self._open[group.key]
