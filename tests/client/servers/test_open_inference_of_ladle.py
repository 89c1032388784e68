"""Both clients over the Open Inference Protocol, with ladle's own server in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import signature_def, tensor_info
from fakes import TIMEOUT_S, FakeServable, spec
from numpy.typing import NDArray

from ladle.client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Prediction,
    VersionState,
)
from ladle.protos.datatypes import BY_NAME
from ladle.server import Config, Server
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId

ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
OTHER = Signature("other", {"x": spec(-1, 3)}, {"y": spec(-1, 3)})
MAIN = Signature("serving_default", {"x": spec(-1, 3)}, {"y": spec(-1, 3)})
EVERY = Signature(
    "serving_default",
    {name: spec(-1, 2, data_type=d.data_type) for name, d in BY_NAME.items()},
    {name: spec(-1, 2, data_type=d.data_type) for name, d in BY_NAME.items()},
)


def load(servable_id: ServableId, path: Path) -> FakeServable:
    if servable_id.name == "every":
        return FakeServable(lambda inputs: dict(inputs), (EVERY,))

    def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
        if inputs["x"].min() < 0:
            raise InvalidArgument("no negative numbers")
        return {"y": inputs["x"] * servable_id.version}

    served = FakeServable(run, (MAIN, OTHER))
    definition = signature_def(
        {"x": tensor_info("float32", -1, 3)}, {"y": tensor_info("float32", -1, 3)}
    )
    served.signature_defs["serving_default"] = definition.SerializeToString()
    return served


class Methods(Unobserved):
    """Counts requests by their methods."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def request_ended(self, request: Observation) -> None:
        self.counts[request.api] += 1


@pytest.fixture(scope="module")
def methods() -> Methods:
    return Methods()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, methods: Methods) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    for path in ("scaled/1", "scaled/2", "every/1"):
        (folder / path).mkdir(parents=True)
    (folder / "models.config").write_text(
        f"""model_config_list {{
          config {{ name: "scaled" base_path: "{folder}/scaled" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }} }}
          config {{ name: "every" base_path: "{folder}/every" model_platform: "tensorflow" }} }}"""
    )
    config = Config(
        port=None,
        model_config_file=str(folder / "models.config"),
        allow_version_labels_for_unavailable_models=True,
        file_system_poll_wait_seconds=0.01,
    )
    server = Server(config, load=load, observer=methods)
    server.start()
    address = f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}"
    with Client(address) as client:
        for name in ("scaled", "every"):
            client.wait_until_ready(name, timeout=TIMEOUT_S)
        client.wait_until_ready("scaled", version=1, timeout=TIMEOUT_S)
    yield address
    server.stop()


@pytest.mark.parametrize("make", CLIENTS)
def test_both_protocols_give_the_same_numbers(address: str, make: Any) -> None:
    with make(address) as serving, make(address, protocol="v2") as open_inference:
        for asked in ({}, {"version": 1}, {"label": "stable"}):
            one = serving.predict("scaled", ROWS, **asked)
            other = open_inference.predict("scaled", ROWS, **asked)
            assert one.version == other.version
            assert one["y"].tolist() == other["y"].tolist()


@pytest.mark.parametrize("name", [*BY_NAME])
def test_every_datatype_comes_back(address: str, name: str) -> None:
    inputs: dict[str, NDArray[Any]] = {}
    for each, datatype in BY_NAME.items():
        inputs[each] = np.array([[0, 1], [1, 0]]).astype(datatype.dtype)
    inputs["BYTES"] = np.array([[b"", b"a\0"], [b"\xff", b"b"]], object)
    with Client(address, protocol="v2") as client:
        answer = client.predict("every", inputs, outputs=name)
    assert answer[name].dtype == BY_NAME[name].dtype
    assert answer[name].tolist() == inputs[name].tolist()


def test_a_signature_is_part_of_the_models_name(address: str) -> None:
    with Client(address, protocol="v2") as client:
        with pytest.raises(FailedPrecondition, match='takes "MODEL:other" as the name'):
            client.predict("scaled", ROWS, signature="other")
        assert client.predict("scaled:other", ROWS)["y"].tolist() == (ROWS * 2).tolist()


def test_what_the_server_says_of_its_models(address: str) -> None:
    with Client(address, protocol="v2") as client:
        assert client.health()
        assert client.health("scaled")
        client.wait_until_ready("scaled", version=2)
        assert [m.name for m in client.models()] == ["every", "scaled"]
        states = [(s.version, s.state) for s in client.status("scaled")]
        assert states == [(1, VersionState.AVAILABLE), (2, VersionState.AVAILABLE)]
        metadata = client.metadata("scaled", label="stable")
        assert metadata.version == 1
        assert repr(metadata.signatures["serving_default"].inputs["x"]) == "float32 [-1, 3]"


def test_what_is_wrong_is_one_line(address: str) -> None:
    with Client(address, protocol="v2") as client:
        with pytest.raises(NotFound, match=r"unknown model: 'nope' .*served here: every, scaled"):
            client.predict("nope", ROWS)
        with pytest.raises(NotFound, match=r"version 9 is not found; its versions .*: 1, 2"):
            client.predict("scaled", ROWS, version=9)
        with pytest.raises(InvalidInput, match=r"expected float32 \[-1, 3\], got float32 \[2, 2\]"):
            client.predict("scaled", ROWS[:, :2])


def test_a_stream_gives_all_answers_of_one_call(address: str, methods: Methods) -> None:
    unary = methods.counts["ModelInfer"]
    inputs = [ROWS + i for i in range(50)]

    async def awaited() -> list[Prediction]:
        async with AsyncClient(address, protocol="v2") as client:
            return [p async for p in client.stream("scaled", inputs)]

    with Client(address, protocol="v2") as client:
        blocking = [*client.stream("scaled", inputs)]
    for predictions in (blocking, asyncio.run(awaited())):
        assert [p["y"].tolist() for p in predictions] == [(x * 2).tolist() for x in inputs]
    assert methods.counts["ModelInfer"] == unary
    assert methods.counts["ModelStreamInfer"] >= 100


def test_an_input_that_fails_in_a_stream_has_its_own_status(address: str) -> None:
    failed: list[tuple[int, Exception]] = []
    inputs = [-ROWS if i == 3 else ROWS for i in range(8)]
    with Client(address, protocol="v2") as client:
        stream = client.stream("scaled", inputs, on_error=lambda i, e: failed.append((i, e)))
        assert [p.index for p in stream] == [0, 1, 2, 4, 5, 6, 7]
    ((index, error),) = failed
    assert (index, type(error)) == (3, InvalidInput)
    assert "no negative numbers" in str(error)
