"""Which columns of a table are what: target, weight, group, features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ladle.export.errors import DataError

_LABEL_COLUMNS = ("label", "target")
_WEIGHT_COLUMN = "sample_weight"
NAMELESS = (
    "a column without a name is among the features: an index, as pandas writes it, says nothing of"
    " new rows; leave it out, with index=False"
)
"""The note on a table with such a column."""


class Places(NamedTuple):
    """Where the columns of a table are, by the places in its header."""

    header: list[str]
    """The names, without blanks around them."""
    target: int
    weight: int | None
    group: int | None
    features: list[int]
    """All others, at least one."""


def find_places(what: str, names: Sequence[str], group_by: str | None) -> Places:
    """Return where the columns of a table are; `what` it is for messages.

    Raises:
        DataError: There is no target or more than one, no feature, no such group, or a name comes
            several times.
    """
    header = [name.strip() for name in names]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            f"{what}: expected each column once, got {', '.join(repeated)[:200]} several times"
        )
    targets = [header.index(name) for name in _LABEL_COLUMNS if name in header]
    if len(targets) > 1:
        raise DataError(
            f"{what}: expected a column label or target, got both: the model would see the answer"
        )
    target = targets[0] if targets else None
    if target is None:
        raise DataError(f"{what}: expected a column label or target, got {', '.join(header)[:200]}")
    weight = header.index(_WEIGHT_COLUMN) if _WEIGHT_COLUMN in header else None
    group = None
    if group_by is not None:
        if group_by not in header or header.index(group_by) in (target, weight):
            raise DataError(
                f"{what}: group by: expected a column beside {header[target]},"
                f" got {group_by!r}; the columns are {', '.join(header)[:200]}"
            )
        group = header.index(group_by)
    features = [n for n in range(len(header)) if n not in (target, weight, group)]
    if not features:
        raise DataError(f"{what}: expected columns of numbers beside {header[target]}")
    return Places(header, target, weight, group, features)
