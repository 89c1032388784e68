"""Flows against a fake server, without gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from client.fakes import FakeServing, Refused, Version, drive, image_signature, image_version

from ladle.client.calls import flows, server_flows
from ladle.client.calls.metadata_cache import MetadataCache
from ladle.client.errors import (
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Unavailable,
    Unimplemented,
)
from ladle.client.inputs.arrays import as_arrays
from ladle.client.inputs.conversion import Normalize
from ladle.client.messages.requests import servable
from ladle.client.models import VersionState, VersionStatus
from ladle.client.prediction import Prediction
from ladle.protos import tensors
from ladle.protos.model_card import ModelCard, Normalization
from ladle.protos.serving_pb import ModelSpec, PredictRequest, PredictResponse

# Two images whose means are 51 and 204.
PIXELS = np.array([[[0, 102], [51, 51]], [[204, 204], [153, 255]]], np.uint8)


class Caller:
    """Predicts as a client does: with one memory for all calls."""

    def __init__(self, server: FakeServing) -> None:
        self.server = server
        self.known = MetadataCache()

    def predict(
        self,
        given: Any = PIXELS,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: tuple[str, ...] = (),
        normalize: Normalize = "client",
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Prediction:
        wanted = flows.PredictCall(
            target=servable("m", version, label),
            inputs=as_arrays(given),
            signature=signature,
            outputs=outputs,
            normalize=normalize,
            metadata=metadata,
        )
        return drive(flows.predict(wanted, self.known), self.server)

    def means(self, **wanted: Any) -> list[float]:
        """Return the means of PIXELS as the model saw them."""
        return [round(float(mean), 4) for mean in self.predict(**wanted)["scores"][:, 0]]


def test_a_prediction_tells_what_answered() -> None:
    caller = Caller(FakeServing({7: image_version(255, labels=("dark", "bright"))}))
    prediction = caller.predict()
    assert (prediction.model, prediction.version) == ("m", 7)
    assert prediction.signature == "serving_default"
    assert [row[0].label for row in prediction.top(1)] == ["bright", "dark"]


def test_raw_pixels_arrive_as_the_training_had_them() -> None:
    assert Caller(FakeServing({1: image_version(255)})).means() == [0.2, 0.8]


def test_raw_pixels_arrive_untouched_where_the_signature_takes_them() -> None:
    server = FakeServing({1: image_version(255)})
    prediction = Caller(server).predict(signature="serving_uint8")
    (tensor,) = server.predicted[-1].inputs.values()
    assert tensors.to_array(tensor).tolist() == PIXELS.tolist()
    assert prediction["scores"][:, 0].tolist() == pytest.approx([0.2, 0.8])
    assert prediction.signature == "serving_uint8"


class TestWhoNormalises:
    @pytest.mark.parametrize(
        ("normalize", "signature"),
        [("auto", "serving_uint8"), ("server", "serving_uint8"), ("client", "serving_default")],
    )
    def test_the_answers_are_the_same(self, normalize: Normalize, signature: str) -> None:
        caller = Caller(FakeServing({1: image_version(255)}))
        prediction = caller.predict(normalize=normalize)
        assert prediction.signature == signature
        assert prediction["scores"][:, 0].tolist() == pytest.approx([0.2, 0.8], abs=1e-6)

    def test_floats_go_to_the_default_signature(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}))
        prediction = caller.predict(PIXELS / np.float32(255), normalize="auto")
        assert prediction.signature == "serving_default"

    def test_a_signature_that_is_named_is_kept(self) -> None:
        server = FakeServing({1: image_version(255)})
        Caller(server).predict(signature="serving_default", normalize="auto")
        assert server.predicted[-1].model_spec.signature_name == "serving_default"

    def test_where_the_server_has_no_signature_for_it_the_client_does_it(self) -> None:
        version = image_version(255)
        del version.signatures["serving_uint8"]
        caller = Caller(FakeServing({1: version}))
        assert caller.predict(normalize="auto")["scores"][0, 0] == pytest.approx(0.2)
        with pytest.raises(FailedPrecondition, match='normalize="server" needs a signature'):
            caller.predict(normalize="server")

    def test_a_signature_of_that_name_is_trusted_only_with_a_card(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}, has_cards=False))
        with pytest.raises(InvalidInput, match="no normalisation is recorded"):
            caller.predict(normalize="auto")

    def test_raw_pixels_need_not_be_sent_anew_for_another_normalisation(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict(normalize="auto")
        server.versions[2] = image_version(510)
        prediction = caller.predict(normalize="auto")
        assert prediction["scores"][:, 0].tolist() == pytest.approx([0.1, 0.4], abs=1e-6)
        assert len(server.predicted) == 2

    def test_a_version_without_it_takes_over(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict(normalize="auto")
        server.versions[2] = image_version(510)
        del server.versions[2].signatures["serving_uint8"]
        prediction = caller.predict(normalize="auto")
        assert (prediction.version, prediction.signature) == (2, "serving_default")
        assert prediction["scores"][:, 0].tolist() == pytest.approx([0.1, 0.4], abs=1e-6)


def test_the_metadata_is_fetched_once() -> None:
    server = FakeServing({1: image_version(255)})
    caller = Caller(server)
    for _ in range(3):
        caller.predict()
    caller.predict(version=1)
    assert len(server.metadata_asked) == 1


@pytest.mark.parametrize("wanted", [{}, {"version": 1}, {"label": "stable"}])
def test_version_and_label_reach_the_server(wanted: dict[str, Any]) -> None:
    server = FakeServing({1: image_version(255), 2: image_version(255)})
    server.labels["stable"] = 1
    assert Caller(server).predict(**wanted).version == (1 if wanted else 2)


def test_only_the_outputs_asked_for_are_asked_for() -> None:
    server = FakeServing({1: image_version(255)})
    Caller(server).predict(outputs=("scores",))
    assert list(server.predicted[0].output_filter) == ["scores"]


class TestAnotherVersionAnswers:
    def test_a_new_number_alone_costs_no_second_call(self) -> None:
        server = FakeServing({1: image_version(255, labels=("a", "b"))})
        caller = Caller(server)
        caller.predict()
        server.versions[2] = image_version(255, labels=("c", "d"))
        prediction = caller.predict()
        assert prediction.version == 2
        assert prediction.labels == ("c", "d")
        assert len(server.predicted) == 2

    def test_another_normalisation_makes_the_call_anew(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        assert caller.means() == [0.2, 0.8]
        server.versions[2] = image_version(510)
        assert caller.means() == [0.1, 0.4]
        assert len(server.predicted) == 3
        assert caller.means() == [0.1, 0.4]
        assert len(server.predicted) == 4

    def test_it_may_take_over_between_metadata_and_prediction(self) -> None:
        class TakesOver(FakeServing):
            def predict(self, request: PredictRequest) -> PredictResponse:
                self.versions[2] = image_version(510)
                return super().predict(request)

        prediction = Caller(TakesOver({1: image_version(255)})).predict()
        assert prediction.version == 2
        np.testing.assert_allclose(prediction["scores"][:, 0], [0.1, 0.4], rtol=1e-6)

    def test_another_dtype_makes_the_call_anew(self) -> None:
        """The server refuses the old one, without a word of versions."""
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict()
        server.versions[2] = image_version(255, dtype="float64")
        prediction = caller.predict()
        assert prediction.version == 2
        assert server.predicted[-1].inputs["images"].dtype == 2

    def test_another_shape_is_not_refused_for_the_old_ones_sake(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict(np.zeros((1, 2, 2), np.float32))
        server.versions[2] = image_version(255, size=3)
        assert caller.predict(np.zeros((1, 3, 3), np.float32)).version == 2
        with pytest.raises(InvalidInput, match=r"version 2: expected float32 \[-1, 3, 3\]"):
            caller.predict(np.zeros((1, 2, 2), np.float32))

    def test_another_input_name_makes_the_call_anew(self) -> None:
        server = FakeServing({1: Version()})
        caller = Caller(server)
        images = np.zeros((1, 2, 2), np.float32)
        caller.predict(images)
        server.versions[2] = Version({"serving_default": image_signature(name="pictures")})
        assert caller.predict(images).version == 2

    def test_a_new_signature_is_found(self) -> None:
        server = FakeServing({1: Version()})
        caller = Caller(server)
        images = np.zeros((1, 2, 2), np.float32)
        with pytest.raises(FailedPrecondition):
            caller.predict(images, signature="new")
        server.versions[2] = Version({"new": image_signature()})
        assert caller.predict(images, signature="new").signature == "new"

    def test_a_card_gone_missing_is_told(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict()
        server.versions[2] = image_version(None)
        with pytest.raises(InvalidInput, match=r"version 2: .*no normalisation is recorded"):
            caller.predict()

    def test_a_label_that_moved_is_followed(self) -> None:
        server = FakeServing({1: image_version(255), 2: image_version(510)})
        server.labels["stable"] = 2
        caller = Caller(server)
        assert caller.means(label="stable") == [0.1, 0.4]
        server.labels["stable"] = 1
        assert caller.means(label="stable") == [0.2, 0.8]

    def test_one_that_is_gone_before_it_told_what_it_wants_is_not_trusted(self) -> None:
        class Fleeting(FakeServing):
            """Version 2 answers once, and is replaced by 3 at once."""

            def predict(self, request: PredictRequest) -> PredictResponse:
                if 3 not in self.versions:
                    self.versions = {2: image_version(510)}
                    response = super().predict(request)
                    self.versions = {3: image_version(1020)}
                    return response
                return super().predict(request)

        assert Caller(Fleeting({1: image_version(255)})).means() == [0.05, 0.2]

    def test_a_fleet_that_never_agrees_ends_in_an_error(self) -> None:
        class Flapping(FakeServing):
            """Each answer comes from the version that the request was not prepared for."""

            def predict(self, request: PredictRequest) -> PredictResponse:
                self.versions = {max(self.versions) + 1: image_version(100 + len(self.predicted))}
                return super().predict(request)

        server = Flapping({1: image_version(255)})
        with pytest.raises(Unavailable, match='model "m": its version kept changing'):
            Caller(server).predict()
        assert len(server.predicted) <= flows.MAX_ROUNDS


class TestErrors:
    def test_a_refusal_under_fresh_metadata_is_final(self) -> None:
        server = FakeServing({1: image_version(255)})
        with pytest.raises(InvalidInput, match="got uint8"):
            Caller(server).predict(np.zeros((1, 5), np.uint8))
        assert len(server.metadata_asked) == 1
        assert not server.predicted

    def test_a_refusal_under_remembered_metadata_is_judged_anew_once(self) -> None:
        server = FakeServing({1: image_version(255)})
        caller = Caller(server)
        caller.predict()
        with pytest.raises(InvalidInput, match="got uint8"):
            caller.predict(np.zeros((1, 5), np.uint8))
        assert len(server.metadata_asked) == 2

    def test_what_the_server_refuses_is_told_in_its_words(self) -> None:
        class Picky(FakeServing):
            def predict(self, request: PredictRequest) -> PredictResponse:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "indices[0] = 7 is not in [0, 5)")

        caller = Caller(Picky({1: image_version(255)}))
        for _ in range(2):
            with pytest.raises(InvalidInput, match=r"indices\[0\] = 7 is not in") as caught:
                caller.predict()
            assert caught.value.details == "indices[0] = 7 is not in [0, 5)"

    def test_an_unknown_model_is_not_found(self) -> None:
        with pytest.raises(NotFound, match="Servable not found"):
            Caller(FakeServing({})).predict()

    def test_a_version_that_is_gone_is_not_found(self) -> None:
        server = FakeServing({1: image_version(255), 2: image_version(255)})
        caller = Caller(server)
        caller.predict(version=1)
        del server.versions[1]
        with pytest.raises(NotFound):
            caller.predict(version=1)

    def test_an_unknown_label_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="Unrecognized servable version label: l"):
            Caller(FakeServing({1: image_version(255)})).predict(label="l")


class TestPlainTensorFlowServing:
    """It refuses the metadata field of ladle's cards, and has no normalisation to tell."""

    def test_signatures_are_checked_all_the_same(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}, has_cards=False))
        assert caller.predict(np.zeros((1, 2, 2))).version == 1
        with pytest.raises(InvalidInput, match=r"expected float32 \[-1, 2, 2\]"):
            caller.predict(np.zeros((1, 2, 3)))

    def test_raw_pixels_need_the_callers_normalisation(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}, has_cards=False))
        with pytest.raises(InvalidInput, match=r"pass normalize=Normalization\(divisor=255\)"):
            caller.predict()
        assert caller.means(normalize=Normalization(divisor=255)) == [0.2, 0.8]
        assert caller.means(normalize=None) == [51, 204]

    def test_classes_have_no_labels(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}, has_cards=False))
        assert caller.predict(normalize=None).top(1)[0][0].label == "0"


