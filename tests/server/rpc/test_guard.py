"""Every method of the server behind its rule, on real connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal
from google.protobuf.message import Message

from ladle.client import Client, PermissionDenied, Unauthenticated, VersionState
from ladle.protos import tensors, wire
from ladle.protos.inference_pb import (
    ModelConfigRequest,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelStatisticsRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from ladle.protos.ladle_pb import (
    ListModelsRequest,
    LoadModelRequest,
    PredictStreamRequest,
    RescanModelRequest,
    UnloadModelRequest,
)
from ladle.protos.serving_pb import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelConfig,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
)
from ladle.server import Config, Server, StartupError
from ladle.server.call import Alike, Call, ContentPath, NonBlocking
from ladle.server.core.access import Access, Kind, Tokens
from ladle.server.core.errors import Code, InvalidArgument, ServingError
from ladle.server.rpc.guard import RULES, Rule, guarded
from ladle.server.settings.tokens_file import parse

PREDICT, METADATA, ADMIN, OTHER = (
    f"the-token-for-{kind}" for kind in ("predict", "metadata", "admin", "other")
)
LINES = (
    {"token": PREDICT, "kinds": ["predict"], "models": ["a*"]},
    {"token": METADATA, "kinds": ["metadata"], "models": ["a*"]},
    {"token": ADMIN, "kinds": ["admin"]},
)
TOKENS_FILE = "".join(json.dumps(line) + "\n" for line in LINES)
OF_KIND = {Kind.PREDICT: PREDICT, Kind.METADATA: METADATA, Kind.ADMIN: ADMIN}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves model `a`; the tokens but one are for models whose names begin so."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "a" / "1").mkdir(parents=True)
    (folder / "tokens").write_text(TOKENS_FILE)
    config = Config(
        port=None,
        model_name="a",
        model_base_path=str(folder / "a"),
        auth_tokens_file=str(folder / "tokens"),
        drain_grace_seconds=0,
    )
    server = Server(config, load=FakeLoader())
    server.start()
    yield server
    server.stop(lame_duck=False)


def address(server: Server) -> str:
    return f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}"


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address(server)) as channel:
        yield channel


def code_of(channel: grpc.Channel, path: str, request: bytes | None, token: str | None) -> str:
    """Call a method of whatever kind, and return the code that the call ends with.

    Without a request nothing is sent and the call is left open, as a stream's caller may do.
    """
    call: Any = channel.stream_stream(path, None, None)
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    silence = Silence()
    requests = silence if request is None else iter([request])
    answers = call(requests, metadata=metadata, timeout=TIMEOUT_S)
    try:
        for _ in answers:
            if RULES.get(path) == Rule(Kind.OPEN):
                break  # a Watch never ends
    except grpc.RpcError as error:
        return refusal(error)[0]
    finally:
        silence.over.set()
        answers.cancel()
    return "OK"


class Silence:
    """The messages of a caller who sends none and does not end."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __iter__(self) -> Silence:
        return self

    def __next__(self) -> bytes:
        self.over.wait(TIMEOUT_S)
        raise StopIteration


def test_every_method_that_is_served_has_a_rule(server: Server) -> None:
    assert set(server.methods) == set(RULES)


@pytest.mark.parametrize("path", [*RULES, "/no.such.Service/Method", "/grpc.health.v1.Health/No"])
@pytest.mark.parametrize("token", [None, OTHER])
def test_without_a_token_every_method_is_refused_before_its_request_is_read(
    channel: grpc.Channel, path: str, token: str | None
) -> None:
    if path in RULES and RULES[path].kind is Kind.OPEN:
        assert code_of(channel, path, b"", token) in ("OK", "INVALID_ARGUMENT")
    else:
        assert code_of(channel, path, b"", token) == "UNAUTHENTICATED"


def test_a_caller_who_sends_nothing_is_refused_all_the_same(channel: grpc.Channel) -> None:
    path = "/ladle.v1.StreamingPrediction/PredictStream"
    assert code_of(channel, path, None, None) == "UNAUTHENTICATED"


