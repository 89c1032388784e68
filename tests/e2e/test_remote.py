"""A server on a store that is moto's S3, by way of obstore and a real port."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from fakes import FakeLoader, until
from stores import upload_order

from ladle import cli
from ladle.client import Client
from ladle.server import Config, Server
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import parse_url

pytest.importorskip("obstore", reason="`pip install 'ladle[remote]'` brings it")
moto = pytest.importorskip("moto.server", reason="`make install` brings it")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|werkzeug)"),
]
BASE = parse_url("s3://moto-models/digits")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    urlopen(Request(f"{endpoint}/{BASE.bucket}", method="PUT")).close()
    yield server
    server.stop()


def publish(store: Store, version: int) -> None:
    for key, data in upload_order(version, {"saved_model.pb": b"graph"}, BASE):
        store.put(key, data)


def started(tmp_path: Path) -> Server:
    config = Config(
        port=None,
        model_name="digits",
        model_base_path=str(BASE),
        model_cache_dir=str(tmp_path / "cache"),
        remote_poll_wait_seconds=1,
        drain_grace_seconds=0,
    )
    server = Server(config, load=FakeLoader())
    server.start()
    return server


def answered_by(server: Server) -> int:
    with Client(server.addresses[0].replace("0.0.0.0", "127.0.0.1")) as client:
        return max(status.version for status in client.status("digits"))


def test_a_server_follows_s3_and_starts_without_it(s3: Any, tmp_path: Path) -> None:
    store = open_store(BASE)
    publish(store, 1)
    server = started(tmp_path)
    try:
        assert answered_by(server) == 1
        publish(store, 2)
        until(lambda: server.manager.is_available("digits", 2))
    finally:
        server.stop(lame_duck=False)
    s3.stop()
    server = started(tmp_path)
    try:
        assert server.manager.is_available("digits", 2)
        assert "can't be reached" in str(server.manager.problem("digits"))
    finally:
        server.stop(lame_duck=False)


def test_as_a_new_user_would(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export, serve, predict, export again, label, go back; then all of it without the store."""
    from checking import run_in_this_process

    from ladle.export.publishing.store import StoreDestination

    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    place = str(BASE)
    assert cli.main(["export", place, "--data", "digits", "--epochs=1", "--quiet"]) == 0
    assert f"Published version 1: {place}/1" in capsys.readouterr().out
    config = Config(
        port=None,
        model_name="digits",
        model_base_path=place,
        model_cache_dir=str(tmp_path / "cache"),
        remote_poll_wait_seconds=1,
        drain_grace_seconds=0,
    )
    images = np.zeros((3, 8, 8), np.uint8)
    server = Server(config)
    server.start()
    try:
        with Client(server.addresses[0].replace("0.0.0.0", "127.0.0.1")) as client:
            first = client.predict("digits", images)
            assert first.version == 1
            (folder,) = (tmp_path / "cache").glob("*/1-*")
            StoreDestination(BASE, open_store(BASE)).publish(folder)
            until(lambda: server.manager.is_available("digits", 2))
            assert cli.main(["models", "label", place, "stable", "1"]) == 0
            until(lambda: server.manager.labels("digits") == {"stable": 1})
            until(lambda: server.manager.is_available("digits", 1))
            assert client.predict("digits", images, label="stable").version == 1
            assert client.predict("digits", images).version == 2
            assert cli.main(["models", "rollback", place]) == 0
            until(lambda: not server.manager.is_available("digits", 2))
    finally:
        server.stop(lame_duck=False)
    s3.stop()
    server = Server(config)
    server.start()
    try:
        with Client(server.addresses[0].replace("0.0.0.0", "127.0.0.1")) as client:
            again = client.predict("digits", images)
            assert again.version == 1
            for name, array in first.outputs.items():
                np.testing.assert_array_equal(again.outputs[name], array)
    finally:
        server.stop(lame_duck=False)
