from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal

from ladle.protos.ladle_pb import ModelCard
from ladle.protos.model_card import CARD_METADATA_FIELD
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    SignatureDefMap,
)
from ladle.protos.tensorflow_pb import SignatureDef
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable_id import ServableId

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


def metadata(
    channel: grpc.Channel, *fields: str, name: str | None = "m"
) -> GetModelMetadataResponse:
    request = GetModelMetadataRequest(metadata_field=fields)
    if name is not None:
        request.model_spec.name = name
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METADATA)
    return GetModelMetadataResponse.FromString(call(request.SerializeToString(), timeout=TIMEOUT_S))


def status(
    channel: grpc.Channel, name: str | None = "m", version: int | None = None
) -> list[tuple[int, int, int, str]]:
    request = GetModelStatusRequest()
    if name is not None:
        request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(STATUS)
    response = GetModelStatusResponse.FromString(
        call(request.SerializeToString(), timeout=TIMEOUT_S)
    )
    return [
        (v.version, v.state, v.status.error_code, v.status.error_message)
        for v in response.model_version_status
    ]


def test_the_signatures_come_as_the_model_declares_them(
    channel: grpc.Channel, loader: FakeLoader
) -> None:
    definition = SignatureDef(method_name="tensorflow/serving/predict")
    definition.inputs["x"].name = "x:0"
    served = loader.loaded[ServableId("m", 3)]
    served.signature_defs = {"serving_default": definition.SerializeToString()}

    response = metadata(channel, "signature_def")

    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == ""
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = SignatureDefMap.FromString(packed.value)
    assert dict(signatures.signature_def) == {"serving_default": definition}


def test_the_model_card_comes_as_it_was_written(channel: grpc.Channel, loader: FakeLoader) -> None:
    assert CARD_METADATA_FIELD not in metadata(channel, CARD_METADATA_FIELD).metadata

    text = json.dumps({"format": 1, "labels": ["cat"]})
    loader.loaded[ServableId("m", 3)].card_json = text
    response = metadata(channel, CARD_METADATA_FIELD, "signature_def")

    assert ModelCard.FromString(response.metadata[CARD_METADATA_FIELD].value).json == text
    assert set(response.metadata) == {CARD_METADATA_FIELD, "signature_def"}


@pytest.mark.parametrize(
    ("fields", "name", "code", "says"),
    [
        (("signature_def",), None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        (("signature_def",), "", "INVALID_ARGUMENT", "ModelSpec has no name"),
        (("signature_def",), "x", "NOT_FOUND", "Servable not found for request: Latest(x)"),
        ((), "m", "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        (("nope",), "m", "INVALID_ARGUMENT", "Metadata field nope is not supported"),
    ],
)
def test_wrong_metadata_requests_get_upstreams_codes(
    channel: grpc.Channel, fields: tuple[str, ...], name: str | None, code: str, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        metadata(channel, *fields, name=name)
    told_code, told = refusal(caught.value)
    assert told_code == code
    assert says in told


def test_the_status_lists_versions_from_the_highest_with_their_errors(
    channel: grpc.Channel, manager: Manager, loader: FakeLoader
) -> None:
    loader.failures[ServableId("m", 4)] = InvalidArgument("no good")
    manager.aspire("m", {3: Path("/m/3"), 4: Path("/m/4")})
    assert manager.wait_until(lambda: not manager.transitions, TIMEOUT_S)

    assert status(channel) == [(4, 50, 3, "no good"), (3, 30, 0, "")]
    assert status(channel, version=3) == [(3, 30, 0, "")]


@pytest.mark.parametrize(
    ("name", "version", "code", "says"),
    [
        (None, None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("", None, "INVALID_ARGUMENT", "ModelSpec has no name"),
        ("x", None, "NOT_FOUND", "Could not find any versions of model x"),
        ("m", 9, "NOT_FOUND", "Could not find version 9 of model m"),
    ],
)
def test_wrong_status_requests_get_upstreams_codes(
    channel: grpc.Channel, name: str | None, version: int | None, code: str, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        status(channel, name, version)
    told_code, told = refusal(caught.value)
    assert told_code == code
    assert says in told


def test_a_method_that_there_is_not_is_unimplemented(channel: grpc.Channel) -> None:
    path = "/tensorflow.serving.SessionService/SessionRun"
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=TIMEOUT_S)
    assert refusal(caught.value)[0] == "UNIMPLEMENTED"
