"""How a model's requests are split between two versions: decided by their keys, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

from ladle.rollout.guard import Guard
from ladle.server.core.rollout.shadow import Shadow

_unpack = Struct(">Q").unpack

BUCKETS = 10_000
"""A bucket is a hundredth of a percent."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the canary gets, as time goes on."""

    buckets: tuple[int, ...]
    """Of each step; the last one stays."""
    hold_s: float
    """How long each step takes."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How the requests of one model are split that name neither a version nor a label."""

    model: str
    stable_label: str = "stable"
    """The label of the version that gets what no other gets."""
    canary_label: str = ""
    """The label of the version on trial; empty where there is none."""
    canary_buckets: int = 0
    """How many of the buckets that one gets; where there are steps, at this moment."""
    steps: Steps | None = None
    """What it gets later."""
    key_name: str = ""
    """The name, in lower case, of the metadata that holds a request's key; empty for none."""
    salt: str = ""
    """Mixed into each key."""
    guard: Guard | None = None
    """When the canary gets nothing more."""
    shadow: Shadow | None = None
    """The version on which requests run once more, for a comparison."""


def bucket_of(salt: blake2b, key: str) -> int:
    """Return the bucket of a key, 0 to BUCKETS - 1: the same on every server.

    It does not depend on the version: who was with the canary at 5 % is so at 25 %.

    Args:
        salt: what `salted` has returned.
        key: any text.
    """
    hasher = salt.copy()
    hasher.update(key.encode("utf-8", "surrogatepass"))
    number: int = _unpack(hasher.digest())[0]
    return number % BUCKETS


def salted(salt: str) -> blake2b:
    """Return what the hashes of all keys begin with."""
    return blake2b(f"{salt}\0".encode(), digest_size=8)


def buckets_at(steps: Steps, since_s: float | None) -> int:
    """Return how many buckets the canary gets.

    Args:
        steps: one after the other.
        since_s: the seconds since the first began; None, while that is not known, and less than 0
            stand for the first.
    """
    number = int(max(0.0, since_s or 0.0) // steps.hold_s)
    return steps.buckets[min(number, len(steps.buckets) - 1)]


def stable_version(
    rollout: Rollout, labels: Mapping[str, int], available: Collection[int]
) -> int | None:
    """Return the version that gets what no other gets; None where none may.

    Without the label, or while its version is not available, that is the highest version that is
    not on trial: an answer of an older version is better than none.

    Args:
        rollout: the model's.
        labels: the version of each label.
        available: the versions that can be had.
    """
    version = labels.get(rollout.stable_label)
    if version in available:
        return version
    canary = labels.get(rollout.canary_label)
    others = [v for v in available if v != canary]
    return max(others or available, default=None)


def canary_version(
    rollout: Rollout, labels: Mapping[str, int], available: Collection[int]
) -> int | None:
    """Return the version on trial; None while there is none that could answer."""
    version = labels.get(rollout.canary_label) if rollout.canary_label else None
    return version if version in available else None
