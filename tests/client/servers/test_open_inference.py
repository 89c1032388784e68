"""Both clients over the Open Inference Protocol, with servers that behave as others do."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Refused, Version
from client.fakes import listening as serving
from client.servers.fake_open_inference import FakeOpenInference, listening
from numpy.typing import NDArray

from ladle.client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    Hedge,
    InvalidAnswer,
    InvalidInput,
    LadleError,
    Normalization,
    NotFound,
    Prediction,
    Retry,
    Unimplemented,
    VersionState,
)
from ladle.protos.datatypes import BY_NAME

Code = grpc.StatusCode
X = np.array([2, 4], np.float32)
Y = [3, 4]
both = pytest.mark.parametrize("make", CLIENTS)
SOON = Retry(initial_backoff_s=0.001)


class TestPredict:
    @both
    def test_arrays_in_arrays_out(self, make: Any) -> None:
        server = FakeOpenInference()
        with listening(server) as address, make(address, protocol="v2") as client:
            prediction = client.predict("m", X)
            assert prediction["y"].tolist() == Y
            assert prediction["y"].dtype == np.float32
            assert (prediction.model, prediction.version) == ("m", 2)
            assert prediction.signature == "serving_default"
            assert client.predict("m", {"x": X.astype(np.float64)}, version=1).version == 1
        assert server.calls.count("ModelMetadata") == 2  # once for each version

    @both
    @pytest.mark.parametrize("is_typed", [False, True])
    @pytest.mark.parametrize("datatype", [*BY_NAME])
    def test_every_datatype(self, make: Any, datatype: str, is_typed: bool) -> None:
        tensor = {"x": (datatype, (-1, 2))}
        server = FakeOpenInference(dict, tensor, tensor, is_typed=is_typed)
        dtype = BY_NAME[datatype].dtype
        array = np.array([[0, 1], [1, 0]]).astype(dtype)
        if datatype == "BYTES":
            array = np.array([[b"", b"a\0"], [b"\xff", "ä".encode()]], object)
        with listening(server) as address, make(address, protocol="v2") as client:
            answer = client.predict("m", array)["x"]
        assert answer.dtype == dtype
        assert answer.tolist() == array.tolist()

    def test_outputs_can_be_chosen(self) -> None:
        tensor = {"a": ("INT8", (-1,)), "b": ("INT8", (-1,))}
        server = FakeOpenInference(dict, tensor, tensor)
        array = np.zeros(2, np.int8)
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert list(client.predict("m", {"a": array, "b": array}, outputs="b")) == ["b"]
            with pytest.raises(InvalidInput, match='output "c": expected one of'):
                client.predict("m", {"a": array, "b": array}, outputs="c")

    def test_what_does_not_fit_is_refused_before_it_is_sent(self) -> None:
        server = FakeOpenInference(inputs={"x": ("FP32", (-1, 3))})
        with listening(server) as address, Client(address, protocol="v2") as client:
            with pytest.raises(
                InvalidInput, match=r"expected float32 \[-1, 3\], got float32 \[2\]"
            ):
                client.predict("m", X)
            with pytest.raises(InvalidInput, match="no normalisation is recorded with the model"):
                client.predict("m", np.zeros((1, 3), np.uint8))
            pixels = np.full((1, 3), 255, np.uint8)
            scaled = client.predict("m", pixels, normalize=Normalization(divisor=255))
            assert scaled["y"].tolist() == [[2.5, 2.5, 2.5]]
        assert len(server.inferred) == 1

    def test_inputs_may_be_left_out_where_the_server_lets_them(self) -> None:
        """Metadata doesn't say which inputs of Triton's models are optional."""
        pair = {"a": ("INT8", (-1,)), "b": ("INT8", (-1,))}
        server = FakeOpenInference(lambda inputs: {"n": np.array([len(inputs)])}, pair, pair)
        array = np.zeros(2, np.int8)
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.predict("m", {"a": array, "b": array})["n"].tolist() == [2]
            assert client.predict("m", {"b": array})["n"].tolist() == [1]
            with pytest.raises(InvalidInput, match=r'expected inputs .*, got \["a", "c"\]'):
                client.predict("m", {"a": array, "c": array})
            with pytest.raises(InvalidInput, match="one array can't stand for 2 inputs"):
                client.predict("m", array)

    def test_a_server_without_metadata_gets_what_is_given(self) -> None:
        server = FakeOpenInference(has_metadata=False)
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.predict("m", {"x": X})["y"].tolist() == Y
            with pytest.raises(InvalidInput, match="the input needs its name"):
                client.predict("m", X)

    def test_a_server_that_declares_no_inputs_gets_what_is_given(self) -> None:
        """As a model of MLServer's without metadata in its settings."""
        server = FakeOpenInference(inputs={})
        server.run = lambda inputs: {"n": np.array([len(inputs)])}
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.metadata("m").signatures == {}

    @both
    def test_a_datatype_that_it_has_not_is_refused(self, make: Any) -> None:
        server = FakeOpenInference(has_metadata=False)
        with listening(server) as address, make(address, protocol="v2") as client:
            with pytest.raises(InvalidInput, match=r'"x": the Open Inference Protocol has no .*64'):
                client.predict("m", {"x": X.astype(np.complex64)})
            with pytest.raises(InvalidInput, match=r'"x": expected all numbers|"x": .*bytes'):
                client.predict("m", {"x": np.array([b"a", 1], object)})

    def test_new_shapes_of_a_model_are_fetched_when_the_old_ones_are_refused(self) -> None:
        server = FakeOpenInference()
        with listening(server) as address, Client(address, protocol="v2") as client:
            client.predict("m", X)
            server.inputs = {"x": ("FP64", (-1,))}
            assert client.predict("m", X)["y"].dtype == np.float64


