"""Says why a model in a store has no version to serve; without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ladle.protos.files.versions import without_versions
from ladle.server.core.remote.decisions import Base
from ladle.store.url import StoreUrl


class Problem(NamedTuple):
    """Why something is not there."""

    text: str
    is_final: bool
    """Whether waiting alone won't change that."""


def problem_of(
    url: StoreUrl,
    look: Problem | None,
    shown: Base | None,
    whole: Mapping[int, str],
    missing: Mapping[int, Problem],
) -> Problem | None:
    """Return why versions of a model are missing; None if none is.

    Args:
        url: the model's base.
        look: why the last look has failed; None if it has not.
        shown: what the last look that succeeded has shown; None if there was none.
        whole: the wanted versions that are in the cache.
        missing: why each wanted version is not.
    """
    if look is not None:
        return look
    if shown is not None and not shown.folders:
        return Problem(without_versions(url, shown.names), True)
    if missing:
        version = max(missing)
        final = all(why.is_final for why in missing.values())
        return Problem(f"version {version} in {url} is not there: {missing[version].text}", final)
    if not whole:
        return Problem(f"none of the wanted versions is under base path {url}", True)
    return None
