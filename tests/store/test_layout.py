from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.store.layout import (
    CLAIM_NAME,
    MANIFEST_NAME,
    MAX_FILES,
    RECORD_NAME,
    VersionFile,
    file_of,
    read_manifest,
    version_listing,
    with_checksums,
    write_manifest,
)
from ladle.store.store import StoredObject

SUM = "a" * 64
NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
        lambda name: name not in (".", "..") and len(name.encode()) <= 255
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, st.integers(0, 2**50), min_size=1, max_size=5))
def test_a_manifest_reads_as_it_was_written(sizes: dict[str, int]) -> None:
    files = [VersionFile(path, size, sha256=SUM) for path, size in sizes.items()]
    assert read_manifest(write_manifest(files, "now")) == {f.path: f for f in files}


def changed(**fields: object) -> bytes:
    file = {"path": "a", "size": 1, "sha256": SUM} | fields
    return json.dumps({"format": 1, "files": [file]}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"format": 2, "files": []}',
        b'{"format": 1, "files": []}',
        b'{"format": 1, "files": {}}',
        changed(path="../a"),
        changed(path="/a"),
        changed(path="a//b"),
        changed(path="a\0"),
        changed(size=-1),
        changed(size="1"),
        changed(sha256="A" * 64),
        changed(sha256="a"),
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        read_manifest(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_one_clear_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        read_manifest(text)


def test_files_have_etags_of_the_store_and_checksums_of_the_manifest() -> None:
    listing = version_listing("m/1", [StoredObject("m/1/a", 1, "e", 0.0)])
    manifest = {"a": VersionFile("a", 1, sha256=SUM)}
    assert with_checksums(listing, manifest) == (VersionFile("a", 1, "e", SUM),)


def test_the_fingerprint_is_of_the_files_alone() -> None:
    files = [StoredObject("m/1/a", 1, "e", 0.0), StoredObject("m/1/b/c", 2, "f", 5.0)]
    first = version_listing("m/1", files)
    marker = StoredObject("m/1/", 0, "x", 9.0)
    claim = StoredObject("m/1/_ladle_claim", 0, "x", 1.0)
    again = version_listing("m/1", [*reversed(files), marker, claim])
    assert again.fingerprint == first.fingerprint
    assert (first.newest_s, first.is_claimed, again.is_claimed) == (5.0, False, True)
    for other in (files[1]._replace(size=3), files[1]._replace(etag="g")):
        assert version_listing("m/1", [files[0], other]).fingerprint != first.fingerprint


def test_too_many_files_are_refused() -> None:
    objects = [StoredObject(f"m/1/{i}", 1, "e", 0.0) for i in range(MAX_FILES + 1)]
    with pytest.raises(ValueError, match="at most 10000 files"):
        version_listing("m/1", objects)


def test_a_file_is_described_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    described = file_of(tmp_path, "a")
    assert described.size == 0
    assert described.sha256.startswith("e3b0c442")
    assert MANIFEST_NAME == "_ladle_manifest.json"


def test_what_ladle_keeps_beside_the_files_is_none_of_them() -> None:
    names = ("a", MANIFEST_NAME, CLAIM_NAME, RECORD_NAME)
    listing = version_listing("m/1", [StoredObject(f"m/1/{n}", 1, "e", 0.0) for n in names])
    assert [file.path for file in listing.files] == ["a"]
    listed = {name: VersionFile(name, 1, sha256=SUM) for name in ("a", RECORD_NAME)}
    assert [file.path for file in with_checksums(listing, listed)] == ["a"]