class TestVersions:
    @pytest.mark.parametrize("asked", [{"version": 1}, {"label": "stable"}])
    def test_a_server_without_versions_does_not_pass_for_one_with_them(
        self, asked: dict[str, Any]
    ) -> None:
        """As KServe's, which doesn't look at the version of a request."""
        server = FakeOpenInference(tells_version=False)
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.predict("m", X).version is None
            with pytest.raises(InvalidAnswer, match="doesn't say which version answered"):
                client.predict("m", X, **asked)

    def test_a_label_is_the_text_of_the_version(self) -> None:
        server = FakeOpenInference(versions=("v1.0",))
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.predict("m", X, label="v1.0").version is None
            assert client.metadata("m").version is None
        assert {r.model_version for r in server.inferred} == {"v1.0"}

    def test_versions_that_are_no_numbers_are_not_counted(self) -> None:
        """As MLServer's, which also writes states in a way of its own."""
        server = FakeOpenInference(versions=("v1.0",), ready="State.READY")
        with listening(server) as address, Client(address, protocol="v2") as client:
            assert client.models("m")[0].is_available
            assert client.status("m") == ()
            with pytest.raises(NotFound, match=r"version 3 is not found$"):
                client.predict("m", X, version=3)

    def test_another_version_than_the_one_that_was_asked_for_is_refused(self) -> None:
        class Wrong(FakeOpenInference):
            def infer(self, request: Any) -> Any:
                response = super().infer(request)
                response.model_version = "2"
                return response

        with (
            listening(Wrong()) as address,
            Client(address, protocol="v2") as client,
            pytest.raises(InvalidAnswer, match=r'version 1: expected .*, got one of "2"'),
        ):
            client.predict("m", X, version=1)

    def test_an_unknown_version_names_those_that_there_are(self) -> None:
        with listening(FakeOpenInference()) as address, Client(address, protocol="v2") as client:
            with pytest.raises(NotFound, match="its versions served here: 1, 2"):
                client.predict("m", X, version=9)
            with pytest.raises(NotFound, match="served here: m, broken, new"):
                client.predict("x", X)


@both
@pytest.mark.parametrize(
    ("refused", "cause"),
    [
        (Refused(Code.INVALID_ARGUMENT, "[request id: 7] input byte size mismatch"), InvalidInput),
        (Refused(Code.UNIMPLEMENTED, "ModelInfer RPC doesn't support decoupled"), Unimplemented),
        (Refused(Code.INTERNAL, "onnx runtime error 2"), LadleError),
    ],
)
def test_what_a_server_refuses_is_one_line(make: Any, refused: Refused, cause: type) -> None:
    server = FakeOpenInference(refusals=[refused])
    with listening(server) as address, make(address, protocol="v2", retry=SOON) as client:
        with pytest.raises(cause, match="ModelInfer at 127") as caught:
            client.predict("m", X)
        assert refused.details in str(caught.value)
        assert "\n" not in str(caught.value)


@both
def test_calls_that_no_server_processed_are_made_again(make: Any) -> None:
    """Triton answers UNAVAILABLE where its queue is full."""
    server = FakeOpenInference(
        refusals=[Refused(Code.UNAVAILABLE, "Exceeds maximum queue size")] * 3
    )
    with listening(server) as address, make(address, protocol="v2", retry=SOON) as client:
        assert client.predict("m", X)["y"].tolist() == Y
    assert len(server.inferred) == 4


