"""The manifest of an output folder: what the folder was made from, and which rows are in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ladle.batch.errors import BatchError, ChangedError

FILE_NAME = "_manifest.json"
FORMAT = 1
PLAN_NAME = "_plan.json"
"""The first file of a place that many workers write to; see `tasks.plan`."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive rows whose files are complete."""

    files: tuple[str, ...]
    """Names in the output folder, including the file of failed rows."""
    start: int
    stop: int
    failed: int
    """How many of its rows have no prediction."""
    versions: tuple[int, ...]
    """The versions of the model that answered, in ascending order."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of an output folder; each shard makes a new manifest."""

    input: str
    """The input's fingerprint; see `files.fingerprint`."""
    settings: Mapping[str, Any]
    """Everything else that decides on the predictions; plain JSON values."""
    version: int | None
    """The version that requests name; None where the server doesn't say which it has."""
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False

    @property
    def rows(self) -> int:
        """How many rows are done, from the first one on."""
        return self.shards[-1].stop if self.shards else 0

    @property
    def failed(self) -> int:
        """How many of `rows` have no prediction."""
        return sum(shard.failed for shard in self.shards)

    def with_shard(self, shard: Shard) -> Manifest:
        """Return the manifest with one shard more, which follows the last one."""
        assert shard.start == self.rows, f"{shard.start} does not follow {self.rows}"
        return replace(self, shards=(*self.shards, shard))

    def to_json(self) -> str:
        """Return the text of the file."""
        fields = asdict(self) | {"format": FORMAT, "rows": self.rows, "failed": self.failed}
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read the text of the file.

        Raises:
            BatchError: The text is no manifest, or has a format that this ladle doesn't know.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise BatchError(f"{FILE_NAME}: expected format {FORMAT}, got {fields['format']}")
            return cls(
                input=str(fields["input"]),
                settings=dict(fields["settings"]),
                version=None if fields["version"] is None else int(fields["version"]),
                shards=tuple(
                    Shard(
                        files=tuple(map(file_name, shard["files"])),
                        start=int(shard["start"]),
                        stop=int(shard["stop"]),
                        failed=int(shard["failed"]),
                        versions=tuple(shard["versions"]),
                    )
                    for shard in fields["shards"]
                ),
                is_complete=bool(fields["is_complete"]),
            )
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise BatchError(f"{FILE_NAME}: it can't be read as a manifest: {error}") from None


def resumed(
    found: Manifest, wanted: Manifest, *, allow_changed_input: bool, allow_changed_model: bool
) -> Manifest:
    """Return the manifest to go on with: `found`, if `wanted` would make the same output.

    Raises:
        ChangedError: `found` has other settings. Or it has another input, or another version of
            the model, and that is not allowed.
    """
    check_settings(
        found.settings, wanted.settings, who="the run before had", hint="--restart begins anew"
    )
    if found.input != wanted.input and not allow_changed_input:
        raise ChangedError(
            f"the input has changed since {found.rows} of its rows were done; "
            "--restart begins anew, --allow-changed-input goes on after them"
        )
    if found.version != wanted.version and not allow_changed_model:
        raise ChangedError(
            f"version {found.version} of the model answered {found.rows} rows and version "
            f"{wanted.version} is served now; --restart begins anew, --allow-changed-model goes on"
        )
    # An input that was done may have new rows.
    is_complete = found.is_complete and found.input == wanted.input
    return replace(found, input=wanted.input, version=wanted.version, is_complete=is_complete)


def check_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, who: str, hint: str
) -> None:
    """Check that settings are those of before.

    Args:
        found: those of before.
        wanted: those of now.
        who: who had those of before, with its verb.
        hint: what helps.

    Raises:
        ChangedError: They are not.
    """
    for name in sorted(found.keys() | wanted.keys()):
        before, now = found.get(name), wanted.get(name)
        if before != now:
            raise ChangedError(f"{who} another {name}: {_text(before)}, not {_text(now)}; {hint}")


def file_name(given: Any) -> str:
    """Return the name of a file in the folder itself: files are removed by these names.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(given, str) or "/" in given or "\0" in given or given in ("", ".", ".."):
        raise ValueError(f"expected names of files, got {given!r}")
    return given


def _text(value: Any) -> str:
    return json.dumps(value)
