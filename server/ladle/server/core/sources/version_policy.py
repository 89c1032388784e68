"""Which versions of a model are wanted: folder names, and the version policy over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from ladle.protos.files.versions import version_of


@dataclass(frozen=True)
class Latest:
    """The highest `count` versions."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"latest: expected at least 1 version, got {self.count}")


@dataclass(frozen=True)
class All:
    """Every version that is there."""


@dataclass(frozen=True)
class Specific:
    """Just these versions."""

    versions: frozenset[int]


VersionPolicy: TypeAlias = Latest | All | Specific


def numbered(folder_names: Iterable[str]) -> dict[int, str]:
    """Return the versions among the children of a base path, each with its folder's name.

    Of two names for one number (`1` and `001`) the one later in sorted order counts.
    """
    folders: dict[int, str] = {}
    for name in sorted(folder_names):
        version = version_of(name)
        if version is not None:
            folders[version] = name
    return folders


def aspired(
    folders: Mapping[int, str],
    policy: VersionPolicy,
    is_whole: Callable[[int], bool] = lambda _: True,
    labelled: Collection[int] = (),
) -> dict[int, str]:
    """Return the whole versions that the policy wants, and those of the labelled ones.

    `is_whole` is asked for no more versions than it takes, the highest first. Labelled versions
    are wanted beside the latest; a policy that names its versions wants no others.
    """
    count = policy.count if isinstance(policy, Latest) else len(folders)
    highest_first = (
        version
        for version in sorted(folders, reverse=True)
        if (not isinstance(policy, Specific) or version in policy.versions) and is_whole(version)
    )
    chosen = set(islice(highest_first, count))
    if isinstance(policy, Latest):
        chosen |= {v for v in set(labelled) - chosen if v in folders and is_whole(v)}
    return {version: folders[version] for version in sorted(chosen)}


def next_aspired(
    folders: Mapping[int, str],
    policy: VersionPolicy,
    whole: Mapping[int, str],
    current: Collection[int],
) -> dict[int, str] | None:
    """Return all the versions to aspire to now, or None to leave what is served as it is.

    A model is withdrawn by taking its folders away, or by a policy that names no version. That
    the wanted versions are still on their way, or not yet there, is no reason to stop serving.

    Args:
        folders: the versions under the base path, whole or not.
        policy: the model's.
        whole: what `aspired` made of them.
        current: the versions aspired from this base path so far.
    """
    if whole:
        return dict(whole)
    if isinstance(policy, Specific) and not policy.versions:
        return {}
    if aspired(folders, policy) or not current:
        return None
    return {version: folders[version] for version in sorted(current) if version in folders}


def effective_labels(
    wanted: Mapping[str, int], current: Mapping[str, int], is_available: Callable[[int], bool]
) -> dict[str, int]:
    """Return the labels to put in force: each on its version as soon as that is available.

    Until then it stays on the version it is on, while that is available; else there is none.
    """
    candidates = [(label, version) for label, version in current.items() if label in wanted]
    candidates += wanted.items()
    return {label: version for label, version in candidates if is_available(version)}