@both
def test_calls_are_balanced_and_hedged(make: Any) -> None:
    one, two = FakeOpenInference(), FakeOpenInference()
    with listening(one) as first, listening(two) as second:
        hedge = Hedge(after_s=30.0)
        with make([first, second], protocol="v2", hedge=hedge) as client:
            for _ in range(6):
                client.predict("m", X)
    assert len(one.inferred) == len(two.inferred) == 3


def test_predictions_share_requests() -> None:
    server = FakeOpenInference()

    async def main(address: str) -> list[Prediction]:
        async with AsyncClient(address, protocol="v2", coalesce_ms=200) as client:
            await client.predict("m", X)
            return await asyncio.gather(*(client.predict("m", X + i) for i in range(8)))

    with listening(server) as address:
        predictions = asyncio.run(main(address))
    assert [p["y"][0] for p in predictions] == [3 + i / 2 for i in range(8)]
    assert len(server.inferred) < 9


@both
def test_chunks_are_requests_of_some_rows(make: Any) -> None:
    server = FakeOpenInference()
    rows = np.arange(200, dtype=np.float32)
    with listening(server) as address, make(address, protocol="v2") as client:
        if isinstance(client, Client):
            parts = [*client.predict_chunks("m", rows)]
            assert np.concatenate([p["y"] for p in parts]).tolist() == (rows / 2 + 2).tolist()
            assert len(server.inferred) > 1


def run_blocking(address: str, inputs: list[NDArray[Any]], **settings: Any) -> list[Prediction]:
    with Client(address, protocol="v2", retry=SOON) as client:
        return [*client.stream("m", inputs, **settings)]


def run_awaiting(address: str, inputs: list[NDArray[Any]], **settings: Any) -> list[Prediction]:
    async def main() -> list[Prediction]:
        async with AsyncClient(address, protocol="v2", retry=SOON) as client:
            return [p async for p in client.stream("m", inputs, **settings)]

    return asyncio.run(main())


streaming = pytest.mark.parametrize("run", [run_blocking, run_awaiting])


class TestStreams:
    @streaming
    @pytest.mark.parametrize("stream", ["", "triton", "old triton", "mlserver"])
    def test_every_input_has_its_answer_whatever_the_server_has(
        self, run: Any, stream: str
    ) -> None:
        server = FakeOpenInference(stream=stream)
        with listening(server) as address:
            predictions = run(address, [X + i for i in range(40)])
        assert [float(p["y"][0]) for p in predictions] == [3 + i / 2 for i in range(40)]
        assert [p.index for p in predictions] == [*range(40)]
        if "triton" in stream:
            assert server.streams == 1
            assert server.calls.count("ModelInfer") == 0

    @streaming
    @pytest.mark.parametrize("stream", ["", "triton", "old triton", "mlserver"])
    def test_an_input_that_fails_has_the_status_of_a_call_of_its_own(
        self, run: Any, stream: str
    ) -> None:
        """A stream's errors have no status."""

        class Picky(FakeOpenInference):
            def infer(self, request: Any) -> Any:
                if b"\0\0\xc0\x7f" in request.raw_input_contents[0]:
                    raise Refused(Code.INVALID_ARGUMENT, "no NaN")
                return super().infer(request)

        failed: list[tuple[int, Exception]] = []
        inputs = [X + i for i in range(20)]
        inputs[7] = np.array([np.nan], np.float32)
        with listening(Picky(stream=stream)) as address:
            predictions = run(address, inputs, on_error=lambda i, e: failed.append((i, e)))
        assert [p.index for p in predictions] == [i for i in range(20) if i != 7]
        assert [(i, type(e)) for i, e in failed] == [(7, InvalidInput)]
        assert "no NaN" in str(failed[0][1])

    @streaming
    def test_what_a_full_server_refuses_in_a_stream_is_sent_again(self, run: Any) -> None:
        full = Refused(Code.UNAVAILABLE, "Exceeds maximum queue size")
        server = FakeOpenInference(stream="triton", refusals=[full, full, full])
        with listening(server) as address:
            assert len(run(address, [X] * 10)) == 10


