"""What a server can do to a client: fail its calls, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import (
    FakeServing,
    Version,
    image_signature,
    image_version,
    listening,
    signature_def,
    tensor_info,
)

from ladle.client import AsyncClient, Client, InvalidAnswer, InvalidInput, LadleError
from ladle.protos import tensors
from ladle.protos.ladle_pb import ModelCard, PredictChunk
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
)
from ladle.protos.tensorflow_pb import TensorProto

PIXELS = np.full((3, 2, 2), 51, np.uint8)


def shaped(*dims: int, **values: Any) -> TensorProto:
    tensor = TensorProto(dtype=1, **values)
    for size in dims:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


class Answering(FakeServing):
    """Answers each prediction with one output."""

    def __init__(self, output: TensorProto) -> None:
        super().__init__({1: image_version(255)})
        self.output = output

    def predict(self, request: PredictRequest) -> PredictResponse:
        response = super().predict(request)
        response.outputs["scores"].CopyFrom(self.output)
        return response


@pytest.mark.parametrize(
    "output",
    [
        shaped(1 << 40, float_val=[1.0]),
        shaped(1 << 28, float_val=[1.0]),  # a gigabyte, of one value that is repeated
        shaped(1 << 32, 1 << 32),
        shaped(0, 1 << 62),
        shaped(*[1] * 65, float_val=[1.0]),
        shaped(*[0] * 100),
        shaped(*[1] * 10_000, float_val=[1.0]),
        shaped(4, tensor_content=bytes(15)),
        shaped(-1, float_val=[1.0]),
    ],
)
@pytest.mark.parametrize("client_class", CLIENTS)
def test_shapes_that_no_answer_has_are_told(client_class: Any, output: TensorProto) -> None:
    with listening(Answering(output)) as address, client_class(address) as client:
        with pytest.raises(InvalidAnswer, match='output "scores": ') as caught:
            client.predict("m", PIXELS)
        assert len(str(caught.value)) < 3_000


@pytest.mark.parametrize("rows", [0, 1, 5, 1_000])
def test_rows_of_another_number_are_the_callers_to_see_coalesced_or_not(rows: int) -> None:
    """Nobody gets another caller's rows: each asks for itself."""
    output = tensors.to_proto(np.zeros((rows, 2), np.float32))
    with listening(Answering(output)) as address, Client(address, coalesce_ms=1.0) as client:
        for _ in range(2):
            assert client.predict("m", PIXELS)["scores"].shape == (rows, 2)


def chunk(first_row: int, total_rows: int, rows: int) -> PredictChunk:
    made = PredictChunk(first_row=first_row, total_rows=total_rows)
    made.response.model_spec.name = "m"
    made.response.model_spec.version.value = 1
    made.response.outputs["scores"].CopyFrom(tensors.to_proto(np.zeros((rows, 2), np.float32)))
    return made


class Chunking(FakeServing):
    def __init__(self, sent: Callable[[int], PredictChunk]) -> None:
        super().__init__({1: image_version(255)})
        self.chunk_rows = 1
        self.sent, self.count = sent, 0

    def chunks(self, request: PredictRequest) -> Iterator[PredictChunk]:
        for index in range(1_000_000):  # a client that took all would be there for minutes
            self.count += 1
            yield self.sent(index)


def take_all(client: Any) -> None:
    async def awaited(client: AsyncClient) -> None:
        async for _ in client.predict_chunks("m", PIXELS):
            pass

    if isinstance(client, Client):
        list(client.predict_chunks("m", PIXELS))
    else:
        client.run(awaited(client.awaited))


@pytest.mark.parametrize(
    "sent",
    [
        lambda _: chunk(0, 0, 1),  # without rows in common there is one
        lambda index: chunk(index, 3, 1),  # more rows than it says
        lambda index: chunk(index, 1 << 62, 0),  # none at all, for ever
        lambda _: chunk(0, 1 << 62, 1),  # the same rows again
        lambda index: chunk(index, 3 + index, 1),  # another total each time
        lambda index: chunk(-index, 1 << 62, 1),
    ],
)
@pytest.mark.parametrize("client_class", CLIENTS)
def test_chunks_without_end_end(client_class: Any, sent: Callable[[int], PredictChunk]) -> None:
    server = Chunking(sent)
    with listening(server) as address, client_class(address) as client:
        with pytest.raises(InvalidAnswer, match=r"PredictInChunks of model .m.: expected"):
            take_all(client)
        assert client.health()


@pytest.mark.parametrize(
    "sizes", [(1 << 40, 1 << 40), (1 << 20, 1 << 20), (1 << 13, (1 << 13) + 1)]
)
@pytest.mark.parametrize("given", ["photo.png", np.zeros((2, 5, 5), np.uint8)])
def test_a_server_has_no_picture_made_so_large_that_memory_ends(
    sizes: tuple[int, int], given: Any
) -> None:
    signature = signature_def(
        {"images": tensor_info("float32", -1, *sizes)}, {"scores": tensor_info("float32", -1, 2)}
    )
    version = replace(image_version(255), signatures={"serving_default": signature})
    with (
        listening(FakeServing({1: version})) as address,
        Client(address) as client,
        pytest.raises(InvalidInput, match='input "images" of model "m"'),
    ):
        client.predict("m", given)


UNIT = '{"format": 1, "normalization": {"offset": 0, "divisor": %s}}'


class Carded(FakeServing):
    """Has a model card of any text."""

    def __init__(self, card: str) -> None:
        super().__init__({1: Version({"serving_default": image_signature()})})
        self.card = card

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        response = super().metadata(request)
        response.metadata["ladle_model_card"].Pack(ModelCard(json=self.card))
        return response


@pytest.mark.parametrize(
    "card",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        UNIT % "0",
        UNIT % "1e-60",  # 0 as a float32
        UNIT % "1e999",
        UNIT % "NaN",
        UNIT % ("9" * 5_000),
        UNIT % "[]" + "x",
        '{"format": 1, "labels": "text"}',
        '{"format": 1, "labels": {"a": 1}}',
        '{"format": 1, "metrics": [1]}',
        "\0",
        "",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("client_class", CLIENTS)
def test_a_card_of_any_content_leaves_what_needs_no_card(client_class: Any, card: str) -> None:
    """It is only read for raw pixels, and what is wrong with it is told then."""
    with listening(Carded(card)) as address, client_class(address) as client:
        assert client.metadata("m").card is None
        assert len(client.predict("m", PIXELS.astype(np.float32))) == 1
        with pytest.raises(LadleError, match="its card can't be read") as caught:
            client.predict("m", PIXELS)
        assert len(str(caught.value)) < 3_000
