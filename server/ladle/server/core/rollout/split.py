"""How a model's requests are split between two versions: decided by their keys, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from ladle.server.core.rollout.guard import Guard
from ladle.server.core.rollout.shadow import Shadow

BUCKETS = 10_000
"""A bucket is a hundredth of a percent."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How the requests of one model are split that name neither a version nor a label."""

    model: str
    stable_label: str = "stable"
    """The label of the version that gets what no other gets."""
    canary_label: str = ""
    """The label of the version on trial; empty where there is none."""
    canary_buckets: int = 0
    """How many of the buckets that one gets."""
    key_name: str = ""
    """The name, in lower case, of the metadata that holds a request's key; empty for none."""
    salt: str = ""
    """Mixed into each key."""
    guard: Guard | None = None
    """When the canary gets nothing more."""
    shadow: Shadow | None = None
    """The version on which requests run once more, for a comparison."""


def bucket_of(salt: str, key: str) -> int:
    """Return the bucket of a key, 0 to BUCKETS - 1: the same on every server.

    It does not depend on the version: who was with the canary at 5 % is so at 25 %.
    """
    hasher = _salted(salt).copy()
    hasher.update(key.encode("utf-8", "surrogatepass"))
    return int.from_bytes(hasher.digest(), "big") % BUCKETS


@lru_cache(maxsize=1024)
def _salted(salt: str) -> blake2b:
    return blake2b(f"{salt}\0".encode(), digest_size=8)


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