class TestModels:
    @both
    def test_metadata_is_the_models_only_signature(self, make: Any) -> None:
        server = FakeOpenInference(inputs={"x": ("BYTES", (-1, 2))}, outputs={"y": ("NEW", ())})
        with listening(server) as address, make(address, protocol="v2") as client:
            metadata = client.metadata("m")
        assert metadata.version == 2
        (signature,) = metadata.signatures.values()
        assert repr(signature) == "Signature(x: string [-1, 2] -> y: invalid [])"

    @both
    def test_models_and_versions_are_those_of_the_repository(self, make: Any) -> None:
        with listening(FakeOpenInference()) as address, make(address, protocol="v2") as client:
            names = [(m.name, m.is_available, m.problem) for m in client.models()]
            assert names == [("m", True, ""), ("broken", False, "no such op"), ("new", False, "")]
            assert [m.name for m in client.models("m")] == ["m"]
            states = [(s.version, s.state) for s in client.status("m")]
            assert states == [(1, VersionState.AVAILABLE), (2, VersionState.AVAILABLE)]
            (broken,) = client.status("broken", version=7)
            assert (broken.state, broken.error_message) == (VersionState.END, "no such op")
            with pytest.raises(NotFound, match=r'"m" version 5: the index .* served here: 1, 2'):
                client.status("m", version=5)

    @both
    def test_models_are_loaded_and_unloaded_by_name(self, make: Any) -> None:
        server = FakeOpenInference()
        with listening(server) as address, make(address, protocol="v2") as client:
            assert client.load("m").is_available
            assert server.loaded == ["m"]
            client.unload("m")
            assert server.loaded == []
            with pytest.raises(LadleError, match="failed to load 'x'"):
                client.load("x")

    @both
    def test_readiness_and_health(self, make: Any) -> None:
        server = FakeOpenInference()
        with listening(server) as address, make(address, protocol="v2") as client:
            assert client.health()
            assert client.health("m")
            client.wait_until_ready()
            client.wait_until_ready("m", version=1)
            server.is_ready = False
            assert not client.health()
            with pytest.raises(LadleError, match=r"not ready within the timeout: .*not ready"):
                client.wait_until_ready("m", timeout=0.3)

    @both
    def test_what_the_protocol_has_not_is_refused_in_one_line(self, make: Any) -> None:
        with listening(FakeOpenInference()) as address, make(address, protocol="v2") as client:
            lacks = "the Open Inference Protocol has no"
            refused: list[tuple[Callable[[], object], type[LadleError], str]] = [
                (lambda: client.classify("m", [{"x": 1.0}]), Unimplemented, "tf.Examples"),
                (lambda: client.regress("m", [{"x": 1.0}]), Unimplemented, "tf.Examples"),
                (
                    lambda: client.multi_inference("m", [{"x": 1.0}], {"a": "regress"}),
                    Unimplemented,
                    "tf.Examples",
                ),
                (lambda: client.reload({"m": "/m"}), Unimplemented, "list of models"),
                (lambda: client.load("m", "/m"), Unimplemented, "base paths"),
                (lambda: client.predict("m", X, signature="s"), FailedPrecondition, "signatures"),
            ]
            for ask, cause, text in refused:
                with pytest.raises(cause, match=f"{lacks} {text}"):
                    ask()
            assert client.predict("m", X, signature="serving_default")["y"].tolist() == Y

    def test_a_server_without_a_repository_says_so(self) -> None:
        server = FakeOpenInference(has_repository=False)
        with listening(server) as address, Client(address, protocol="v2") as client:
            with pytest.raises(Unimplemented, match="RepositoryIndex at"):
                client.models()
            with pytest.raises(NotFound, match=r"unknown model: 'x' is not found$"):
                client.predict("x", X)


class TestWrongProtocol:
    @both
    def test_each_names_the_other(self, make: Any) -> None:
        with (
            listening(FakeOpenInference()) as address,
            make(address) as client,
            pytest.raises(Unimplemented, match=r'Triton, KServe or MLServer .*protocol="v2"'),
        ):
            client.predict("m", {"x": X})
        with (
            listening(FakeOpenInference()) as address,
            make(address) as client,
            pytest.raises(InvalidInput, match=r"needs its name: .*Triton, KServe .*protocol="),
        ):
            client.predict("m", X)
        with (
            serving(FakeServing({1: Version()})) as address,
            make(address, protocol="v2") as client,
            pytest.raises(Unimplemented, match="Serving takes a client without protocol="),
        ):
            client.predict("m", {"images": np.zeros((1, 2, 2), np.float32)})

    def test_there_are_two(self) -> None:
        with pytest.raises(ValueError, match='protocol: expected "tfs" or "v2", got \'v3\''):
            Client("localhost:8500", protocol="v3")  # type: ignore[arg-type]


def test_a_pickled_client_speaks_it_too() -> None:
    client = Client("127.0.0.1:1", protocol="v2", timeout=7)
    copy = pickle.loads(pickle.dumps(client))
    with listening(FakeOpenInference()) as address:
        arguments = copy.__reduce__()[1][1] | {"address": address}
        with Client(**arguments) as there:
            assert there.predict("m", X)["y"].tolist() == Y
