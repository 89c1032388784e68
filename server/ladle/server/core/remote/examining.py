"""Lists a version in a store, and judges what is there."""

from __future__ import annotations

from typing import NamedTuple

from ladle.server.core.remote.asking import KnownManifest, ask_version
from ladle.server.core.remote.decisions import Sight, Verdict, judge, sight_of
from ladle.server.core.remote.options import RemoteOptions
from ladle.store.store import Store
from ladle.store.url import StoreUrl


class Examined(NamedTuple):
    """What a listing of a version has shown."""

    sight: Sight | None
    manifest: KnownManifest | None
    verdict: Verdict
    fingerprint: str = ""
    """Of its files; empty if they are no version's."""


def examine(
    store: Store,
    base: StoreUrl,
    folder_name: str,
    options: RemoteOptions,
    *,
    sight: Sight | None,
    manifest: KnownManifest | None,
) -> Examined:
    """Return what a version is now, given what the listing before has shown. Blocks.

    Raises:
        StoreError: The store does not say.
    """
    try:
        listing, manifest = ask_version(store, base, folder_name, manifest)
    except ValueError as error:
        return Examined(sight, manifest, Verdict((), str(error), final=True))
    now_s = options.clock.now()
    sight = sight_of(sight, listing, now_s)
    verdict = judge(
        listing,
        None if manifest is None else manifest.files,
        sight,
        settle_s=0.0 if options.once else options.schedule.settle_s,
        now_s=now_s,
        wall_s=options.wall(),
    )
    return Examined(sight, manifest, verdict, listing.fingerprint)
