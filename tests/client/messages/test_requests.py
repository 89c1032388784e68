from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ladle.client.errors import InvalidInput, MessageTooLarge
from ladle.client.messages import requests
from ladle.client.messages.requests import Servable
from ladle.protos import tensors
from ladle.protos.services import methods
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    PredictRequest,
)


def test_the_methods_are_those_of_the_services() -> None:
    assert set(requests.METHODS) <= set(methods())


def test_a_predict_request_says_which_model_and_carries_every_input() -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    names = np.array([b"a", b"b\0"], object)
    request = requests.predict(
        Servable("m", version=3),
        {"images": images, "names": names},
        signature="s",
        outputs=["scores", "classes"],
    )
    message = PredictRequest.FromString(request.body)
    assert request.method == "/tensorflow.serving.PredictionService/Predict"
    assert message.model_spec.name == "m"
    assert message.model_spec.version.value == 3
    assert message.model_spec.signature_name == "s"
    assert list(message.output_filter) == ["scores", "classes"]
    np.testing.assert_array_equal(tensors.to_array(message.inputs["images"]), images)
    np.testing.assert_array_equal(tensors.to_array(message.inputs["names"]), names)
    assert set(message.inputs) == {"images", "names"}


def test_what_is_not_asked_for_is_not_in_the_request() -> None:
    message = PredictRequest.FromString(requests.predict(Servable("m"), {}).body)
    assert message.model_spec.WhichOneof("version_choice") is None
    assert message.model_spec.signature_name == ""
    assert not message.output_filter


def test_version_zero_is_a_version() -> None:
    message = GetModelStatusRequest.FromString(requests.status(Servable("m", version=0)).body)
    assert message.model_spec.HasField("version")
    assert message.model_spec.version.value == 0


def test_a_label_is_sent_instead_of_a_version() -> None:
    message = GetModelStatusRequest.FromString(requests.status(Servable("m", label="l")).body)
    assert message.model_spec.WhichOneof("version_choice") == "version_label"
    assert message.model_spec.version_label == "l"


def test_metadata_fields_are_sent_as_given() -> None:
    request = requests.metadata(Servable("m"), ("a", "b"))
    message = GetModelMetadataRequest.FromString(request.body)
    assert list(message.metadata_field) == ["a", "b"]


def test_a_version_and_a_label_exclude_each_other() -> None:
    with pytest.raises(ValueError, match='got both: 3 and "l"'):
        requests.servable("m", 3, "l")


def test_a_model_has_a_name() -> None:
    with pytest.raises(ValueError, match="expected a name"):
        requests.servable("")


def test_an_array_without_a_tensorflow_dtype_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r'input "when": .*datetime64'):
        requests.predict(Servable("m"), {"when": np.array(["2026-01-01"], "datetime64[D]")})


def test_a_request_over_the_limit_is_refused_before_it_is_joined() -> None:
    image = np.broadcast_to(np.zeros(1 << 20, np.uint8), (1, 1 << 20))
    with pytest.raises(
        MessageTooLarge, match=r'model "m": expected at most 1000 bytes, got 1048\d'
    ):
        requests.predict(Servable("m"), {"x": image}, max_bytes=1000)


def test_the_bytes_of_a_tensor_are_copied_once() -> None:
    images = np.zeros((64, 1 << 18), np.uint8)
    tracemalloc.start()
    try:
        requests.predict(Servable("m"), {"x": images})
        assert tracemalloc.get_traced_memory()[1] < 1.1 * images.nbytes
    finally:
        tracemalloc.stop()
