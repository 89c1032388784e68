"""Which labels a promotion moves, and which its way back; without I/O."""

from __future__ import annotations

from collections.abc import Mapping

from ladle.export.errors import PublishError

STABLE = "stable"
PREVIOUS = "previous"
CANARY = "canary"


def promoted(labels: Mapping[str, int], canary: str = CANARY) -> dict[str, int]:
    """Return the labels with `stable` where `canary` was, and `previous` where `stable` was.

    Raises:
        PublishError: There is no such label, or it is one of these two.
    """
    if canary in (STABLE, PREVIOUS):
        raise PublishError(f"promote: expected a label other than {STABLE} and {PREVIOUS}")
    if canary not in labels:
        there = ", ".join(sorted(labels)) or "none"
        raise PublishError(f"promote: expected the label {canary}, found {there}")
    moved = {name: version for name, version in labels.items() if name != canary}
    if STABLE in labels and labels[STABLE] != labels[canary]:
        moved[PREVIOUS] = labels[STABLE]
    return moved | {STABLE: labels[canary]}


def demoted(labels: Mapping[str, int]) -> dict[str, int]:
    """Return the labels with `stable` where `previous` was, and without `previous`.

    Raises:
        PublishError: There is no such label.
    """
    if PREVIOUS not in labels:
        there = ", ".join(sorted(labels)) or "none"
        raise PublishError(f"demote: expected the label {PREVIOUS}, found {there}")
    moved = {name: version for name, version in labels.items() if name != PREVIOUS}
    return moved | {STABLE: labels[PREVIOUS]}
