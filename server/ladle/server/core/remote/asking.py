"""Asks a store what it has of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from ladle.protos.files.versions import LABELS_NAME, parse_labels
from ladle.store.errors import Changed
from ladle.store.layout import (
    MAX_MANIFEST_BYTES,
    MAX_OBJECTS,
    VersionFile,
    VersionListing,
    read_manifest,
    version_listing,
)
from ladle.store.store import Listing, Store, get_whole
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

_MAX_LABELS_BYTES = 1 << 16


class KnownManifest(NamedTuple):
    """A manifest that was read."""

    etag: str
    files: Mapping[str, VersionFile]


class KnownLabels(NamedTuple):
    """Labels that were read."""

    etag: str
    labels: Mapping[str, int]
    changed_s: float | None = None
    """When they were changed, by the store's clock, if that is known."""


def ask_version(
    store: Store, base: StoreUrl, folder_name: str, known: KnownManifest | None
) -> tuple[VersionListing, KnownManifest | None]:
    """Return a version's files, and its manifest; that is read again only if it is another.

    Raises:
        StoreError: The store does not say.
        ValueError: They are no version's files, or that is no manifest.
    """
    prefix = f"{base.path}/{folder_name}".strip("/")
    listing = version_listing(prefix, store.list_all(prefix, most=MAX_OBJECTS))
    stored = listing.manifest
    if stored is None:
        return listing, None
    if known is not None and known.etag == stored.etag:
        return listing, known
    if stored.size > MAX_MANIFEST_BYTES:
        raise ValueError(f"its manifest: expected at most {MAX_MANIFEST_BYTES} bytes")
    text = get_whole(store, stored)
    return listing, KnownManifest(stored.etag, read_manifest(text))


def ask_labels(
    store: Store, base: StoreUrl, listing: Listing, known: KnownLabels | None
) -> KnownLabels | None:
    """Return the labels beside the versions; what was known, where they can't be read.

    Raises:
        StoreError: The store does not say.
    """
    key = (base / LABELS_NAME).path
    stored = next((stored for stored in listing.objects if stored.key == key), None)
    if stored is None:
        return KnownLabels("", {})
    if known is not None and known.etag == stored.etag:
        return known._replace(changed_s=stored.modified_s)
    try:
        if stored.size > _MAX_LABELS_BYTES:
            raise ValueError(f"expected at most {_MAX_LABELS_BYTES} bytes")
        text = get_whole(store, stored)
        return KnownLabels(stored.etag, parse_labels(text), stored.modified_s)
    except ValueError as error:
        logger.warning("labels can't be read base_path=%s error=%s", base, error)
    except Changed:
        pass  # the next look reads them
    return known
