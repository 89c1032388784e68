"""The server that people test with, by the clients that they test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from numpy.typing import NDArray

from ladle.client import (
    Client,
    FailedPrecondition,
    InvalidInput,
    ModelCard,
    Normalization,
    NotFound,
    Overloaded,
    Retry,
    ServerError,
    Unavailable,
    Unimplemented,
)
from ladle.client.testing import FunctionModel, FunctionServer


def double(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {"twice": inputs["x"] * 2, "count": [len(inputs["x"])]}


DOUBLE = FunctionModel(
    double,
    inputs={"x": ("float32", (-1, 2))},
    outputs={"twice": ("float32", (-1, 2)), "count": ("int64", (1,))},
    version=7,
    version_labels=("stable",),
    card=ModelCard(labels=("a", "b"), normalization=Normalization(divisor=255)),
)


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_function_is_called_through_grpc(client_class: Any) -> None:
    with FunctionServer({"double": DOUBLE}) as server, client_class(server.address) as client:
        client.wait_until_ready("double")
        prediction = client.predict("double", np.array([[1, 3]], np.float32))
        assert prediction["twice"].tolist() == [[2, 6]]
        assert prediction["count"].tolist() == [1]
        assert prediction["count"].dtype == np.int64
        assert (prediction.version, prediction.signature) == (7, "serving_default")
        assert prediction.top(1, output="twice")[0][0].label == "b"
        assert client.predict("double", np.array([[0, 255]], np.uint8))["twice"][0, 1] == 2
        assert list(client.predict("double", [[1.0, 2.0]], outputs="count").outputs) == ["count"]
        assert str(client.metadata("double").signatures["serving_default"].inputs["x"]) == (
            "float32 [-1, 2]"
        )
        assert client.health() is True


@pytest.mark.parametrize("client_class", CLIENTS)
def test_messages_above_grpcs_four_megabytes_go_there_and_back(client_class: Any) -> None:
    rows = np.ones((1_000_000, 2), np.float32)
    with FunctionServer({"double": DOUBLE}) as server, client_class(server.address) as client:
        assert client.predict("double", rows)["twice"].shape == (1_000_000, 2)
        assert repr(server) == f'FunctionServer("{server.address}", models: double)'


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_table_is_predicted_by_its_columns(client_class: Any) -> None:
    """Columns are inputs by name, whatever their order; or the columns of the only input."""

    class Frame:
        columns = ("y", "x")

        def __getitem__(self, name: str) -> list[float]:
            return [1.0, 2.0, 3.0] if name == "x" else [10.0, 20.0, 30.0]

        def to_numpy(self) -> NDArray[Any]:
            raise AssertionError("not needed")

    by_name = FunctionModel(
        lambda inputs: {"z": inputs["x"] - inputs["y"][:, 0]},
        inputs={"x": ("float32", (-1,)), "y": ("float32", (-1, 1))},
        outputs={"z": ("float32", (-1,))},
    )
    models = {"by name": by_name, "double": DOUBLE}
    with (
        FunctionServer(models) as server,
        client_class(server.address, coalesce_ms=1.0) as client,
    ):
        for _ in range(2):  # the second may be coalesced
            assert client.predict("by name", Frame())["z"].tolist() == [-9, -18, -27]
            assert client.predict("double", Frame())["twice"][1].tolist() == [40, 4]
        if client_class is Client:
            parts = client.predict_chunks("by name", Frame())
            assert [part["z"].tolist() for part in parts] == [[-9, -18, -27]]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_strings_go_there_and_back(client_class: Any) -> None:
    def shout(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        return {"loud": np.array([text.upper() for text in inputs["text"]], object)}

    model = FunctionModel(
        shout, inputs={"text": (object, (-1,))}, outputs={"loud": (object, (-1,))}
    )
    with FunctionServer({"shout": model}) as server, client_class(server.address) as client:
        assert client.predict("shout", ["hey", b"you"])["loud"].tolist() == [b"HEY", b"YOU"]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_mistakes_get_the_errors_of_a_real_server(client_class: Any) -> None:
    image = np.zeros((1, 2), np.float32)
    with FunctionServer({"double": DOUBLE}) as server, client_class(server.address) as client:
        with pytest.raises(NotFound, match='model "other" is not served'):
            client.predict("other", image)
        with pytest.raises(NotFound, match="version 8 is not served"):
            client.predict("double", image, version=8)
        with pytest.raises(InvalidInput, match="Unrecognized servable version label: canary"):
            client.predict("double", image, label="canary")
        assert client.predict("double", image, label="stable").version == 7
        with pytest.raises(FailedPrecondition, match='signature "s"'):
            client.predict("double", image, signature="s")
        with pytest.raises(InvalidInput, match=r"expected float32 \[-1, 2\]"):
            client.predict("double", np.zeros((1, 3), np.float32))
        with pytest.raises(Unimplemented):
            client.classify("double", {"x": 1.0})


@pytest.mark.parametrize("client_class", CLIENTS)
def test_what_a_function_raises_reaches_the_client(client_class: Any) -> None:
    errors: list[Exception] = [Overloaded("too much"), ZeroDivisionError("by nought")]

    def fail(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        raise errors.pop(0)

    model = FunctionModel(fail, inputs={"x": ("float32", ())}, outputs={})
    with FunctionServer({"m": model}) as server, client_class(server.address) as client:
        with pytest.raises(Overloaded, match="too much"):
            client.predict("m", 1.0)
        with pytest.raises(ServerError, match="the function raised ZeroDivisionError: by nought"):
            client.predict("m", 1.0)


def test_a_stopped_server_is_gone() -> None:
    server = FunctionServer({"double": DOUBLE})
    server.start()
    address = server.address
    server.stop()
    with (
        CLIENTS[0](address, retry=Retry(max_attempts=1)) as client,
        pytest.raises(Unavailable),
    ):
        client.health()


@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_function_is_called_over_the_open_inference_protocol(client_class: Any) -> None:
    text = FunctionModel(
        lambda inputs: {"out": inputs["in"][::-1], "n": np.array(["one", "two"])},
        inputs={"in": (object, (-1,))},
        outputs={"out": (object, (-1,))},
    )
    with (
        FunctionServer({"double": DOUBLE, "text": text}) as server,
        client_class(server.address, protocol="v2") as client,
    ):
        client.wait_until_ready("double")
        assert client.health()
        prediction = client.predict("double", [[1.0, 3.0]], label="stable")
        assert prediction["twice"].tolist() == [[2, 6]]
        assert prediction["count"].dtype == np.int64
        assert prediction.version == 7
        assert list(client.predict("double", [[1.0, 2.0]], outputs="count")) == ["count"]
        reversed_text = client.predict("text", ["ä", b"b\0"])
        assert reversed_text["out"].tolist() == [b"b\0", "ä".encode()]
        assert reversed_text["n"].tolist() == [b"one", b"two"]
        with pytest.raises(NotFound, match="'double' version 8 is not found"):
            client.predict("double", [[1.0, 2.0]], version=8)
        with pytest.raises(NotFound, match="unknown model: 'nope'"):
            client.predict("nope", [[1.0, 2.0]])
        with pytest.raises(Unimplemented):
            client.models()