@pytest.mark.parametrize("path", [path for path in RULES if RULES[path].kind is not Kind.OPEN])
def test_a_token_is_good_for_methods_of_its_kinds_alone(channel: grpc.Channel, path: str) -> None:
    kind = RULES[path].kind
    for other, token in OF_KIND.items():
        code = code_of(channel, path, b"", token)
        assert code != "UNAUTHENTICATED"
        assert (code == "PERMISSION_DENIED") or other is kind
    # Of its own kind the empty request is refused for what it is, or because it names no model
    # of the token's.
    assert code_of(channel, path, b"", OF_KIND[kind]) != "UNAUTHENTICATED"


def test_a_method_that_there_is_not_is_unimplemented_to_whoever_has_a_token(
    channel: grpc.Channel,
) -> None:
    assert code_of(channel, "/no.such.Service/Method", b"", PREDICT) == "UNIMPLEMENTED"


def predict_request(name: str) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 2), np.float32)))
    return request


def named(request_class: Any, name: str, **fields: Any) -> Any:
    request = request_class(**fields)
    request.model_spec.name = name
    return request


def tasks(*names: str) -> Message:
    request = MultiInferenceRequest()
    for name in names:
        request.tasks.add().model_spec.name = name
    return request


def infer_request(name: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.ones(2, np.float32).tobytes())
    return request


def repository_request(request_class: Any, name: str) -> Any:
    return request_class(model_name=name)


P = "/tensorflow.serving.PredictionService/"
ABOUT_A_MODEL: dict[str, Callable[[str], Message]] = {
    f"{P}Predict": predict_request,
    f"{P}Classify": lambda name: named(ClassificationRequest, name),
    f"{P}Regress": lambda name: named(RegressionRequest, name),
    f"{P}MultiInference": lambda name: tasks("a", name),
    f"{P}GetModelMetadata": lambda name: named(
        GetModelMetadataRequest, name, metadata_field=["signature_def"]
    ),
    "/tensorflow.serving.ModelService/GetModelStatus": lambda name: named(
        GetModelStatusRequest, name
    ),
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": lambda _: ReloadConfigRequest(),
    "/ladle.v1.StreamingPrediction/PredictStream": lambda name: PredictStreamRequest(
        request=predict_request(name)
    ),
    "/ladle.v1.StreamingPrediction/PredictInChunks": predict_request,
    "/inference.GRPCInferenceService/ModelMetadata": lambda name: ModelMetadataRequest(name=name),
    "/inference.GRPCInferenceService/ModelConfig": lambda name: ModelConfigRequest(name=name),
    "/inference.GRPCInferenceService/ModelStatistics": lambda name: ModelStatisticsRequest(
        name=name
    ),
    "/inference.GRPCInferenceService/ModelInfer": infer_request,
    "/inference.GRPCInferenceService/ModelStreamInfer": infer_request,
    **{
        f"/inference.{service}/RepositoryModel{verb}": partial(repository_request, message)
        for service in ("GRPCInferenceService", "model_repository.ModelRepositoryService")
        for verb, message in (
            ("Load", RepositoryModelLoadRequest),
            ("Unload", RepositoryModelUnloadRequest),
        )
    },
    "/ladle.v1.ModelRepository/ListModels": lambda name: ListModelsRequest(name=name),
    "/ladle.v1.ModelRepository/LoadModel": lambda name: LoadModelRequest(
        config=ModelConfig(name=name)
    ),
    "/ladle.v1.ModelRepository/UnloadModel": lambda name: UnloadModelRequest(name=name),
    "/ladle.v1.ModelRepository/RescanModel": lambda name: RescanModelRequest(name=name),
}
UNBOUND = (
    *("Health", "ServerReflection", "ProfilerService"),
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "RepositoryIndex"),
    *("SharedMemory", "TraceSetting", "LogSettings"),
)


def test_every_method_about_models_is_among_those_below() -> None:
    rest = RULES.keys() - ABOUT_A_MODEL.keys()
    assert all(any(service in path for service in UNBOUND) for path in rest)


@pytest.mark.parametrize("path", ABOUT_A_MODEL)
def test_a_request_is_about_the_models_that_it_names(path: str) -> None:
    names = RULES[path].models(ABOUT_A_MODEL[path]("b").SerializeToString())
    assert names is None if path.endswith("HandleReloadConfigRequest") else "b" in (names or ())


