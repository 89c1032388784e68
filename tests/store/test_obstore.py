"""Buckets by way of obstore: what stores do wrong becomes one sentence, and no secret is in it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="`pip install 'ladle[remote]'` brings it")

from http_store import HttpStore

from ladle.store import obstore_store
from ladle.store.errors import (
    Absent,
    Changed,
    Denied,
    Misconfigured,
    StoreError,
    Taken,
    Unreachable,
)
from ladle.store.opening import open_store
from ladle.store.store import Store, read_small
from ladle.store.url import parse_url

SECRETS = ("SECRETKEY", "TOKEN-IN-A-MESSAGE")


@pytest.fixture(scope="module")
def http() -> Iterator[HttpStore]:
    with HttpStore().running() as made:
        yield made


@pytest.fixture(params=["s3", "gs"])
def store(
    request: pytest.FixtureRequest, http: HttpStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A bucket at the store that fails; each test has one of its own name."""
    for name, value in http.environment.items():
        monkeypatch.setenv(name, value)
    http.objects.clear()
    http.fault = ""
    yield open_store(parse_url(f"{request.param}://bucket-{abs(hash(request.node.name))}"))
    http.fault = ""


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    store.put("m/1/a b", b"hello")
    (tmp_path / "file").write_bytes(b"world")
    store.upload("m/1/v/w", tmp_path / "file")
    store.put("m/x", b"")
    listing = store.list_folder("m")
    assert listing.folders == ("1",)
    assert [(o.key, o.size) for o in listing.objects] == [("m/x", 0)]
    assert store.list_folder("").folders == ("m",)
    assert [o.key for o in store.list_all("m/1", most=9)] == ["m/1/a b", "m/1/v/w"]
    assert len(store.list_all("m", most=1)) == 2
    assert bytes(store.get("m/1/a b")) == b"hello"
    assert bytes(store.get("m/1/a b", start=1, end=4)) == b"ell"
    assert bytes(store.get("m/1/a b", start=5, end=5)) == b""
    stored, data = read_small(store, "m/1/v/w", most=5)
    assert (stored.size, data) == (5, b"world")
    with pytest.raises(ValueError, match="at most 4 bytes, got 5"):
        read_small(store, "m/1/v/w", most=4)
    assert store.list_folder("none").folders == ()
    for _ in range(2):
        store.delete("m/1/v/w")
    with pytest.raises(Absent, match="there is no such object"):
        store.get("m/1/v/w")


def test_a_claim_is_had_by_one(store: Store) -> None:
    store.put("claim", b"1", if_absent=True)
    with pytest.raises(Taken, match="expected no object there"):
        store.put("claim", b"2", if_absent=True)
    assert bytes(store.get("claim")) == b"1"


def test_what_has_changed_is_not_read(store: Store) -> None:
    store.put("a", b"1")
    etag = store.head("a").etag
    assert bytes(store.get("a", if_match=etag)) == b"1"
    store.put("a", b"2")
    with pytest.raises(Changed, match="has changed meanwhile"):
        store.get("a", if_match=etag)


FAULTS: list[tuple[str | tuple[int, str], type[StoreError], str]] = [
    ((403, "AccessDenied"), Denied, "the store refuses access"),
    ((401, "Unknown"), Denied, "the store refuses access"),
    ((403, "RequestTimeTooSkewed"), Denied, "the clock of this machine is wrong"),
    ((400, "ExpiredToken"), Denied, "the credentials have expired"),
    ((404, "NoSuchBucket"), Absent, "there is no such bucket"),
    ((301, "PermanentRedirect"), Misconfigured, "in another region"),
    ((400, "AuthorizationHeaderMalformed"), Misconfigured, "set AWS_REGION"),
    ((400, "Strange"), Misconfigured, "the store answered 400 Strange"),
    ((503, "SlowDown"), Unreachable, "fewer requests"),
    ((500, "InternalError"), Unreachable, "the store answered 500"),
    ("cut", Unreachable, "cut off"),
    ("stall", Unreachable, "does not answer in time"),
]


@pytest.mark.parametrize(("fault", "kind", "text"), FAULTS, ids=lambda value: str(value))
def test_each_fault_is_one_sentence(
    store: Store,
    http: HttpStore,
    fault: str | tuple[int, str],
    kind: type[StoreError],
    text: str,
) -> None:
    http.fault = fault
    for ask in (lambda: store.list_folder("m"), lambda: store.get("m/1/a", start=0, end=9)):
        with pytest.raises(kind, match=text) as failed:
            ask()
        said = str(failed.value)
        assert "\n" not in said
        assert len(said) < 250
        assert "://bucket-" in said
        assert not any(secret in said for secret in SECRETS)


def test_a_part_that_is_too_short_is_found_out(store: Store, http: HttpStore) -> None:
    store.put("a", b"0123456789")
    http.fault = "lie"
    with pytest.raises(StoreError):
        store.get("a", start=0, end=5)


def test_nobody_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
    store = open_store(parse_url("s3://nobody-there"))
    with pytest.raises(
        Unreachable, match=r"\As3://nobody-there/m: the store can't be reached: connection refused"
    ):
        store.list_folder("m")


@pytest.fixture(autouse=True)
def in_a_hurry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "stall" in request.node.name:
        monkeypatch.setitem(
            obstore_store.CLIENT_OPTIONS, "read_timeout", timedelta(milliseconds=200)
        )
    monkeypatch.setitem(obstore_store.RETRIES, "max_retries", 0)
