"""Models are listed, unloaded and brought back by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal, until

from ladle.protos.inference_pb import (
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from ladle.server import Config, Server
from ladle.server.core.errors import ServingError
from ladle.server.core.servable_id import ServableId

SERVICE = "/inference.GRPCInferenceService"

Ask = Callable[[Any, Any], Any]


@pytest.fixture
def loader() -> FakeLoader:
    loader = FakeLoader()
    loader.failures[ServableId("broken", 1)] = ServingError("no such operation")
    return loader


@pytest.fixture
def ask(tmp_path: Path, loader: FakeLoader) -> Iterator[Ask]:
    """Asks a server that serves versions 1 and 2 of `good`, and can't load `broken`."""
    for folder in ("good/1", "good/2", "broken/1"):
        (tmp_path / folder).mkdir(parents=True)
    models = "".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" '
        "model_version_policy { all {} } }\n"
        for name in ("good", "broken")
    )
    (tmp_path / "models").write_text(f"model_config_list {{ {models} }}")
    config = Config(
        port=None,
        model_config_file=str(tmp_path / "models"),
        max_num_load_retries=0,
        drain_grace_seconds=0,
    )
    server = Server(config, load=loader)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}") as channel:

        def ask(request: Any, answer: Any) -> Any:
            method = type(request).__name__.removesuffix("Request")
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                f"{SERVICE}/{method}"
            )
            return answer.FromString(call(request.SerializeToString(), timeout=TIMEOUT_S))

        yield ask
    server.stop(lame_duck=False)


def index(ask: Ask, **fields: Any) -> list[tuple[str, str, str]]:
    answer = ask(RepositoryIndexRequest(**fields), RepositoryIndexResponse)
    return [(model.name, model.version, model.state) for model in answer.models]


def load(ask: Ask, **fields: Any) -> Any:
    return ask(RepositoryModelLoadRequest(**fields), RepositoryModelLoadResponse)


def unload(ask: Ask, **fields: Any) -> Any:
    return ask(RepositoryModelUnloadRequest(**fields), RepositoryModelUnloadResponse)


def ready(ask: Ask, name: str) -> bool:
    return bool(ask(ModelReadyRequest(name=name), ModelReadyResponse).ready)


def test_the_index_has_every_version_and_why_one_is_not_there(ask: Ask) -> None:
    # A model counts as up with its first version; the other may still be on its way.
    wanted = [("broken", "1", "UNAVAILABLE"), ("good", "1", "READY"), ("good", "2", "READY")]
    until(lambda: index(ask) == wanted)
    answer = ask(RepositoryIndexRequest(), RepositoryIndexResponse)
    assert "no such operation" in answer.models[0].reason
    assert index(ask, ready=True) == [("good", "1", "READY"), ("good", "2", "READY")]


def test_a_model_is_unloaded_and_comes_back_as_it_was_configured(ask: Ask) -> None:
    assert unload(ask, model_name="good").isUnloaded
    with pytest.raises(grpc.RpcError) as caught:
        unload(ask, model_name="good")
    assert refusal(caught.value) == (
        "NOT_FOUND",
        "Request for unknown model: 'good' is not found",
    )
    assert load(ask, model_name="good").isLoaded
    assert ready(ask, "good")
    assert {state for name, _, state in index(ask, ready=True) if name == "good"} == {"READY"}


def test_kserves_stub_has_the_name_in_the_first_field(ask: Ask) -> None:
    answer = load(ask, repository_name="good")
    assert (answer.model_name, answer.isLoaded) == ("good", True)


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (
            RepositoryModelLoadRequest(model_name="wrong"),
            "NOT_FOUND",
            "failed to load 'wrong', failed to poll from model repository",
        ),
        (
            RepositoryModelLoadRequest(model_name="broken"),
            "INTERNAL",
            "failed to load 'broken', 1 model(s) did not become available",
        ),
        (
            RepositoryModelLoadRequest(repository_name="r", model_name="good"),
            "UNIMPLEMENTED",
            "'repository_name' specification is not supported",
        ),
        (
            RepositoryIndexRequest(repository_name="r"),
            "UNIMPLEMENTED",
            "'repository_name' specification is not supported",
        ),
    ],
)
def test_what_can_not_be_done_says_so(ask: Ask, request_: Any, code: str, says: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(request_, RepositoryModelLoadResponse)
    given, message = refusal(caught.value)
    assert given == code
    assert message.startswith(says)


@pytest.mark.parametrize("key", ["config", "file:1/saved_model.pb"])
def test_nothing_is_loaded_that_comes_over_the_wire(ask: Ask, key: str) -> None:
    request = RepositoryModelLoadRequest(model_name="good")
    request.parameters[key].bytes_param = b"{}"
    with pytest.raises(grpc.RpcError) as caught:
        ask(request, RepositoryModelLoadResponse)
    assert refusal(caught.value)[0] == "UNIMPLEMENTED"