@pytest.mark.parametrize(
    "path", [path for path in ABOUT_A_MODEL if RULES[path].kind is not Kind.ADMIN]
)
def test_a_token_is_good_for_its_models_alone(channel: grpc.Channel, path: str) -> None:
    token = OF_KIND[RULES[path].kind]
    for name, denied in ("a", False), ("b", True), ("", True), ("A", True):
        request = ABOUT_A_MODEL[path](name).SerializeToString()
        code = code_of(channel, path, request, token)
        assert (code == "PERMISSION_DENIED") == denied
        if not denied and not path.endswith("MultiInference"):  # which is about two models here
            # The fake model takes no Examples, and describes itself to nobody.
            refused = path.endswith(("Classify", "Regress"))
            assert code == ("INVALID_ARGUMENT" if refused else "OK")


def test_the_name_that_is_asked_about_is_the_one_that_is_read() -> None:
    """A model_spec may come in pieces, of which the last word counts."""
    twice = predict_request("a").SerializeToString() + predict_request("b").SerializeToString()
    assert RULES[f"{P}Predict"].models(twice) == ["b"]
    assert PredictRequest.FromString(twice).model_spec.name == "b"


@pytest.mark.parametrize("method", ["PredictStream", "PredictInChunks"])
def test_of_a_streamed_request_nothing_is_read_but_the_name(method: str) -> None:
    """All of it, large as it may be, would hold up the calls of everybody."""
    request = PredictRequest()
    request.model_spec.name = "a"
    message = request.SerializeToString() + wire.join(wire.bytes_field(2, [b"\xff"]))
    if method == "PredictStream":
        message = wire.varint_field(1, 7) + wire.join(wire.bytes_field(2, [message]))
    rule = RULES[f"/ladle.v1.StreamingPrediction/{method}"]

    assert rule.models(message) == ["a"]
    with pytest.raises(InvalidArgument):
        rule.models(message[:-1])


def test_a_request_that_cannot_be_read_is_refused(channel: grpc.Channel) -> None:
    assert code_of(channel, f"{P}Predict", b"\xff", PREDICT) == "INVALID_ARGUMENT"


def test_the_client_passes_with_its_token_as_far_as_that_goes(server: Server) -> None:
    with Client(address(server), token=METADATA, tls=False) as client:
        assert client.health()
        assert client.status("a")[0].state is VersionState.AVAILABLE
        assert [model.name for model in client.models("a")] == ["a"]
        with pytest.raises(PermissionDenied, match=r"'line 2' is for models named a\*: .*'b'"):
            client.status("b")
        with pytest.raises(PermissionDenied, match="about all models"):
            client.models()
        with pytest.raises(PermissionDenied, match="for metadata methods: this is one of admin"):
            client.reload({})
    with Client(address(server)) as nobody, pytest.raises(Unauthenticated, match="Bearer TOKEN"):
        nobody.status("a")


def test_a_stream_ends_when_its_token_is_taken_back(server: Server, channel: grpc.Channel) -> None:
    path = "/ladle.v1.StreamingPrediction/PredictStream"
    request = ABOUT_A_MODEL[path]("a").SerializeToString()
    requests: SimpleQueue[bytes] = SimpleQueue()
    call: Any = channel.stream_stream(path, None, None)
    answers = call(
        iter(requests.get, None),
        metadata=(("authorization", f"Bearer {PREDICT}"),),
        timeout=TIMEOUT_S,
    )
    requests.put(request)
    next(answers)  # the window
    next(answers)
    server.access.replace(Tokens({}))
    requests.put(request)
    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    server.access.replace(parse(TOKENS_FILE))
    assert refusal(raised.value)[0] == "UNAUTHENTICATED"


class FarCall:
    """A call from another machine."""

    local = False
    request = b""
    deadline = None
    shared_observation = None

    def __init__(self) -> None:
        self.error: ServingError | None = None
        self.answered = False

    def metadata(self, key: str) -> str | None:
        return None

    def respond(self, response: bytes) -> None:
        self.answered = True

    def fail(self, error: ServingError) -> None:
        self.error = error


