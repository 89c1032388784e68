"""The client against ladle's server, and against one that has nothing of ladle's.

Both serve model "m": of images the mean and its rest, of text the text, of Examples their feature
x. What only ladle offers falls back, or says so.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
    ModelCard,
    Normalization,
    NotFound,
    Prediction,
    Scored,
    Unimplemented,
    VersionState,
)
from ladle.protos import dtypes
from ladle.protos.serving_pb import ModelServerConfig
from ladle.protos.tensorflow_pb import Example, SignatureDef
from ladle.server import Config, Server
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId

IMAGES = np.arange(20, dtype=np.float32).repeat(4).reshape(20, 2, 2) / 20
PLAIN_SERVER = Path(__file__).resolve().parents[2] / "conformance" / "plain_server.py"


class Served(NamedTuple):
    """A server that runs."""

    is_ladle: bool
    address: str
    folder: Path
    """Where ladle's base paths are."""


@contextmanager
def serving_ladle(folder: Path) -> Iterator[Served]:
    """Run ladle's server in this process, on a model that is a Python function."""
    for name in ("m/1", "m/2", "n/1"):
        (folder / name).mkdir(parents=True)
    (folder / "models.config").write_text(str(configured(folder)))
    settings = Config(
        port=None,
        model_config_file=str(folder / "models.config"),
        file_system_poll_wait_seconds=0.01,
        drain_grace_seconds=0,
    )
    server = Server(settings, load=load)
    server.start()
    try:
        yield Served(True, f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}", folder)
    finally:
        server.stop(lame_duck=False)


def configured(folder: Path) -> ModelServerConfig:
    config = ModelServerConfig()
    model = config.model_config_list.config.add(name="m", model_platform="tensorflow")
    model.base_path = str(folder / "m")
    model.model_version_policy.all.SetInParent()
    model.version_labels["stable"] = 1
    return config


def load(servable_id: ServableId, path: Path) -> FakeServable:
    """Make what `plain_server.py` serves, with a card beside."""
    strings = TensorSpec(dtypes.STRING, (-1,), "x:0")
    signatures = (
        Signature(
            "serving_default",
            {"images": spec(-1, 2, 2)},
            {"scores": spec(-1, 2), "mean": spec(-1)},
            "tensorflow/serving/predict",
        ),
        Signature("echo", {"text": strings}, {"text": strings}, "tensorflow/serving/predict"),
        Signature(
            "classify",
            {"inputs": strings},
            {"classes": TensorSpec(dtypes.STRING, (-1, 2)), "scores": spec(-1, 2)},
            "tensorflow/serving/classify",
        ),
        Signature(
            "regress",
            {"inputs": strings},
            {"outputs": spec(-1, 1)},
            "tensorflow/serving/regress",
        ),
    )
    card = ModelCard(labels=("dark", "bright"), normalization=Normalization(divisor=20))
    servable = FakeServable(run, signatures, card.to_json())
    servable.signature_defs = {s.name: defined(s).SerializeToString() for s in signatures}
    return servable


def defined(signature: Signature) -> SignatureDef:
    def infos(specs: Any) -> dict[str, Any]:
        return {
            alias: tensor_info(dtypes.to_numpy(one.data_type).name, *one.shape)
            for alias, one in specs.items()
        }

    made = signature_def(infos(signature.inputs), infos(signature.outputs))
    made.method_name = signature.method_name
    return made


def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
    if "text" in inputs:
        return {"text": inputs["text"]}
    if "images" in inputs:
        if np.isnan(inputs["images"]).any():
            raise InvalidArgument("images: expected numbers, got NaN")
        mean = inputs["images"].mean(axis=(1, 2))
        scores = np.stack([mean, 1 - mean], axis=1)
        return {"scores": scores, "mean": mean}
    (examples,) = inputs.values()
    features = [Example.FromString(example).features.feature for example in examples]
    column = np.array([[feature["x"].float_list.value[0]] for feature in features], np.float32)
    classes = np.array([[b"x", b"rest"]] * len(column), object)
    found = {"classes": classes, "scores": np.hstack([column, 1 - column]), "outputs": column}
    # MultiInference runs several signatures at once, and prefixes their outputs.
    return found | {
        f"{name}/{key}": found[key] for name in ("classify", "regress") for key in found
    }


