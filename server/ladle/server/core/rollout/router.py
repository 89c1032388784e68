"""Chooses the version for each request that names none, as the roll-outs say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.rollout.split import (
    BUCKETS,
    Rollout,
    bucket_of,
    canary_version,
    stable_version,
)

Metadata: TypeAlias = "Callable[[str], str | None]"
"""Returns what a caller sent under a lower-case name."""


class Share(NamedTuple):
    """What a version gets at this moment."""

    part: str
    """`stable` or `canary`."""
    version: int
    share: float
    """Of the requests that name no version, from 0 to 1."""
    is_held: bool = False
    """Whether it gets nothing because it did worse than it may."""
    reason: str = ""
    """Why it is held, in a sentence."""


class Router:
    """The roll-outs in force. Thread-safe; a choice takes a microsecond."""

    def __init__(
        self,
        serving: ServingMap,
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        """Take where the versions are, and how to draw a bucket for a request without a key."""
        self._serving = serving
        self._draw = draw
        self.rollouts: Mapping[str, Rollout] = {}
        """By model; replaced as a whole."""
        self._lock = threading.Lock()
        # By model: the version that gets nothing, and why. Changed under the lock, replaced as a
        # whole.
        self._held: dict[str, tuple[int, str]] = {}
        self._keyless: dict[str, int] = {}  # guarded by _lock

    def replace(self, rollouts: Iterable[Rollout]) -> None:
        """Put others in place of all that there were; no version is held then."""
        with self._lock:
            self._held = {}
        self.rollouts = {rollout.model: rollout for rollout in rollouts}

    def hold(self, model: str, version: int, reason: str) -> None:
        """Give a version on trial nothing more, until its label is on another; say why."""
        with self._lock:
            self._held = {**self._held, model: (version, reason)}

    def choose(self, model: str, metadata: Metadata | None = None) -> int | None:
        """Return the version for a request that names none; None leaves it to the usual rule.

        Args:
            model: the name in the request.
            metadata: returns what the caller sent; None for a request that runs no model, which
                gets the stable version.
        """
        rollout = self.rollouts.get(model)
        if rollout is None:
            return None
        labels, available = self._serving.labels(model), self._serving.versions(model)
        if metadata is not None and rollout.canary_buckets:
            canary = canary_version(rollout, labels, available)
            held = self._held.get(model)
            if held is not None and canary == held[0]:
                canary = None
            if canary is not None and self._bucket(rollout, metadata) < rollout.canary_buckets:
                return canary
        return stable_version(rollout, labels, available)

    def shares(self, model: str) -> tuple[Share, ...]:
        """Return what the versions of a model get; nothing where it has no roll-out."""
        rollout = self.rollouts.get(model)
        if rollout is None:
            return ()
        labels, available = self._serving.labels(model), self._serving.versions(model)
        canary = canary_version(rollout, labels, available)
        stable = stable_version(rollout, labels, available)
        held, reason = self._held.get(model, (None, ""))
        is_held = canary is not None and canary == held
        has_part = canary is not None and not is_held
        share = rollout.canary_buckets / BUCKETS if has_part else 0.0
        of_canary = Share("canary", canary or 0, share, is_held, reason if is_held else "")
        found = [] if stable is None else [Share("stable", stable, 1 - share)]
        return (*found, *([] if canary is None else [of_canary]))

    def keyless(self) -> Mapping[str, int]:
        """Return how many requests had no key, by model, where one was looked for."""
        with self._lock:
            return dict(self._keyless)

    def _bucket(self, rollout: Rollout, metadata: Metadata) -> int:
        if not rollout.key_name:
            return self._draw(BUCKETS)
        key = metadata(rollout.key_name)
        if key:
            return bucket_of(rollout.salt, key)
        with self._lock:
            self._keyless[rollout.model] = self._keyless.get(rollout.model, 0) + 1
        return self._draw(BUCKETS)