@pytest.mark.parametrize("path", RULES)
def test_without_tokens_only_admin_is_refused_to_other_machines(path: str) -> None:
    def answer(call: Call) -> None:
        call.respond(b"")

    admin = RULES[path].kind is Kind.ADMIN
    method = guarded({path: answer}, Access())[path]
    assert (method is answer) == (not admin)  # nothing else has to pay for it
    call = FarCall()
    cast(Any, method)(call)
    assert call.answered == (not admin)
    assert (call.error is not None and call.error.code is Code.PERMISSION_DENIED) == admin

    far = FarCall()
    cast(Any, guarded({path: answer}, Access(allow_remote_admin=True))[path])(far)
    assert far.answered
    near = SimpleNamespace(
        local=True,
        request=b"",
        metadata=lambda _: None,
        respond=far.respond,
        shared_observation=None,
    )
    cast(Any, method)(near)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_who_comes_through_a_proxy_on_this_machine_is_not_local(
    tmp_path: Path, header: str
) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    config = Config(
        port=None, model_name="a", model_base_path=str(tmp_path / "a"), drain_grace_seconds=0
    )
    server = Server(config, load=FakeLoader())
    server.start()
    address = server.addresses[0].removeprefix("grpc://")
    with grpc.insecure_channel(address) as channel:
        path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
        call: Any = channel.unary_unary(path)
        request = ReloadConfigRequest()
        model = request.config.model_config_list.config.add(name="a", model_platform="tensorflow")
        model.base_path = str(tmp_path / "a")
        data = request.SerializeToString()
        with pytest.raises(grpc.RpcError) as raised:
            call(data, timeout=TIMEOUT_S, metadata=[(header, "203.0.113.9")])
        call(data, timeout=TIMEOUT_S)
    server.stop(lame_duck=False)
    code, details = refusal(raised.value)
    assert code == "PERMISSION_DENIED"
    assert "through no proxy" in details


def own_address() -> str | None:
    """This machine's address on a network, where it is on one; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


@pytest.mark.skipif(own_address() is None, reason="this machine is on no network")
def test_a_caller_from_a_network_is_told_from_one_on_this_machine(tmp_path: Path) -> None:
    """Also on a server's own machine: an address of a network may be anybody's."""
    (tmp_path / "a" / "1").mkdir(parents=True)
    config = Config(
        port=None, model_name="a", model_base_path=str(tmp_path / "a"), drain_grace_seconds=0
    )
    server = Server(config, load=FakeLoader())
    server.start()
    port = server.addresses[0].rpartition(":")[2]
    with Client(f"{own_address()}:{port}") as far:
        assert far.status("a")
        with pytest.raises(PermissionDenied, match="from the server's own machine only"):
            far.reload({"a": str(tmp_path / "a")})
    with Client(f"127.0.0.1:{port}") as near:
        near.reload({"a": str(tmp_path / "a")})
    server.stop(lame_duck=False)


def test_a_method_without_a_rule_is_not_served() -> None:
    with pytest.raises(KeyError):
        guarded({"/new.Service/Method": lambda call: call.respond(b"")}, Access())


def test_a_wrong_tokens_file_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "tokens").write_text("{")
    config = Config(model_base_path=str(tmp_path / "a"), auth_tokens_file=str(tmp_path / "tokens"))
    with pytest.raises(StartupError, match=r"--auth_tokens_file: .*line 1: expected a JSON object"):
        Server(config, load=FakeLoader())


def test_where_tokens_are_asked_for_each_call_is_handled_by_itself() -> None:
    """Calls that are alike may show different tokens, or none."""
    path = "/tensorflow.serving.PredictionService/Predict"
    alike = Alike(lambda _group: True, contents=(ContentPath((2, 2, 4), key=1),), metadata=())
    method = NonBlocking(lambda _call: None, alike=alike)
    tokens = Access(parse(TOKENS_FILE))

    assert cast(Any, guarded({path: method}, Access())[path]).alike is alike
    assert cast(Any, guarded({path: method}, tokens)[path]).alike is None
