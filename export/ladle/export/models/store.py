"""Look after the versions of a model in a store: name them, hide them, remove them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ladle.export.errors import PublishError
from ladle.export.models.manage import (
    ChangeLabels,
    Version,
    check_hideable,
    check_restorable,
    chosen,
    relabelled,
)
from ladle.export.models.replacing import replace_file
from ladle.protos.files.versions import HIDDEN_PREFIX, LABELS_NAME, parse_labels, version_of
from ladle.protos.model_card import CARD_PATH, MAX_CARD_BYTES, ModelCard
from ladle.store.errors import Absent, Changed, StoreError, Taken
from ladle.store.layout import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MAX_OBJECTS,
    VersionListing,
    read_manifest,
    version_listing,
    with_checksums,
)
from ladle.store.store import Listing, Store, StoredObject, get_whole, read_small
from ladle.store.url import StoreUrl

_MAX_LABELS_BYTES = 1 << 16
# Each time that somebody else changed the labels meanwhile.
_TRIES = 10
_PART_BYTES = 16 << 20
_MODEL_FILES = frozenset(("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb", "model.tflite"))


class StoreKeeper:
    """Looks after the versions at a place in a store.

    Labels are replaced only if nobody has changed them meanwhile. A version out of sight stays
    where it is: an object beside the versions, which servers heed, says so.
    """

    def __init__(self, base: StoreUrl, store: Store) -> None:
        """Take the base of the versions, and its bucket."""
        self._base = base
        self._store = store

    def list_versions(self) -> list[Version]:
        """Return all versions, the lowest first, those out of sight too.

        Raises:
            PublishError: The store does not say.
        """
        with _as_publish_errors():
            listing = self._listing()
            labels = self._labels(listing)[1]
            hidden = _hidden(listing)
            found = [
                self._version(number, name, number in hidden, labels)
                for number, name in sorted(_folders(listing).items())
            ]
        served = max((v.version for v in found if not (v.hidden or v.problem)), default=None)
        return [
            Version(**{**vars(version), "serves": version.version == served}) for version in found
        ]

    def find_version(self, number: int | None = None) -> Version:
        """Return a version; None for the one that serves.

        Raises:
            PublishError: There is no such version.
        """
        return chosen(self.list_versions(), number, self._base)

    def below(self) -> Iterator[StoreKeeper]:
        """Yield this keeper if it has versions, and otherwise those right below that do.

        Raises:
            PublishError: The store does not say.
        """
        with _as_publish_errors():
            listing = self._listing()
            if _folders(listing):
                yield self
                return
            for name in listing.folders:
                keeper = StoreKeeper(self._base / name, self._store)
                if _folders(keeper._listing()):
                    yield keeper

    def read_labels(self) -> dict[str, int]:
        """Return the labels, by name.

        Raises:
            PublishError: They can't be read.
        """
        with _as_publish_errors():
            return self._labels(self._listing())[1]

    def set_label(self, label: str, number: int | None) -> None:
        """Give a label to a version, taking it from any other; None removes it.

        Raises:
            PublishError: There is no such version or label, or the store refuses.
        """
        version = None if number is None else self.find_version(number)
        self.change_labels(lambda labels: relabelled(labels, label, version, self._base))

    def change_labels(self, change: ChangeLabels) -> None:
        """Replace all labels by what `change` makes of them, in one step.

        Raises:
            PublishError: The store refuses, or `change` has raised it.
        """
        for _ in range(_TRIES):
            with _as_publish_errors():
                stored, labels = self._labels(self._listing())
                changed = change(labels)
                text = json.dumps(dict(changed), indent=2, sort_keys=True).encode()
                try:
                    self._store.put(
                        self._key(LABELS_NAME),
                        text,
                        if_absent=stored is None,
                        if_match="" if stored is None else stored.etag,
                    )
                except (Changed, Taken):
                    continue
                return
        raise PublishError(f"{self._base}: others change the labels all the time; try again")

    def hide(self, number: int | None = None) -> Version:
        """Take a version out of servers' sight, the one that serves unless told; return it.

        Raises:
            PublishError: There is no such version, it is labelled, or it is the only one.
        """
        versions = self.list_versions()
        version = chosen(versions, number, self._base)
        check_hideable(version, versions, self._base)
        with _as_publish_errors():
            self._store.put(self._key(f"{HIDDEN_PREFIX}{version.version}"), b"")
        return version

    def restore(self, number: int | None = None) -> Version:
        """Bring back a version that was hidden, the highest unless told; return it.

        Raises:
            PublishError: There is none.
        """
        hidden = [version.version for version in self.list_versions() if version.hidden]
        wanted = check_restorable(hidden, number, self._base)
        with _as_publish_errors():
            self._store.delete(self._key(f"{HIDDEN_PREFIX}{wanted}"))
        return self.find_version(wanted)

    def remove(self, version: Version) -> None:
        """Remove a version's objects: its manifest first, so that no server begins to take it.

        Raises:
            PublishError: The store refuses.
        """
        with _as_publish_errors():
            self._store.put(self._key(f"{HIDDEN_PREFIX}{version.version}"), b"")
            prefix = self._prefix(version.path.name)
            self._store.delete(f"{prefix}/{MANIFEST_NAME}")
            # Servers refuse a version of too many files. It would be one if some of them stayed.
            while stored := self._store.list_all(prefix, most=MAX_OBJECTS):
                for one in stored:
                    self._store.delete(one.key)
            self._store.delete(self._key(f"{HIDDEN_PREFIX}{version.version}"))

    @contextmanager
    def local_copy(self, version: Version, only: Collection[str] | None = None) -> Iterator[Path]:
        """Give a folder with the version's files, or with those named; it is removed on leaving.

        Raises:
            PublishError: The store does not give them.
        """
        prefix = self._prefix(version.path.name)
        with tempfile.TemporaryDirectory(prefix="ladle-models-") as folder:
            with _as_publish_errors():
                objects = self._store.list_all(prefix, most=MAX_OBJECTS)
                for file in version_listing(prefix, objects).files:
                    if only is not None and file.path not in only:
                        continue
                    path = Path(folder, file.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as out:
                        for at in range(0, file.size, _PART_BYTES):
                            end = min(at + _PART_BYTES, file.size)
                            key = f"{prefix}/{file.path}"
                            out.write(self._store.get(key, start=at, end=end, if_match=file.etag))
            yield Path(folder)

    def put_file(self, version: Version, folder: Path, path: str) -> None:
        """Put `folder`/`path` in the place of a version's file, or beside its others.

        Raises:
            PublishError: The store refuses, or somebody else changed the version meanwhile.
        """
        with _as_publish_errors():
            replace_file(self._store, self._prefix(version.path.name), folder, path)

    def _version(
        self, number: int, name: str, is_hidden: bool, labels: Mapping[str, int]
    ) -> Version:
        prefix = self._prefix(name)
        objects = self._store.list_all(prefix, most=MAX_OBJECTS)
        try:
            listing = version_listing(prefix, objects)
            problem = self._problem(listing)
        except ValueError as error:  # one version that no server takes hides no other
            problem = str(error)
        return Version(
            model=self._base.name,
            version=number,
            path=self._base / name,
            card=self._card(objects, prefix),
            serves=False,
            problem=problem,
            hidden=is_hidden,
            labels=tuple(sorted(label for label, v in labels.items() if v == number)),
            size_bytes=sum(stored.size for stored in objects),
        )

    def _problem(self, listing: VersionListing) -> str:
        """Return what a version lacks, as far as listings show; empty if nothing.

        Raises:
            ValueError: Its manifest is wrong, or is not what is there.
        """
        if not any(file.path in _MODEL_FILES for file in listing.files):
            return "there is no saved_model.pb"
        if listing.manifest is None:
            return "it is being published: it has no manifest yet" if listing.is_claimed else ""
        if listing.manifest.size > MAX_MANIFEST_BYTES:
            raise ValueError(f"its manifest: expected at most {MAX_MANIFEST_BYTES} bytes")
        with_checksums(listing, read_manifest(get_whole(self._store, listing.manifest)))
        return ""

    def _card(self, objects: list[StoredObject], prefix: str) -> ModelCard | None:
        key = f"{prefix}/{CARD_PATH}"
        if not any(stored.key == key for stored in objects):
            return None
        try:
            return ModelCard.from_json(read_small(self._store, key, most=MAX_CARD_BYTES)[1])
        except (Absent, ValueError):
            return None

    def _labels(self, listing: Listing) -> tuple[StoredObject | None, dict[str, int]]:
        key = self._key(LABELS_NAME)
        stored = next((stored for stored in listing.objects if stored.key == key), None)
        if stored is None:
            return None, {}
        try:
            if stored.size > _MAX_LABELS_BYTES:
                raise ValueError(f"expected at most {_MAX_LABELS_BYTES} bytes")
            return stored, parse_labels(get_whole(self._store, stored))
        except ValueError as error:
            place = self._base / LABELS_NAME
            raise PublishError(f"{place}: cannot be read: {error}") from error

    def _listing(self) -> Listing:
        return self._store.list_folder(self._base.path)

    def _prefix(self, folder_name: str) -> str:
        return (self._base / folder_name).path

    def _key(self, name: str) -> str:
        return (self._base / name).path


def _folders(listing: Listing) -> dict[int, str]:
    found = {name: version_of(name) for name in sorted(listing.folders)}
    return {version: name for name, version in found.items() if version is not None}


def _hidden(listing: Listing) -> set[int]:
    names = (stored.key.rpartition("/")[2] for stored in listing.objects)
    found = (
        version_of(n.removeprefix(HIDDEN_PREFIX)) for n in names if n.startswith(HIDDEN_PREFIX)
    )
    return {version for version in found if version is not None}


@contextmanager
def _as_publish_errors() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise PublishError(str(error)) from error
    except ValueError as error:
        raise PublishError(str(error)) from error
