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
from ladle.server.core.rollout.split import bucket_of, salted
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
    """Export, serve, predict, export again, label, split, promote, go back; then no store."""
    from checking import run_in_this_process

    from ladle.export.publishing.store import StoreDestination

    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    place = str(BASE)
    assert cli.main(["export", place, "--data", "digits", "--epochs=1", "--quiet"]) == 0
    assert f"Published version 1: {place}/1" in capsys.readouterr().out
    rollout = tmp_path / "rollout.txt"
    rollout.write_text(
        'rollout { model: "digits" canary { percent: 10 } sticky { metadata: "x-user-id" } '
        "shadow { percent: 100 } }"
    )
    config = Config(
        port=None,
        model_name="digits",
        model_base_path=place,
        model_cache_dir=str(tmp_path / "cache"),
        remote_poll_wait_seconds=1,
        drain_grace_seconds=0,
        rollout_file=str(rollout),
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
            assert cli.main(["models", "label", place, "canary", "2"]) == 0
            until(lambda: server.manager.labels("digits") == {"stable": 1, "canary": 2})
            answered = [
                client.predict("digits", images, metadata={"x-user-id": f"user-{n}"}).version
                for n in range(100)
            ]
            salt = salted("digits")
            in_canary = [bucket_of(salt, f"user-{n}") < 1_000 for n in range(100)]
            assert answered == [2 if canary else 1 for canary in in_canary]
            assert 0 < answered.count(2) < 30

            def is_compared() -> bool:
                client.predict("digits", images, metadata={"x-user-id": "user-0"})
                shadow = server.snapshot()["digits"].shadow
                return shadow is not None and shadow.rows > 0

            until(is_compared)
            shadow = server.snapshot()["digits"].shadow
            assert shadow is not None
            assert (shadow.failures, shadow.disagreeing_rows) == (0, 0)  # it is a copy
            assert cli.main(["models", "promote", place]) == 0
            until(lambda: server.manager.labels("digits").get("stable") == 2)
            assert client.predict("digits", images).version == 2
            assert cli.main(["models", "demote", place]) == 0
            until(lambda: server.manager.labels("digits").get("stable") == 1)
            assert client.predict("digits", images).version == 1
            for label in ("stable", "previous"):
                cli.main(["models", "label", place, label, "--remove"])
            until(lambda: not server.manager.labels("digits"))
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
