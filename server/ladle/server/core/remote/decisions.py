"""What to do about a model in a store: when to look, what is whole, what to fetch. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ladle.protos.files.versions import HIDDEN_PREFIX, version_of
from ladle.server.core.sources.version_policy import numbered
from ladle.store.layout import VersionFile, VersionListing, with_checksums
from ladle.store.store import Listing

_LONGEST_WAIT_S = 300.0
_JITTER = 0.2
# Requests that are signed are refused from a clock that is a quarter of an hour off. What is older
# than this by the machine's clock is old by the store's too.
_OLD_FOR_SURE_S = 3600.0


class Schedule(NamedTuple):
    """How often a store is asked."""

    wait_s: float
    """Between two looks at a base, before jitter."""
    settle_s: float
    """For so long a version without a manifest has to stay the same."""


def next_wait_s(
    schedule: Schedule, failures: int, chance: float, *, unsettled: bool = False
) -> float:
    """Return how long to wait for the next look.

    Args:
        schedule: how often at most.
        failures: how many looks have failed one after the other.
        chance: from 0 to 1, at random: servers that were started together do not ask together.
        unsettled: whether a version waits to have stayed the same for long enough.
    """
    wait_s = schedule.wait_s
    if failures:
        wait_s = min(wait_s * 2 ** min(failures, 10), max(_LONGEST_WAIT_S, wait_s))
    elif unsettled:
        # Not earlier than it has settled: the look would be for nothing.
        wait_s = min(wait_s, schedule.settle_s) or wait_s
        return wait_s * (1 + _JITTER * chance)
    return wait_s * (1 - _JITTER + 2 * _JITTER * chance)


class Base(NamedTuple):
    """What lies directly below a model's base."""

    folders: Mapping[int, str]
    """The versions in sight, each with its folder's name."""
    hidden: frozenset[int]
    """The versions out of sight."""
    names: frozenset[str]
    """All names, for messages."""


def base_of(listing: Listing) -> Base:
    """Return which versions a listing shows."""
    names = [*listing.folders, *(stored.key.rpartition("/")[2] for stored in listing.objects)]
    hidden = {
        version
        for name in names
        if name.startswith(HIDDEN_PREFIX)
        and (version := version_of(name.removeprefix(HIDDEN_PREFIX))) is not None
    }
    folders = numbered(listing.folders)
    in_sight = {version: name for version, name in folders.items() if version not in hidden}
    return Base(in_sight, frozenset(hidden), frozenset(names))


def agreed(previous: Base | None, now: Base, served: Collection[int]) -> Base:
    """Return what to believe: that a version is gone takes two looks that agree.

    A listing without any version never takes one away: a wrong prefix, a right that was withdrawn
    or a `sync --delete` that has just begun look like that.

    Args:
        previous: what the look before has shown; None if there was none.
        now: what this one shows.
        served: the versions that were taken so far.
    """
    kept = {}
    for version in served:
        if version in now.folders or version in now.hidden:
            continue
        seen_before = previous is None or version in previous.folders
        if seen_before or not (now.folders or now.hidden):
            kept[version] = str(version)
    return Base({**now.folders, **kept}, now.hidden, now.names) if kept else now


class Verdict(NamedTuple):
    """Whether a version may be fetched."""

    files: tuple[VersionFile, ...]
    """All of them, if it may."""
    problem: str = ""
    """Why it may not."""
    final: bool = False
    """Whether waiting alone won't change that."""


class Sight(NamedTuple):
    """Since when a version looks as it does."""

    fingerprint: str
    since_s: float
    """The monotonic time of the first look that showed it so."""
    changed: bool
    """Whether an earlier look showed it otherwise."""


def sight_of(before: Sight | None, listing: VersionListing, now_s: float) -> Sight:
    """Return since when a version looks as this listing has it."""
    key = f"{listing.fingerprint}{listing.manifest.etag if listing.manifest else ''}"
    if before is None:
        return Sight(key, now_s, changed=False)
    return before if before.fingerprint == key else Sight(key, now_s, changed=True)


def judge(
    listing: VersionListing,
    manifest: Mapping[str, VersionFile] | None,
    sight: Sight,
    *,
    settle_s: float,
    now_s: float,
    wall_s: float,
) -> Verdict:
    """Return whether a version is whole, as far as a listing shows.

    With a manifest it is, once all that the manifest lists is there: at once. Without one it has to
    look the same for a while; whether it is a whole model is found out after the download.

    Args:
        listing: its files.
        manifest: what its manifest lists; None if there is none.
        sight: since when it looks so.
        settle_s: how long is long enough.
        now_s: monotonic time, as in `sight`.
        wall_s: seconds since 1970.
    """
    settled = now_s - sight.since_s >= settle_s
    if not sight.changed and wall_s - listing.newest_s >= max(_OLD_FOR_SURE_S, settle_s):
        settled = True
    if manifest is not None:
        try:
            return Verdict(with_checksums(listing, manifest))
        except ValueError as error:
            return Verdict((), str(error), final=settled)
    if listing.is_claimed:
        return Verdict((), "it is being published: it has no manifest yet", final=settled)
    if not listing.files:
        return Verdict((), "it holds no files", final=settled)
    if not settled:
        return Verdict((), "it has no manifest, and its files may still be changing")
    return Verdict(listing.files)
