from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import TIMEOUT_S, FakeServable

from ladle.server import Config, Server
from ladle.server.core.servable_id import ServableId


@dataclass(frozen=True)
class Harness:
    """A server with a REST port, and a client of it."""

    server: Server
    http: httpx.Client
    servables: dict[ServableId, FakeServable]
    folder: Path

    def post(self, path: str, content: Any, **headers: str) -> httpx.Response:
        """Send JSON, or bytes as they are."""
        if isinstance(content, bytes):
            return self.http.post(path, content=content, headers=headers)
        return self.http.post(path, json=content, headers=headers)


def address_of(server: Server) -> str:
    """The base of a server's URLs."""
    scheme, _, port = server.addresses[-1].rpartition(":")
    return f"{scheme.replace('0.0.0.0', '127.0.0.1')}:{port}"


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Harness]:
    """Model `m`, versions 1 and 2, label `stable` on 1: y = 2 x for rows of two floats."""
    servables: dict[ServableId, FakeServable] = {}

    def load(servable_id: ServableId, path: Path) -> FakeServable:
        return servables.setdefault(servable_id, FakeServable())

    for version in ("1", "2"):
        (folder / "m" / version).mkdir(parents=True)
    config = folder / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{folder}/m" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    defaults: dict[str, Any] = {
        "port": None,
        "rest_api_port": None,
        "model_config_file": str(config),
        "file_system_poll_wait_seconds": 0.01,
        "drain_grace_seconds": 0,
    }
    server = Server(Config(**defaults | settings), load=load)
    server.start()
    both = [ServableId("m", 1), ServableId("m", 2)]
    assert server.manager.wait_until(
        lambda: all(server.manager.is_available(*version) for version in both), TIMEOUT_S
    )
    try:
        verify = "ssl_config_file" not in settings
        with httpx.Client(base_url=address_of(server), timeout=TIMEOUT_S, verify=verify) as http:
            yield Harness(server, http, servables, folder)
    finally:
        server.stop(lame_duck=False)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A server that all tests of a module share."""
    with serving(tmp_path_factory.mktemp("rest")) as setting:
        yield setting
