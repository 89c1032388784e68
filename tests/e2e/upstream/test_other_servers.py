"""The client, on a server of the Open Inference Protocol that is not ladle's.

Run it with the server's address in LADLE_OTHER_SERVER; CONTRIBUTING.md says how to start one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import numpy as np
import pytest

from ladle.client import AsyncClient, Client, LadleError, NotFound, Prediction

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(
        "LADLE_OTHER_SERVER" not in os.environ, reason="needs another server to be running"
    ),
]
X = np.array([2, 4, 6], np.float32)
NAN = np.array([np.nan], np.float32)


@pytest.fixture
def address() -> str:
    return os.environ["LADLE_OTHER_SERVER"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, protocol="v2") as client:
        yield client


def values(prediction: Prediction) -> list[float]:
    values: list[float] = prediction["y"].ravel().tolist()  # MLServer gives [n] back as [n, 1]
    return values


def test_it_predicts_and_describes_the_model(client: Client) -> None:
    client.wait_until_ready()
    client.wait_until_ready("half")
    assert client.health()
    assert client.health("half")
    (signature,) = client.metadata("half").signatures.values()
    assert repr(signature) == "Signature(x: float32 [-1] -> y: float32 [-1])"
    assert values(client.predict("half", X)) == [3, 4, 5]
    assert values(client.predict("half", X.astype(np.float64), outputs="y")) == [3, 4, 5]


def test_what_is_wrong_is_one_line(client: Client) -> None:
    with pytest.raises(NotFound, match="nope"):
        client.predict("nope", X)
    with pytest.raises(LadleError, match="no NaN"):
        client.predict("half", NAN)


def test_a_stream_has_every_answer_and_the_errors_in_their_places(client: Client) -> None:
    inputs = [NAN if i == 7 else X + i for i in range(40)]
    failed: list[tuple[int, str]] = []
    predictions = [
        *client.stream("half", inputs, on_error=lambda i, error: failed.append((i, str(error))))
    ]
    assert [p.index for p in predictions] == [i for i in range(40) if i != 7]
    assert all(values(p)[0] == 3 + (p.index or 0) / 2 for p in predictions)
    ((index, message),) = failed
    assert index == 7
    assert "no NaN" in message


def test_the_asyncio_client_does_too(address: str) -> None:
    async def main() -> list[Prediction]:
        async with AsyncClient(address, protocol="v2") as client:
            return [p async for p in client.stream("half", [X + i for i in range(20)])]

    assert [values(p)[0] for p in asyncio.run(main())] == [3 + i / 2 for i in range(20)]
