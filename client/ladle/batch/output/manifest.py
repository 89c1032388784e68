"""What an output folder says of itself: what it was made from, and which rows are in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ladle.batch.errors import BatchError, ChangedError

FILE_NAME = "_manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive rows whose predictions are whole and in place."""

    files: tuple[str, ...]
    """Names in the output folder, that of the failed rows too; none where no row had either."""
    start: int
    stop: int
    failed: int
    """How many of its rows have no prediction."""
    versions: tuple[int, ...]
    """The versions of the model that answered, in ascending order."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The state of an output folder; replaced as a whole with each shard."""

    input: str
    """Fingerprint of what is read; see `files.fingerprint`."""
    settings: Mapping[str, Any]
    """All that decides what is in the output, beside input and version; plain JSON values."""
    version: int | None
    """The version that is asked; None from a server that doesn't tell."""
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False

    @property
    def rows(self) -> int:
        """How many rows are done: all from the first up to this number."""
        return self.shards[-1].stop if self.shards else 0

    @property
    def failed(self) -> int:
        """How many of them have no prediction."""
        return sum(shard.failed for shard in self.shards)

    def with_shard(self, shard: Shard) -> Manifest:
        """Return the manifest with one shard more, which follows the last."""
        assert shard.start == self.rows, f"{shard.start} does not follow {self.rows}"
        return replace(self, shards=(*self.shards, shard))

    def to_json(self) -> str:
        """Return the text of the file."""
        told = asdict(self) | {"format": FORMAT, "rows": self.rows, "failed": self.failed}
        return json.dumps(told, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read the text of the file.

        Raises:
            BatchError: It is no manifest, or of a format that this version doesn't know.
        """
        try:
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise BatchError(f"{FILE_NAME}: expected format {FORMAT}, got {told['format']}")
            return cls(
                input=str(told["input"]),
                settings=dict(told["settings"]),
                version=None if told["version"] is None else int(told["version"]),
                shards=tuple(
                    Shard(
                        files=tuple(shard["files"]),
                        start=int(shard["start"]),
                        stop=int(shard["stop"]),
                        failed=int(shard["failed"]),
                        versions=tuple(shard["versions"]),
                    )
                    for shard in told["shards"]
                ),
                is_complete=bool(told["is_complete"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BatchError(f"{FILE_NAME}: it can't be read as a manifest: {error}") from None


def go_on(
    found: Manifest, wanted: Manifest, *, allow_changed_input: bool, allow_changed_model: bool
) -> Manifest:
    """Return the manifest to go on with: what is `found`, if it is what `wanted` would make.

    Raises:
        ChangedError: It was made with other settings, or, unless that is allowed, from another
            input or by another version of the model.
    """
    for name in sorted(found.settings.keys() | wanted.settings.keys()):
        before, now = found.settings.get(name), wanted.settings.get(name)
        if before != now:
            raise ChangedError(
                f"the run before had another {name}: {_text(before)}, not {_text(now)}; "
                "--restart begins anew"
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
    # What was added to an input whose rows were all done is still to be predicted.
    is_complete = found.is_complete and found.input == wanted.input
    return replace(found, input=wanted.input, version=wanted.version, is_complete=is_complete)


def _text(value: Any) -> str:
    return json.dumps(value)