@contextmanager
def serving_plainly(python: str, folder: Path) -> Iterator[Served]:
    process = subprocess.Popen(
        [python, str(PLAIN_SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Served(False, process.stdout.readline().strip(), folder)
    finally:
        process.stdin.close()
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(TIMEOUT_S)
        process.stdout.close()


@pytest.fixture(
    scope="module",
    params=["ladle", pytest.param("plain", marks=pytest.mark.conformance)],
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    if request.param == "ladle":
        with serving_ladle(folder) as served:
            yield served
    else:
        with serving_plainly(request.getfixturevalue("conformance_python"), folder) as served:
            yield served


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    with request.param(served.address, timeout=TIMEOUT_S) as client:
        yield client


def test_predictions(client: Any) -> None:
    prediction = client.predict("m", IMAGES)
    np.testing.assert_allclose(prediction["mean"], np.arange(20) / 20, atol=1e-6)
    assert prediction["scores"].shape == (20, 2)
    assert (prediction.model, prediction.version) == ("m", 2)
    assert prediction.signature == "serving_default"
    assert prediction.top(1, output="scores")[19][0].class_index == 0


def test_versions_labels_signatures_and_outputs(client: Any) -> None:
    assert client.predict("m", {"images": IMAGES.tolist()}, version=1).version == 1
    assert client.predict("m", IMAGES.astype(np.float64), label="stable").version == 1
    assert list(client.predict("m", IMAGES, outputs="mean").outputs) == ["mean"]
    text = client.predict("m", ["héllo", b"\x00\xff\x00"], signature="echo")
    assert text["text"].tolist() == ["héllo".encode(), b"\x00\xff\x00"]
    assert text.signature == "echo"


def test_raw_pixels_are_normalised(client: Any, served: Served) -> None:
    """As the card says where there is one, and else as the caller does."""
    pixels = np.arange(20, dtype=np.uint8).repeat(4).reshape(20, 2, 2)
    own = client.predict("m", pixels, normalize=Normalization(divisor=20))
    np.testing.assert_allclose(own["mean"], np.arange(20) / 20, atol=1e-6)
    if served.is_ladle:
        prediction = client.predict("m", pixels)
        np.testing.assert_allclose(prediction["mean"], own["mean"], atol=1e-6)
        assert prediction.labels == ("dark", "bright")
    else:
        with pytest.raises(InvalidInput, match="no normalisation is recorded with the model"):
            client.predict("m", pixels)


def test_mistakes(client: Any) -> None:
    with pytest.raises(InvalidInput, match=r"expected float32 \[-1, 2, 2\], got float32 \[3, 3\]"):
        client.predict("m", np.zeros((3, 3), np.float32))
    with pytest.raises(InvalidInput, match="expected numbers, got NaN"):
        client.predict("m", np.full((1, 2, 2), np.nan, np.float32))
    with pytest.raises(InvalidInput, match='output "other": expected one of'):
        client.predict("m", IMAGES, outputs="other")
    with pytest.raises(FailedPrecondition, match='"none"'):
        client.predict("m", IMAGES, signature="none")
    for call in (client.predict, client.classify):
        with pytest.raises(NotFound):
            call("nobody", {"x": np.zeros(1, np.float32)})
    with pytest.raises(NotFound):
        client.predict("m", IMAGES, version=9)
    with pytest.raises(NotFound):
        client.status("nobody")


def test_examples(client: Any) -> None:
    rows = [{"x": 0.25}, {"x": 0.5}]
    classified = client.classify("m", rows, signature="classify")
    assert classified.classes[0] == (Scored("x", 0.25, 0), Scored("rest", 0.75, 1))
    assert (classified.version, classified.signature) == (2, "classify")
    regressed = client.regress("m", rows, signature="regress", version=1)
    assert (regressed.values.tolist(), regressed.version) == ([0.25, 0.5], 1)
    tasks = {"classify": "classify", "regress": "regress"}
    both = client.multi_inference("m", [{"x": 0.5}], tasks)
    assert both["classify"].top(1)[0][0].score == 0.5
    assert both["regress"].values.tolist() == [0.5]


def test_a_context_that_examples_share(client: Any) -> None:
    regressed = client.regress("m", [{"y": 1}, {"y": 2}], signature="regress", context={"x": 0.5})
    assert regressed.values.tolist() == [0.5, 0.5]


def test_what_is_told_of_a_model(client: Any, served: Served) -> None:
    metadata = client.metadata("m", version=1)
    assert str(metadata.signatures["serving_default"].inputs["images"]) == "float32 [-1, 2, 2]"
    assert set(metadata.signatures) == {"serving_default", "echo", "classify", "regress"}
    assert (metadata.version, metadata.card is not None) == (1, served.is_ladle)
    states = client.status("m")
    assert [(s.version, s.state) for s in states] == [
        (1, VersionState.AVAILABLE),
        (2, VersionState.AVAILABLE),
    ]
    assert [s.version for s in client.status("m", version=2)] == [2]


def test_what_only_ladle_tells(client: Any, served: Served) -> None:
    if served.is_ladle:
        (model,) = client.models("m")
        assert (model.name, model.is_available, model.labels) == ("m", True, {"stable": 1})
        assert client.health() is True
    else:
        with pytest.raises(Unimplemented, match=r"as TensorFlow Serving doesn't; status\(model\)"):
            client.models()
        with pytest.raises(Unimplemented):
            client.health()


def test_waiting_until_it_is_ready(client: Any) -> None:
    client.wait_until_ready()
    client.wait_until_ready("m", version=2)


def test_other_models_and_back(client: Any, served: Served) -> None:
    original = configured(served.folder)
    both = ModelServerConfig.FromString(original.SerializeToString())
    both.model_config_list.config.add(
        name="n", base_path=str(served.folder / "n"), model_platform="tensorflow"
    )
    client.reload(both)
    assert client.predict("n", IMAGES, version=1).model == "n"
    client.reload(original)
    with pytest.raises(NotFound):
        client.predict("n", IMAGES)
    assert client.predict("m", IMAGES, label="stable").version == 1


def test_one_more_model_and_back(client: Any, served: Served) -> None:
    if not served.is_ladle:
        with pytest.raises(Unimplemented):
            client.load("n", served.folder / "n")
        return
    assert client.load("n", served.folder / "n").is_available
    assert client.predict("n", IMAGES, version=1).model == "n"
    assert client.load("n").name == "n"
    client.unload("n")
    with pytest.raises(NotFound, match=r"; served here: m$"):
        client.metadata("n")
    assert client.predict("m", IMAGES, label="stable").version == 1


class Calls:
    """A token that counts the calls that carry it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return "token"


def check(predictions: list[Prediction]) -> None:
    together = np.concatenate([prediction["mean"] for prediction in predictions])
    np.testing.assert_allclose(together, np.arange(20) / 20, atol=1e-6)
    assert {prediction.version for prediction in predictions} == {2}


def singles() -> Iterator[NDArray[np.float32]]:
    return (image[None] for image in IMAGES)


def test_streams(served: Served) -> None:
    calls = Calls()
    with Client(served.address, token=calls, tls=False) as client:
        check([*client.stream("m", singles(), window=5)])
        client.predict("m", IMAGES)
        check(sorted(client.stream("m", singles(), ordered=False), key=lambda p: p.index or 0))
    assert (calls.count < 20) == served.is_ladle  # which gets a stream's inputs on one call

    async def main() -> list[Prediction]:
        async with AsyncClient(served.address) as client:
            return [prediction async for prediction in client.stream("m", singles())]

    check(asyncio.run(main()))


def test_answers_in_parts(served: Served) -> None:
    calls = Calls()
    with Client(served.address, token=calls, tls=False) as client:
        client.metadata("m")
        before = calls.count
        check([*client.predict_chunks("m", IMAGES)])
        check([*client.predict_chunks("m", IMAGES)])
    # One for the metadata, and one for each answer of a ladle server.
    assert (calls.count - before == 3) == served.is_ladle

    async def main() -> list[Prediction]:
        async with AsyncClient(served.address) as client:
            return [prediction async for prediction in client.predict_chunks("m", IMAGES)]

    check(asyncio.run(main()))


def test_coalescing(served: Served) -> None:
    everyone = threading.Barrier(20)
    with Client(served.address, coalesce_ms=50) as client, ThreadPoolExecutor(20) as executor:
        client.metadata("m")
        client.predict("m", IMAGES)

        def predict(image: NDArray[np.float32]) -> Prediction:
            everyone.wait(TIMEOUT_S)
            return client.predict("m", image[None])

        check([*executor.map(predict, IMAGES)])
