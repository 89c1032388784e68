"""The commit of a task: which files hold its rows. It is created once, if there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ladle.batch.errors import BatchError
from ladle.batch.output.manifest import file_name
from ladle.batch.tasks.plan import FORMAT, Plan

COMMIT_FOLDER = "_tasks"
SUCCESS_NAME = "_SUCCESS"
"""An empty file beside the manifest, by which Spark's users see that a folder is whole."""


@dataclass(frozen=True, kw_only=True)
class CommittedFile:
    """A file of a task's rows."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    """In hex digits."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What came of a task."""

    task: int
    attempt: str
    """Is in the names of the files, and differs each time that somebody does the task."""
    start: int
    stop: int
    failed: int
    """How many of its rows have no prediction."""
    versions: tuple[int, ...]
    """The versions of the model that answered, in ascending order."""
    files: tuple[CommittedFile, ...]

    @property
    def rows(self) -> int:
        """How many rows the task has."""
        return self.stop - self.start

    def to_json(self) -> bytes:
        """Return the content of the file."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Commit:
        """Read the content of the file.

        Raises:
            BatchError: The text is no commit.
        """
        try:
            fields = json.loads(text)
            return cls(
                task=int(fields["task"]),
                attempt=str(fields["attempt"]),
                start=int(fields["start"]),
                stop=int(fields["stop"]),
                failed=int(fields["failed"]),
                versions=tuple(map(int, fields["versions"])),
                files=tuple(
                    CommittedFile(
                        name=file_name(file["name"]),
                        size=int(file["size"]),
                        sha256=str(file["sha256"]),
                    )
                    for file in fields["files"]
                ),
            )
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise BatchError(f"a commit can't be read: {error}") from None


def commit_name(task: int) -> str:
    """Return the name of a task's commit, below the place of the output."""
    return f"{COMMIT_FOLDER}/{task:06}.json"


def task_of(name: str) -> int | None:
    """Return the task whose commit is so named in its folder; None if the name is no commit's."""
    stem, dot, extension = name.partition(".")
    is_one = dot and extension == "json" and stem.isascii() and stem.isdigit()
    return int(stem) if is_one else None


def manifest_of(plan: Plan, commits: Sequence[Commit]) -> bytes:
    """Return the manifest of a whole job: the same bytes, whoever writes it.

    `commits` are those of all tasks, in order.
    """
    fields: Mapping[str, Any] = {
        "format": FORMAT,
        "input": plan.input,
        "settings": plan.settings,
        "version": plan.version,
        "tasks": [
            {"file": plan.file_of(task), **asdict(commit)}
            for task, commit in zip(plan.tasks, commits, strict=True)
        ],
        "rows": sum(commit.rows for commit in commits),
        "failed": sum(commit.failed for commit in commits),
        "is_complete": True,
    }
    return (json.dumps(fields, indent=1) + "\n").encode()


def commits_of(manifest: bytes) -> list[Commit]:
    """Return the commits that a manifest of many workers counts.

    Raises:
        BatchError: It is none.
    """
    try:
        fields = json.loads(manifest)
        if fields["format"] != FORMAT:
            raise BatchError(f"expected a manifest of format {FORMAT}, got {fields['format']}")
        return [Commit.from_json(json.dumps(task).encode()) for task in fields["tasks"]]
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BatchError(f"the manifest can't be read: {error}") from None
