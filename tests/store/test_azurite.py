"""Azure's store by way of obstore, and a server on it: azurite answers, Azure's own stand-in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import shutil
import subprocess
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from fakes import TIMEOUT_S, FakeLoader, until
from stores import upload_order

from ladle.server import Config, Server
from ladle.store.errors import Absent, Changed, Taken
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import parse_url

pytest.importorskip("obstore", reason="`pip install 'ladle[remote]'` brings it")
OWN = Path(__file__).parents[2] / "build" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
AZURITE = shutil.which("azurite-blob") or (str(OWN) if OWN.exists() else "")
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (AZURITE and NODE), reason="needs azurite: `make azurite`, with npm"),
]
BASE = parse_url("az://models/m")
ACCOUNT = "devstoreaccount1"
# Of the account that azurite has; it is in azurite's documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite:
    """One that runs; `stop` ends it."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [
                *(AZURITE, "--blobHost", "127.0.0.1", "--blobPort", "0"),
                *("--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"listens on (http://\S+)", line):
                self.endpoint = f"{found[1]}/{ACCOUNT}"
                return
        raise AssertionError("azurite ended before it listened")

    def make_container(self, name: str) -> None:
        """Ask for it by a signed request, as obstore can't."""
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        listed = "".join(f"{key}:{value}\n" for key, value in headers.items())
        signed = f"PUT{12 * chr(10)}{listed}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        headers["authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        url = f"{self.endpoint}/{name}?restype=container"
        with urlopen(Request(url, method="PUT", headers=headers), timeout=TIMEOUT_S):
            pass

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    running = Azurite(tmp_path_factory.mktemp("azurite"))
    try:
        running.make_container(BASE.bucket)
        yield running
    finally:
        running.stop()


@pytest.fixture
def store(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite.endpoint)
    return open_store(BASE)


def test_azure_keeps_what_a_store_promises(store: Store, tmp_path: Path) -> None:
    etag = store.put("x/1/a b", b"hello", if_absent=True)
    with pytest.raises(Taken):
        store.put("x/1/a b", b"other", if_absent=True)
    assert bytes(store.get("x/1/a b", start=1, end=3, if_match=etag)) == b"el"
    (stored,) = store.list_all("x", most=10)
    assert (stored.key, stored.size, stored.etag) == ("x/1/a b", 5, etag)
    assert store.list_folder("x").folders == ("1",)
    assert store.put("x/1/a b", b"newer", if_match=etag) != etag
    for request in (
        lambda: store.put("x/1/a b", b"other", if_match=etag),
        lambda: store.get("x/1/a b", if_match=etag),
    ):
        with pytest.raises(Changed):
            request()
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    store.upload("x/large", tmp_path / "large")
    assert store.head("x/large").size == 40 << 20
    for key in ("x/1/a b", "x/large", "x/large"):
        store.delete(key)
    assert store.list_all("x", most=10) == []
    with pytest.raises(Absent, match="az://models/x/none: there is no such object"):
        store.get("x/none")
    with pytest.raises(Absent, match="az://elsewhere: there is no such container"):
        open_store(parse_url("az://elsewhere")).list_folder("")


def test_a_server_follows_azure(store: Store, tmp_path: Path) -> None:
    def publish(version: int) -> None:
        for key, data in upload_order(version, {"saved_model.pb": b"graph"}, BASE):
            store.put(key, data)

    publish(1)
    server = Server(
        Config(
            port=None,
            model_name="m",
            model_base_path=str(BASE),
            model_cache_dir=str(tmp_path / "cache"),
            remote_poll_wait_seconds=1,
            drain_grace_seconds=0,
        ),
        load=FakeLoader(),
    )
    server.start()
    try:
        assert server.manager.is_available("m", 1)
        publish(2)
        until(lambda: server.manager.is_available("m", 2))
    finally:
        server.stop(lame_duck=False)
