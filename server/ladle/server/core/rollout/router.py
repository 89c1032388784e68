"""Chooses the version for each request that names none, as the roll-outs say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace as replaced
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.rollout.split import (
    BUCKETS,
    Rollout,
    bucket_of,
    canary_version,
    salted,
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


class _Route(NamedTuple):
    """What a model's roll-out comes down to, while all that it was made of is as it was."""

    rollout: Rollout
    revision: object
    held: Mapping[str, tuple[int, str]]
    stable: int | None
    canary: int | None
    """None where all requests go to stable."""
    salted: blake2b


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
        self.held: Mapping[str, tuple[int, str]] = {}
        """By model, the version that gets nothing, and why; replaced as a whole."""
        self._routes: dict[str, _Route] = {}  # by model; remade when they are out of date
        self._keyless: dict[str, int] = {}  # guarded by _lock

    def replace(self, rollouts: Iterable[Rollout]) -> None:
        """Put others in place of all that there were; no version is held then."""
        with self._lock:
            self.held = {}
            self.rollouts = {rollout.model: rollout for rollout in rollouts}
            self._routes = {}

    def release(self, model: str) -> None:
        """Hold no version of a model any more."""
        with self._lock:
            self.held = {name: held for name, held in self.held.items() if name != model}

    def give(self, rollout: Rollout, buckets: int) -> None:
        """Give the canary of a roll-out so many buckets; without effect if it is out of force."""
        with self._lock:
            if self.rollouts.get(rollout.model) is rollout:
                changed = replaced(rollout, canary_buckets=buckets)
                self.rollouts = {**self.rollouts, rollout.model: changed}

    def hold(self, model: str, version: int, reason: str) -> None:
        """Give a version on trial nothing more, until its label is on another; say why."""
        with self._lock:
            self.held = {**self.held, model: (version, reason)}

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
        route = self._routes.get(model)
        if (
            route is None
            or route.rollout is not rollout
            or route.revision is not self._serving.revision
            or route.held is not self.held
        ):
            route = self._routes[model] = self._route(rollout)
        canary = route.canary
        if canary is None or metadata is None:
            return route.stable
        key = metadata(rollout.key_name) if rollout.key_name else None
        bucket = bucket_of(route.salted, key) if key else self._drawn(rollout)
        return canary if bucket < rollout.canary_buckets else route.stable

    def _route(self, rollout: Rollout) -> _Route:
        # In this order: what is read after the revision is that one's, or a later one's.
        revision, held = self._serving.revision, self.held
        labels = self._serving.labels(rollout.model)
        available = self._serving.versions(rollout.model)
        canary = canary_version(rollout, labels, available)
        if not rollout.canary_buckets or canary == held.get(rollout.model, (None, ""))[0]:
            canary = None
        stable = stable_version(rollout, labels, available)
        return _Route(rollout, revision, held, stable, canary, salted(rollout.salt))

    def shares(self, model: str) -> tuple[Share, ...]:
        """Return what the versions of a model get; nothing where it has no roll-out."""
        rollout = self.rollouts.get(model)
        if rollout is None:
            return ()
        labels, available = self._serving.labels(model), self._serving.versions(model)
        canary = canary_version(rollout, labels, available)
        stable = stable_version(rollout, labels, available)
        held, reason = self.held.get(model, (None, ""))
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

    def _drawn(self, rollout: Rollout) -> int:
        if rollout.key_name:
            with self._lock:
                self._keyless[rollout.model] = self._keyless.get(rollout.model, 0) + 1
        return self._draw(BUCKETS)
