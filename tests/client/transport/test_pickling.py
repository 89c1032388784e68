"""Clients as arguments and globals of other processes: what a pickle of one holds."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, image_version, listening

from ladle.client import TLS, AsyncClient, Client, Retry

PIXELS = np.full((3, 2, 2), 51, np.uint8)
KINDS: list[Any] = [Client, AsyncClient]


def test_a_pickled_client_is_one_of_the_same_address() -> None:
    with listening(FakeServing({4: image_version(255)})) as address:
        retry = Retry(max_attempts=2)
        with Client(address, timeout=20, retry=retry) as client:
            assert client.predict("m", PIXELS).version == 4
            pickled = pickle.dumps(client)
        with pickle.loads(pickled) as other:
            assert repr(other) == f'Client("{address}")'
            assert other.predict("m", PIXELS).version == 4
        with copy.deepcopy(Client([address])) as third:
            assert third.predict("m", PIXELS).version == 4


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_secrets_are_pickled_by_their_paths(kind: Any, tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("secret-token")
    key.write_bytes(b"secret-key")
    client = kind("a:1", token=token, tls=TLS(certificate=b"public", key=key))
    assert b"secret-" not in pickle.dumps(client)
    assert repr(pickle.loads(pickle.dumps(client))) == f'{kind.__name__}("a:1")'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"token": "secret", "tls": False}, "a token as text can't be pickled"),
        ({"tls": TLS(certificate=b"c", key=b"k")}, "a private key as bytes can't be pickled"),
    ],
)
def test_secrets_are_not_pickled(kind: Any, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(TypeError, match=what) as refused:
        pickle.dumps(kind("a:1", **settings))
    assert "pass the path of" in str(refused.value)


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_closed_client_is_not_pickled(client_class: Any) -> None:
    with client_class("a:1") as client:
        pass
    with pytest.raises(TypeError, match="a closed client can't be pickled"):
        pickle.dumps(getattr(client, "awaited", client))