class TestServerWithoutMetadata:
    def test_inputs_go_unchecked(self) -> None:
        server = FakeServing({1: image_version(255)}, has_metadata=False)
        caller = Caller(server)
        images = np.zeros((1, 2, 2), np.float32)
        assert caller.predict({"images": images}).version == 1
        assert caller.predict({"images": images}).version == 1
        assert len(server.metadata_asked) == 1

    def test_what_the_server_refuses_is_refused(self) -> None:
        caller = Caller(FakeServing({1: image_version(255)}, has_metadata=False))
        with pytest.raises(InvalidInput, match="wrong dtype for images"):
            caller.predict({"images": PIXELS})


def test_metadata_has_signatures_and_card() -> None:
    version = image_version(16, labels=("a", "b"))
    metadata = drive(flows.metadata(servable("m")), FakeServing({4: version}))
    assert metadata.version == 4
    assert list(metadata.signatures) == ["serving_default", "serving_uint8"]
    assert metadata.card == ModelCard(labels=("a", "b"), normalization=Normalization(divisor=16))


def test_metadata_of_a_server_that_has_none_is_unimplemented() -> None:
    with pytest.raises(Unimplemented):
        drive(flows.metadata(servable("m")), FakeServing({1: Version()}, has_metadata=False))


def test_status_lists_the_versions() -> None:
    server = FakeServing({2: Version(), 1: Version()})
    assert drive(server_flows.status(servable("m")), server) == (
        VersionStatus(1, VersionState.AVAILABLE),
        VersionStatus(2, VersionState.AVAILABLE),
    )


def test_callers_whom_a_rollout_gives_two_versions_keep_two_preparations() -> None:
    """Versions alternate, and each request is prepared for the one that its key leads to."""

    class Split(FakeServing):
        version = 1

        def find(self, spec: ModelSpec) -> int:
            return spec.version.value or self.version

    server = Split({1: image_version(255), 2: image_version(51)})
    caller = Caller(server)
    for round_ in range(4):
        for version in (1, 2):
            server.version = version
            means = caller.means(metadata=(("x-user-id", str(version)),))
            assert means == ([0.2, 0.8] if version == 1 else [1.0, 4.0])
        # One request each, but for the first of the canary's.
        assert len(server.predicted) == 2 * (round_ + 1) + 1
