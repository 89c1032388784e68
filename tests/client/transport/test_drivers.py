"""Both clients over real gRPC: what they have in common."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Refused, image_signature, image_version, listening

from ladle.client import (
    DeadlineExceeded,
    Hedge,
    InvalidInput,
    NotFound,
    Retry,
    Scored,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from ladle.protos import ladle_pb, serving_pb
from ladle.protos.serving_pb import PredictRequest, PredictResponse

Code = grpc.StatusCode
PIXELS = np.full((3, 2, 2), 51, np.uint8)

pytestmark = pytest.mark.parametrize("client_class", CLIENTS)


class Flaky(FakeServing):
    """Refuses the first predictions."""

    def __init__(
        self,
        refusals: int,
        *,
        code: grpc.StatusCode = Code.UNAVAILABLE,
        pushback: str | None = None,
    ) -> None:
        super().__init__({1: image_version(255)})
        self.refusals, self.code, self.pushback = refusals, code, pushback
        self.asked = 0

    def predict(self, request: PredictRequest) -> PredictResponse:
        self.asked += 1
        if self.asked <= self.refusals:
            raise Refused(self.code, "the queue is full", pushback=self.pushback)
        return super().predict(request)


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


def test_a_prediction_is_answered(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        prediction = client.predict("m", PIXELS)
        np.testing.assert_allclose(prediction["scores"], [[0.2, 0.8]] * 3, rtol=1e-6)
        assert prediction.version == 4
        assert client.metadata("m").version == 4
        assert [status.version for status in client.status("m")] == [4]


def test_examples_are_classified(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        result = client.classify("m", [{"x": 0.25}, {}], context={"x": [0.5], "y": "text"})
        assert result.classes == (
            (Scored("x", 0.25, 0), Scored("rest", 0.75, 1)),
            (Scored("x", 0.5, 0), Scored("rest", 0.5, 1)),
        )
        assert (result.model, result.version) == ("m", 4)
        assert result.signature == "serving_default"
        assert client.classify("m", {"x": 0.25}, signature="other").signature == "other"


def test_examples_are_given_numbers(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        result = client.regress("m", [{"x": 0.25}, {"x": 2.0}])
        assert result.values.tolist() == [0.25, 2.0]
        assert result.values.dtype == np.float32
        assert result.version == 4


def test_several_signatures_answer_at_once(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        tasks = {"a": "classify", "b": "regress"}
        results = client.multi_inference("m", {"x": 0.25}, tasks)
        assert list(results) == ["a", "b"]
        assert results["a"].top(1)[0][0].label == "rest"
        assert results["b"].values.tolist() == [0.25]
        with pytest.raises(ValueError, match='"a": expected "classify" or "regress", got "guess"'):
            client.multi_inference("m", {"x": 0.25}, {"a": "guess"})


def test_mistaken_examples_are_never_sent(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        with pytest.raises(InvalidInput, match='example 0: feature "x"'):
            client.classify("m", {"x": ["a", 1]})
        with pytest.raises(NotFound):
            client.regress("unknown", {"x": 1.0})
    assert not server.examples_asked


def test_answers_for_other_examples_are_told(client_class: Any) -> None:
    server = FakeServing({4: image_version(255)})
    with listening(server) as address, client_class(address) as client:
        for call in (client.classify, client.regress):
            with pytest.raises(ServerError, match="expected results of 2 examples, got 3"):
                call("m", [{"x": [0.25, 0.5]}, {"x": 1.0}])


def test_other_models_are_served_from_now_on(client_class: Any, tmp_path: Path) -> None:
    server = FakeServing({})
    with listening(server) as address, client_class(address) as client:
        client.reload({"m": "/models/m", "n": tmp_path})
        configs = server.reloaded[-1].config.model_config_list.config
        assert [(c.name, c.base_path, c.model_platform) for c in configs] == [
            ("m", "/models/m", "tensorflow"),
            ("n", str(tmp_path), "tensorflow"),
        ]
        client.reload({})
        assert server.reloaded[-1].config.WhichOneof("config") == "model_config_list"
        own = serving_pb.ModelServerConfig()
        own.model_config_list.config.add(name="o", version_labels={"stable": 3})
        client.reload(own)
        assert server.reloaded[-1].config == own
        server.reload_status.error_code = 5
        server.reload_status.error_message = "no such folder"
        with pytest.raises(NotFound, match="NOT_FOUND: no such folder"):
            client.reload({"m": "/nowhere"})


def test_a_ladle_server_lists_its_models(client_class: Any) -> None:
    model = ladle_pb.Model(available=True, problem="version 3: broken")
    model.config.name, model.config.base_path = "m", "/models/m"
    model.config.version_labels["stable"] = 2
    for number, state in ((3, "END"), (2, "AVAILABLE")):
        version = model.version.add()
        version.status.CopyFrom(serving_pb.ModelVersionStatus(version=number, state=state))
    model.version[1].signature["serving_default"].CopyFrom(image_signature())
    server = FakeServing({})
    server.models = [model]
    with listening(server) as address, client_class(address) as client:
        (served,) = client.models()
    assert (served.name, served.base_path, served.is_available) == ("m", "/models/m", True)
    assert served.problem == "version 3: broken"
    assert [(v.version, v.state.name) for v in served.versions] == [(2, "AVAILABLE"), (3, "END")]
    assert str(served.signatures[2]["serving_default"].inputs["images"]) == "float32 [-1, 2, 2]"
    assert list(served.signatures) == [2]
    assert served.labels == {"stable": 2}


def test_another_server_can_not_list_them(client_class: Any) -> None:
    with (
        listening(FakeServing({})) as address,
        client_class(address) as client,
        pytest.raises(Unimplemented, match=r"as TensorFlow Serving doesn't; status\(model\)"),
    ):
        client.models()


def test_health_is_told(client_class: Any) -> None:
    server = FakeServing({})
    with listening(server) as address, client_class(address) as client:
        assert client.health() is True
        server.is_healthy = False
        assert client.health() is False
        server.is_healthy = None
        with pytest.raises(Unimplemented):
            client.health()


class TestWaiting:
    def test_a_server_that_answers_is_ready(self, client_class: Any) -> None:
        server = FakeServing({})
        with listening(server) as address, client_class(address) as client:
            client.wait_until_ready()
            server.is_healthy = None  # as TensorFlow Serving
            client.wait_until_ready()

    def test_a_model_is_ready_once_a_version_is(self, client_class: Any) -> None:
        class Loading(FakeServing):
            asked = 0

            def status(self, request: Any) -> Any:
                self.asked += 1
                response = super().status(request)
                if self.asked == 1:
                    raise Refused(Code.NOT_FOUND, "no such model yet")
                if self.asked == 2:
                    response.model_version_status[0].state = 20
                return response

        server = Loading({1: image_version(255)})
        with listening(server) as address, client_class(address) as client:
            client.wait_until_ready("m")
        assert server.asked == 3

    def test_a_server_that_is_not_there_is_told(self, client_class: Any) -> None:
        with (
            client_class("127.0.0.1:1") as client,
            pytest.raises(DeadlineExceeded, match=r"at 127\.0\.0\.1:1: UNAVAILABLE"),
        ):
            client.wait_until_ready(timeout=1.0)


class TestRetries:
    def test_a_full_queue_is_tried_again(self, client_class: Any) -> None:
        server = Flaky(2)
        retry = Retry(initial_backoff_s=0.01)
        with listening(server) as address, client_class(address, retry=retry) as client:
            assert client.predict("m", PIXELS).version == 1
        assert server.asked == 3

    def test_the_server_says_that_it_is_no_use(self, client_class: Any) -> None:
        server = Flaky(1, pushback="-1")
        with listening(server) as address, client_class(address) as client:
            with pytest.raises(Unavailable, match="the queue is full"):
                client.predict("m", PIXELS)
            assert server.asked == 1

    def test_the_server_says_when(self, client_class: Any) -> None:
        """Its own back-off would be longer than the timeout."""
        server = Flaky(1, pushback="1")
        retry = Retry(initial_backoff_s=5)
        with listening(server) as address, client_class(address, retry=retry, timeout=2) as client:
            assert client.predict("m", PIXELS).version == 1

    def test_a_call_that_a_leaving_server_drops_is_tried_again(self, client_class: Any) -> None:
        server = Flaky(1, code=Code.CANCELLED)
        with listening(server) as address, client_class(address) as client:
            assert client.predict("m", PIXELS).version == 1

    def test_another_server_answers_for_one_that_is_gone(self, client_class: Any) -> None:
        server = FakeServing({1: image_version(255)})
        with (
            listening(server) as address,
            client_class(["127.0.0.1:1", address, "127.0.0.1:2"]) as client,
        ):
            for _ in range(20):
                assert client.predict("m", PIXELS).version == 1


class TestHedging:
    def test_another_server_answers_for_one_that_takes_long(self, client_class: Any) -> None:
        slow, quick = Stuck(), FakeServing({1: image_version(255)})
        with (
            listening(slow) as first,
            listening(quick) as second,
            client_class([first, second], hedge=Hedge(after_s=0.02, max_share=1.0)) as client,
        ):
            for _ in range(4):
                assert client.predict("m", PIXELS, timeout=20).version == 1
        assert slow.asked.is_set()

    def test_an_answer_in_time_needs_no_hedge(self, client_class: Any) -> None:
        server = FakeServing({1: image_version(255)})
        with listening(server) as address, client_class(address, hedge=Hedge(after_s=20)) as client:
            client.predict("m", PIXELS)
        assert len(server.predicted) == 1

    def test_a_failure_is_told_where_both_fail(self, client_class: Any) -> None:
        with (
            listening(Stuck()) as address,
            client_class(address, hedge=Hedge(after_s=0.05, max_share=1.0)) as client,
            pytest.raises(DeadlineExceeded),
        ):
            client.predict("m", PIXELS, timeout=0.3)


class TestTokens:
    def seen(self, client_class: Any, *tokens: Any, change: Any = lambda: None) -> list[str | None]:
        calls: list[Mapping[str, str]] = []
        with listening(FakeServing({1: image_version(255)}), on_call=calls.append) as address:
            for token in tokens:
                with client_class(address, token=token, tls=False) as client:
                    client.status("m")
                    change()
                    client.status("m")
        return [call.get("authorization") for call in calls]

    def test_a_token_goes_with_each_call(self, client_class: Any) -> None:
        assert self.seen(client_class, "secret", None) == ["Bearer secret"] * 2 + [None] * 2

    def test_a_file_is_read_again_when_it_has_changed(
        self, client_class: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "token"
        path.write_text("first\n")
        seen = self.seen(client_class, path, change=lambda: path.write_text("second, longer\n"))
        assert seen == ["Bearer first", "Bearer second, longer"]

    def test_a_function_is_asked_each_time(self, client_class: Any) -> None:
        tokens = iter(["one", "two"])
        assert self.seen(client_class, lambda: next(tokens)) == ["Bearer one", "Bearer two"]

    def test_a_token_that_can_not_be_had_is_told(self, client_class: Any, tmp_path: Path) -> None:
        with (
            client_class("127.0.0.1:1", token=tmp_path / "none", tls=False) as client,
            pytest.raises(Unauthenticated, match=r"no token could be had: .*none"),
        ):
            client.status("m")
        with (
            client_class("127.0.0.1:1", token=lambda: "two\nlines", tls=False) as client,
            pytest.raises(Unauthenticated, match="expected printable ASCII") as caught,
        ):
            client.status("m")
        assert "lines" not in str(caught.value)

    def test_a_token_is_not_sent_in_the_clear_unasked(self, client_class: Any) -> None:
        with pytest.raises(ValueError, match="without TLS anybody on the network path can read it"):
            client_class("127.0.0.1:1", token="secret")


def test_requests_are_compressed_on_request(client_class: Any) -> None:
    """The server takes no more than 5 kB off the wire, and 40 kB of zeros are less."""
    server = FakeServing({1: image_version(255)})
    with listening(server) as address, client_class(address, gzip=True) as client:
        assert len(client.predict("m", np.zeros((10_000, 2, 2), np.uint8))["scores"]) == 10_000


def test_calls_are_spread_over_connections(client_class: Any) -> None:
    peers: set[str] = set()
    server = FakeServing({1: image_version(255)})
    with (
        listening(server, on_call=lambda call: peers.add(call["peer"])) as address,
        client_class(address, connections=3) as client,
    ):
        for _ in range(9):
            client.status("m")
    assert len(peers) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": []}, "address: expected at least one"),
        ({"address": ["a:1", ""]}, "address: expected at least one, and none empty"),
        ({"address": "unix:"}, 'address: expected something after "unix:", got nothing'),
        ({"address": "dns:///"}, 'address: expected something after "dns:///", got nothing'),
        ({"connections": 0}, "connections: expected 1 or more, got 0"),
        ({"keepalive_s": 0}, "keepalive_s: expected more than 0"),
        ({"timeout": 0}, "timeout: expected seconds"),
        ({"token": "a\nb", "tls": True}, "token: expected printable ASCII"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    client_class: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        client_class(**{"address": "127.0.0.1:1", **settings})


def test_a_closed_client_makes_no_calls(client_class: Any) -> None:
    with client_class("127.0.0.1:1") as client:
        client.close()
        with pytest.raises(ValueError, match="a closed client makes no calls"):
            client.status("m")


def test_a_callers_metadata_goes_with_each_call_and_with_what_is_sent_again(
    client_class: Any,
) -> None:
    server, seen = Flaky(2), []
    with (
        listening(server, on_call=lambda metadata: seen.append(metadata.get("x-user-id"))) as there,
        client_class(there, retry=Retry(initial_backoff_s=0.001)) as client,
    ):
        client.predict("m", PIXELS, metadata={"X-User-Id": "7"})
        assert seen == ["7"] * 4  # the signatures, and three predictions
        client.classify("m", {"x": 0.25}, metadata={"x-user-id": "8"})
        client.regress("m", {"x": 0.25}, metadata={"x-user-id": "9"})
        client.multi_inference("m", {"x": 1.0}, {"a": "classify"}, metadata={"x-user-id": "10"})
        client.predict("m", PIXELS)
        assert seen[4:] == ["8", "9", "10", None]
        with pytest.raises(ValueError, match="got 'Zoë'; urllib"):
            client.predict("m", PIXELS, metadata={"x-user-id": "Zoë"})
        assert len(seen) == 8


def test_a_second_attempt_elsewhere_has_the_callers_metadata(client_class: Any) -> None:
    stuck, quick = Stuck(), FakeServing({1: image_version(255)})
    seen: list[str | None] = []

    def note(metadata: Mapping[str, str]) -> None:
        seen.append(metadata.get("x-user-id"))

    with listening(stuck, on_call=note) as one, listening(quick, on_call=note) as other:
        with client_class([one, other], hedge=Hedge(after_s=0.01, max_share=1.0)) as client:
            for _ in range(4):
                client.predict("m", PIXELS, metadata={"x-user-id": "7"})
        stuck.stop()
    assert quick.predicted
    assert set(seen) <= {"7", None}  # without: health checks, of several servers
    assert seen.count("7") >= 5
