"""The blocking client over real gRPC, against a fake server in this process."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from client.fakes import FakeServing, Refused, Version, image_version, listening

from ladle.client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidAnswer,
    InvalidInput,
    MessageTooLarge,
    NotFound,
    Overloaded,
    Unavailable,
    VersionState,
)
from ladle.protos.serving_pb import PredictRequest, PredictResponse

PIXELS = np.full((3, 2, 2), 51, np.uint8)
IMAGES = np.full((3, 2, 2), 0.25, np.float32)


class Stuck(FakeServing):
    """Answers no prediction before it stops."""

    def __init__(self) -> None:
        super().__init__({1: image_version(255)})
        self.asked, self.stopped = threading.Event(), threading.Event()

    def predict(self, request: PredictRequest) -> PredictResponse:
        self.asked.set()
        self.stopped.wait()
        return super().predict(request)

    def stop(self) -> None:
        self.stopped.set()


def test_raw_pixels_become_a_prediction() -> None:
    server = FakeServing({4: image_version(255, labels=("dark", "bright"))})
    with listening(server) as address, Client(address) as client:
        prediction = client.predict("m", PIXELS)
        np.testing.assert_allclose(prediction["scores"], [[0.2, 0.8]] * 3, rtol=1e-6)
        assert prediction.version == 4
        assert prediction.top(1)[0][0].label == "bright"


def test_a_version_that_takes_over_is_given_what_it_wants() -> None:
    server = FakeServing({1: image_version(255)})
    with listening(server) as address, Client(address) as client:
        assert client.predict("m", PIXELS).version == 1
        server.versions[2] = image_version(510)
        prediction = client.predict("m", PIXELS)
        assert prediction.version == 2
        np.testing.assert_allclose(prediction["scores"][0, 0], 0.1, rtol=1e-6)


def test_plain_tensorflow_serving_takes_what_its_signature_takes() -> None:
    server = FakeServing({1: Version()}, has_cards=False)
    with listening(server) as address, Client(address) as client:
        assert client.predict("m", IMAGES)["scores"][0, 0] == 0.25
        with pytest.raises(InvalidInput, match=r"pass normalize=Normalization\(divisor=255\)"):
            client.predict("m", PIXELS)


def test_what_is_wanted_reaches_the_server() -> None:
    server = FakeServing({1: image_version(255), 2: image_version(255)})
    server.labels["stable"] = 1
    with listening(server) as address, Client(address) as client:
        assert client.predict("m", PIXELS, version=1).version == 1
        assert client.predict("m", PIXELS, label="stable").version == 1
        client.predict("m", PIXELS, signature="serving_uint8", outputs=["scores"])
        client.predict("m", PIXELS, outputs="scores")
    several, single = server.predicted[-2:]
    assert several.model_spec.signature_name == "serving_uint8"
    assert list(several.output_filter) == list(single.output_filter) == ["scores"]


def test_metadata_and_status_are_answered() -> None:
    server = FakeServing({1: image_version(255), 2: image_version(255, labels=("a", "b"))})
    with listening(server) as address, Client(address) as client:
        metadata = client.metadata("m")
        assert metadata.version == 2
        assert metadata.card is not None
        assert metadata.card.labels == ("a", "b")
        assert client.metadata("m", version=1).version == 1
        assert [status.version for status in client.status("m")] == [1, 2]
        assert client.status("m")[0].state is VersionState.AVAILABLE


def test_ladle_is_asked_for_tensors_that_need_no_copy() -> None:
    seen: list[Mapping[str, str]] = []
    server = FakeServing({1: image_version(255)})
    with listening(server, on_call=seen.append) as address, Client(address) as client:
        client.predict("m", PIXELS)
    assert seen[-1]["ladle-tensor-content"] == "true"


def test_many_threads_share_one_client() -> None:
    server = FakeServing({1: image_version(255)})
    with (
        listening(server) as address,
        Client(address) as client,
        ThreadPoolExecutor(8) as executor,
    ):

        def mean(value: int) -> float:
            image = np.full((1, 2, 2), value, np.uint8)
            return float(client.predict("m", image)["scores"][0, 0])

        means = list(executor.map(mean, range(200)))
    np.testing.assert_allclose(means, np.arange(200) / 255, atol=1e-6)


class TestErrors:
    def test_a_server_that_is_not_there_is_unavailable(self) -> None:
        with socket.socket() as bound:  # bound and not listening: nobody else gets the port
            bound.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{bound.getsockname()[1]}"
            with Client(address) as client, pytest.raises(Unavailable, match=address) as caught:
                client.predict("m", PIXELS)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert isinstance(caught.value.__cause__, grpc.RpcError)

    def test_an_unknown_model_is_not_found(self) -> None:
        with listening(FakeServing({})) as address, Client(address) as client:
            with pytest.raises(NotFound, match=f"at {address}: NOT_FOUND: Servable not found"):
                client.predict("m", PIXELS)
            with pytest.raises(NotFound):
                client.status("m")

    def test_a_server_with_too_much_to_do_is_overloaded(self) -> None:
        class Busy(FakeServing):
            def predict(self, request: PredictRequest) -> PredictResponse:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

        server = Busy({1: image_version(255)})
        with (
            listening(server) as address,
            Client(address) as client,
            pytest.raises(Overloaded, match=r"Predict at .*Server Threadpool Exhausted"),
        ):
            client.predict("m", PIXELS)

    def test_an_answer_that_is_nonsense_is_told(self) -> None:
        class Talking(FakeServing):
            def answer(self, method: str, body: bytes) -> bytes:
                return b"\x0a\xff<html>"

        with listening(Talking({})) as address, Client(address) as client:
            for call in (client.predict, lambda model, _: client.status(model)):
                with pytest.raises(InvalidAnswer, match=r"is there a TensorFlow Serving"):
                    call("m", PIXELS)

    def test_an_answer_over_the_limit_is_told(self) -> None:
        server = FakeServing({1: image_version(255)})
        server.versions[1].run = lambda inputs: {"scores": np.zeros(10_000)}
        with listening(server) as address:
            with (
                Client(address, max_message_bytes=20_000) as client,
                pytest.raises(MessageTooLarge, match="larger than max"),
            ):
                client.predict("m", PIXELS)
            with Client(address) as client:
                assert client.predict("m", PIXELS)["scores"].shape == (10_000,)

    def test_a_request_over_the_servers_limit_is_told(self) -> None:
        server = FakeServing({1: image_version(255)})
        with (
            listening(server, max_receive_bytes=5_000) as address,
            Client(address) as client,
            pytest.raises(MessageTooLarge, match="larger than max"),
        ):
            client.predict("m", np.zeros((10_000, 2, 2), np.uint8))

    def test_answers_beyond_grpcs_own_limit_of_4_mib_arrive(self) -> None:
        server = FakeServing({1: image_version(255)})
        server.versions[1].run = lambda inputs: {"scores": np.zeros(1 << 20)}
        with listening(server) as address, Client(address) as client:
            assert client.predict("m", PIXELS)["scores"].nbytes == 8 << 20


class TestDeadline:
    def test_a_prediction_ends_with_its_timeout(self) -> None:
        with (
            listening(Stuck()) as address,
            Client(address) as client,
            pytest.raises(DeadlineExceeded, match="DEADLINE_EXCEEDED"),
        ):
            client.predict("m", PIXELS, timeout=0.2)

    def test_the_clients_timeout_is_for_calls_that_give_none(self) -> None:
        with (
            listening(Stuck()) as address,
            Client(address, timeout=0.2) as client,
            pytest.raises(DeadlineExceeded),
        ):
            client.predict("m", PIXELS)

    def test_one_deadline_holds_for_all_calls_of_a_prediction(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between any two looks at the clock 40 s pass; the server tells what was left for it."""
        given_s: list[float] = []

        def note(metadata: Mapping[str, str]) -> None:
            given_s.append(float(metadata["remaining_s"]))

        server = FakeServing({1: image_version(255)})
        with listening(server, on_call=note) as address, Client(address) as client:
            monkeypatch.setattr(client, "_now", itertools.count(0, 40).__next__)
            client.predict("m", PIXELS, timeout=100)
            assert given_s == pytest.approx([60, 20], abs=15)
            with pytest.raises(DeadlineExceeded, match="passed before it was sent"):
                client.predict("m", PIXELS, timeout=30)

    @pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
    def test_a_timeout_is_positive_and_finite(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout: expected seconds, more than 0 and finite"):
            Client("localhost:1", timeout=timeout)
        with (
            Client("localhost:1") as client,
            pytest.raises(ValueError, match="timeout: expected seconds"),
        ):
            client.status("m", timeout=timeout)


class TestClosing:
    def test_a_closed_client_makes_no_calls(self) -> None:
        with Client("localhost:8500") as client:
            pass
        client.close()
        assert repr(client) == 'Client("localhost:8500") (closed)'
        with pytest.raises(ValueError, match=r"\(closed\): a closed client makes no calls"):
            client.predict("m", PIXELS)
        with pytest.raises(ValueError, match="closed"):
            client.status("m")

    def test_closing_ends_the_calls_under_way(self) -> None:
        stuck = Stuck()
        with listening(stuck) as address, ThreadPoolExecutor(1) as executor:
            client = Client(address)
            pending = executor.submit(client.predict, "m", PIXELS)
            assert stuck.asked.wait(30)
            client.close()
            with pytest.raises(Cancelled):
                pending.result(30)


@pytest.mark.parametrize("size", [0, -1, 1 << 31])
def test_the_limit_of_messages_is_what_protobuf_can_hold(size: int) -> None:
    with pytest.raises(ValueError, match="max_message_bytes: expected 1 to 2147483647"):
        Client("localhost:1", max_message_bytes=size)


def test_channel_options_come_before_ladles_own() -> None:
    server = FakeServing({1: image_version(255)})
    options = [("grpc.max_receive_message_length", 10)]
    with (
        listening(server) as address,
        Client(address, options=options) as client,
        pytest.raises(MessageTooLarge),
    ):
        client.predict("m", PIXELS)


def test_a_version_and_a_label_exclude_each_other() -> None:
    with (
        Client("localhost:1") as client,
        pytest.raises(ValueError, match="expected a version or a label, got both"),
    ):
        client.predict("m", PIXELS, version=1, label="stable")
