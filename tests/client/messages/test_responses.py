from __future__ import annotations

import json

import numpy as np
import pytest
from client.fakes import image_signature, tensor_info

from ladle.client.errors import InvalidAnswer
from ladle.client.messages import responses
from ladle.client.messages.requests import Servable
from ladle.client.models import Signature, TensorSpec, VersionState, VersionStatus
from ladle.protos import tensors
from ladle.protos.ladle_pb import ModelCard as ModelCardMessage
from ladle.protos.model_card import ModelCard
from ladle.protos.serving_pb import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictResponse,
    SignatureDefMap,
    StatusProto,
)
from ladle.protos.tensorflow_pb import SignatureDef, TensorInfo, TensorProto

ASKED = Servable("m", version=3)
# Field 1 with a length that goes beyond the end: no protobuf message is that.
NONSENSE = b"\x0a\xff<html>"


def test_a_prediction_is_read_with_what_answered() -> None:
    scores = np.array([[0.25, 0.75]], np.float32)
    response = PredictResponse(outputs={"scores": tensors.to_proto(scores)})
    response.model_spec.version.value = 3
    response.model_spec.signature_name = "s"
    predicted = responses.predict(response.SerializeToString(), ASKED)
    assert (predicted.version, predicted.signature) == (3, "s")
    np.testing.assert_array_equal(predicted.outputs["scores"], scores)


@pytest.mark.parametrize("typed", [False, True])
def test_answers_are_read_in_tensor_content_and_in_typed_fields(typed: bool) -> None:
    scores = np.array([[0.25, 0.75]], np.float32)
    response = PredictResponse(outputs={"scores": tensors.to_proto(scores, typed=typed)})
    predicted = responses.predict(response.SerializeToString(), ASKED)
    np.testing.assert_array_equal(predicted.outputs["scores"], scores)


def test_an_answer_need_not_tell_its_version() -> None:
    assert responses.predict(b"", ASKED) == ({}, None, "")


@pytest.mark.parametrize("read", [responses.predict, responses.metadata, responses.status])
def test_bytes_that_are_no_message_are_named_with_what_was_asked(read: object) -> None:
    assert callable(read)
    with pytest.raises(InvalidAnswer, match=r'of model "m" version 3: .* is there a TensorFlow'):
        read(NONSENSE, ASKED)


def test_a_tensor_that_cant_be_read_is_named() -> None:
    tensor = TensorProto(dtype=1, tensor_content=b"123")
    answer = PredictResponse(outputs={"scores": tensor}).SerializeToString()
    with pytest.raises(InvalidAnswer, match=r'output "scores": tensor_content: expected 4 bytes'):
        responses.predict(answer, ASKED)


def test_a_tiny_answer_cant_claim_a_huge_tensor() -> None:
    tensor = TensorProto(dtype=1, float_val=[1.0])
    tensor.tensor_shape.dim.add(size=1 << 40)
    answer = PredictResponse(outputs={"scores": tensor}).SerializeToString()
    with pytest.raises(InvalidAnswer, match=r'output "scores"'):
        responses.predict(answer, ASKED)


def test_signatures_are_read_with_dtypes_shapes_and_defaults() -> None:
    signature = SignatureDef(
        inputs={"images": tensor_info("float32", -1, 28, 28), "k": tensor_info("int32")},
        outputs={"classes": tensor_info("object", -1)},
        method_name="tensorflow/serving/predict",
        defaults={"k": tensors.to_proto(np.array(3, np.int32))},
    )
    signature.outputs["anything"].tensor_shape.unknown_rank = True
    metadata = responses.metadata(_metadata({"serving_default": signature}), ASKED)
    assert metadata.version == 3
    assert metadata.signatures == {
        "serving_default": Signature(
            inputs={"images": TensorSpec(1, (-1, 28, 28)), "k": TensorSpec(3, ())},
            outputs={"anything": TensorSpec(0, None), "classes": TensorSpec(7, (-1,))},
            method_name="tensorflow/serving/predict",
            optional=frozenset({"k"}),
        )
    }
    assert str(TensorSpec(1, (-1, 28, 28))) == "float32 [-1, 28, 28]"


def test_a_reference_type_is_the_type_behind_it() -> None:
    """TF1 variables are declared so, and their values come as plain ones."""
    info = TensorInfo(dtype=101)
    metadata = responses.metadata(_metadata({"s": SignatureDef(outputs={"x": info})}), ASKED)
    assert metadata.signatures["s"].outputs["x"].dtype == np.float32


def test_the_signature_that_restores_a_model_is_not_one_to_call() -> None:
    definitions = {"serving_default": image_signature(), "__saved_model_init_op": SignatureDef()}
    assert list(responses.metadata(_metadata(definitions), ASKED).signatures) == ["serving_default"]


def test_a_card_is_read() -> None:
    card = ModelCard(labels=("cat", "dog"))
    metadata = responses.metadata(_metadata({}, card.to_json()), ASKED)
    assert metadata.card == card
    assert metadata.card_error == ""


def test_a_version_without_a_card_has_none() -> None:
    assert responses.metadata(_metadata({}), ASKED).card is None


@pytest.mark.parametrize("text", ["{", json.dumps({"format": 2})])
def test_a_card_that_cant_be_read_is_told_and_not_raised(text: str) -> None:
    """Only raw pixels depend on it; a later format must not stop everything else."""
    metadata = responses.metadata(_metadata({}, text), ASKED)
    assert metadata.card is None
    assert metadata.card_error.startswith("model card: expected")


def test_metadata_of_another_kind_is_named() -> None:
    response = GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(ModelSpec())
    with pytest.raises(
        InvalidAnswer, match=r'SignatureDefMap, got "tensorflow\.serving\.ModelSpec"'
    ):
        responses.metadata(response.SerializeToString(), ASKED)


def test_metadata_may_hold_nothing() -> None:
    metadata = responses.metadata(b"", ASKED)
    assert (metadata.model, metadata.version, metadata.signatures) == ("m", None, {})


def test_versions_come_in_order_with_what_ended_them() -> None:
    failed = ModelVersionStatus(
        version=12, state="END", status=StatusProto(error_code=5, error_message="gone")
    )
    response = GetModelStatusResponse(
        model_version_status=[failed, ModelVersionStatus(version=2, state="AVAILABLE")]
    )
    assert responses.status(response.SerializeToString(), ASKED) == (
        VersionStatus(2, VersionState.AVAILABLE),
        VersionStatus(12, VersionState.END, 5, "gone"),
    )


def test_a_state_of_the_future_is_unknown() -> None:
    response = GetModelStatusResponse(model_version_status=[ModelVersionStatus(state=33)])
    (status,) = responses.status(response.SerializeToString(), ASKED)
    assert status.state is VersionState.UNKNOWN


def _metadata(definitions: dict[str, SignatureDef], card: str | None = None) -> bytes:
    response = GetModelMetadataResponse()
    response.model_spec.version.value = 3
    response.metadata["signature_def"].Pack(SignatureDefMap(signature_def=definitions))
    if card is not None:
        response.metadata["ladle_model_card"].Pack(ModelCardMessage(json=card))
    return response.SerializeToString()
