"""Put one file of a version in a store in the place of another, or beside the others."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from ladle.store.layout import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MAX_OBJECTS,
    file_of,
    read_manifest,
    version_listing,
    with_checksums,
    write_manifest,
)
from ladle.store.store import Store, get_whole, put_own


def replace_file(store: Store, prefix: str, folder: Path, path: str) -> None:
    """Upload `folder`/`path`, and have the version's manifest list it, if there is one. Blocks.

    The manifest comes last, and only if nobody has changed it meanwhile. Between the two a server
    that begins to take the version finds a file that is not as the manifest says: it takes nothing,
    and looks again. Whoever is killed there repeats the command.

    Args:
        store: where the version is.
        prefix: the version's.
        folder: has the new file.
        path: where it lies, in the folder and below the prefix.

    Raises:
        StoreError: The store refuses; Changed, if the manifest is another by now.
        ValueError: The manifest is wrong, or lists other files that are not there.
    """
    listing = version_listing(prefix, store.list_all(prefix, most=MAX_OBJECTS))
    if listing.manifest is None:
        if listing.is_claimed:
            raise ValueError(f"{prefix}: it is being published: it has no manifest yet")
        store.upload(f"{prefix}/{path}", folder / path)
        return
    if listing.manifest.size > MAX_MANIFEST_BYTES:
        raise ValueError(f"its manifest: expected at most {MAX_MANIFEST_BYTES} bytes")
    files = read_manifest(get_whole(store, listing.manifest))
    others = {name: file for name, file in files.items() if name != path}
    with_checksums(listing, others)
    store.upload(f"{prefix}/{path}", folder / path)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = write_manifest([*others.values(), file_of(folder, path)], made)
    put_own(store, f"{prefix}/{MANIFEST_NAME}", text, if_match=listing.manifest.etag)
