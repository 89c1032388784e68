"""The end of a job of many workers: once all tasks are committed, a manifest says so."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import OnStep, is_of_ours
from ladle.batch.output.manifest import FILE_NAME
from ladle.batch.tasks.commit import SUCCESS_NAME, Commit, commit_name, manifest_of
from ladle.batch.tasks.place import Place
from ladle.batch.tasks.plan import Plan

_READ_AT_A_TIME = 8


def read_commit(place: Place, task: int) -> Commit | None:
    """Return the commit of a task; None if it has none. Blocks.

    Raises:
        BatchError: It can't be read.
    """
    text = place.read(commit_name(task))
    try:
        return None if text is None else Commit.from_json(text)
    except BatchError as error:
        raise BatchError(f"{place}/{commit_name(task)}: {error}") from None


def finish(place: Place, plan: Plan, on_step: OnStep) -> list[Commit]:
    """Remove what no commit counts, write the manifest, and return all commits. Blocks.

    Several workers may do that at once: they write the same.

    Raises:
        BatchError: A commit is missing or can't be read, or the manifest is of another job.
    """
    with ThreadPoolExecutor(_READ_AT_A_TIME) as pool:
        found = list(pool.map(partial(read_commit, place), range(len(plan.tasks))))
    commits = [commit for commit in found if commit is not None]
    if len(commits) < len(found):
        raise BatchError(f"{place}: commits were removed while the job was under way")
    remove_leftovers(place, commits, on_step)
    manifest = manifest_of(plan, commits)
    place.create(FILE_NAME, manifest)
    on_step("manifest in place")
    if place.read(FILE_NAME) != manifest:
        raise BatchError(f"{place}: {FILE_NAME} is not of this job")
    place.create(SUCCESS_NAME, b"")
    return commits


def finish_again(place: Place, commits: Iterable[Commit], on_step: OnStep) -> None:
    """Do what workers may have left who were killed when the manifest was there. Blocks."""
    remove_leftovers(place, commits, on_step)
    place.create(SUCCESS_NAME, b"")


def remove_leftovers(place: Place, commits: Iterable[Commit], on_step: OnStep) -> None:
    """Remove parts that no commit counts, once all tasks are committed. Blocks.

    They are of workers that were killed, or that still do a task which another one has committed.
    """
    counted = {file.name for commit in commits for file in commit.files}
    for name in place.sizes():
        if is_of_ours(name) and name not in counted:
            place.remove(name)
            on_step("leftover removed")
