"""A model repository as Triton's, on a whole server without TensorFlow."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeLoader, FakeServable, spec
from numpy.typing import NDArray

from ladle.client import Client, InvalidInput, NotFound, VersionState
from ladle.protos.model_card import ModelCard
from ladle.server import Config, Server, StartupError
from ladle.server.core.errors import ServingError
from ladle.server.core.servable import Arrays, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.wiring import triton

STRING = 7


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three models: `plain`, `several` with two versions, and `later`, which has none yet."""
    for path in ("plain/1/model.savedmodel", "several/1", "several/2"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "several" / "config.pbtxt").write_text("version_policy { all { } }")
    return tmp_path


@contextmanager
def serving(
    repository: Path, loader: FakeLoader | None = None, **settings: object
) -> Iterator[tuple[Server, Client]]:
    config = Config(
        port=None,
        model_repository=str(repository),
        drain_grace_seconds=0.0,
        **({"file_system_poll_wait_seconds": 0.02} | settings),  # type: ignore[arg-type]
    )
    server = Server(config, load=loader or FakeLoader())
    server.start()
    try:
        port = server.addresses[0].rpartition(":")[2]
        with Client(f"127.0.0.1:{port}", protocol="v2", timeout=TIMEOUT_S) as client:
            yield server, client
    finally:
        server.stop()


def names(client: Client) -> list[str]:
    return [model.name for model in client.models() if model.is_available]


def test_all_models_of_the_folder_are_served_by_their_policies(repository: Path) -> None:
    with serving(repository) as (_, client):
        assert names(client) == ["plain", "several"]
        client.wait_until_ready("several", version=1)
        states = [(s.version, s.state) for s in client.status("several")]
        assert states == [(1, VersionState.AVAILABLE), (2, VersionState.AVAILABLE)]


def test_explicitly_loaded_models_come_and_go(repository: Path) -> None:
    settings: dict[str, Any] = {"model_control_mode": "explicit", "load_model": "plain"}
    with serving(repository, file_system_poll_wait_seconds=0.0, **settings) as (_, client):
        assert names(client) == ["plain"]
        (unloaded,) = client.models("several")
        assert (unloaded.is_available, unloaded.problem) == (False, "unloaded")
        client.load("several")
        assert names(client) == ["plain", "several"]
        client.unload("plain")
        assert names(client) == ["several"]
        (repository / "several" / "3").mkdir()
        client.load("several")
        client.wait_until_ready("several", version=3)
        (repository / "new" / "7").mkdir(parents=True)
        assert client.load("new").versions[0].version == 7
        (repository / "onnx").mkdir()
        (repository / "onnx" / "config.pbtxt").write_text('backend: "onnxruntime"')
        with pytest.raises(InvalidInput, match=r"failed to load 'onnx', .*backend: expected"):
            client.load("onnx")
        with pytest.raises(NotFound, match="failed to load 'nope', failed to poll from model repo"):
            client.load("nope")


def test_polling_finds_models_that_come_later(repository: Path) -> None:
    settings: dict[str, Any] = {"model_control_mode": "poll"}
    with serving(repository, **settings) as (_, client):
        (repository / "new" / "1").mkdir(parents=True)
        client.wait_until_ready("new")
        (repository / "new" / "2").mkdir()
        client.wait_until_ready("new", version=2)


@pytest.mark.parametrize(
    ("strict", "expected"), [(True, (False, True)), (False, (True, True)), (None, (True, True))]
)
def test_readiness_is_as_strict_as_it_is_asked_to_be(
    repository: Path, strict: bool | None, expected: tuple[bool, bool]
) -> None:
    loader = FakeLoader()
    loader.failures[ServableId("plain", 1)] = ServingError("no such operation")
    settings: dict[str, Any] = {"max_num_load_retries": 0, "strict_readiness": strict}
    with serving(repository, loader, **settings) as (_, client):
        assert client.health() is expected[0]
    with serving(repository, **settings) as (_, client):
        assert client.health() is expected[1]


def test_a_server_without_models_is_ready_to_load_some(repository: Path) -> None:
    settings: dict[str, Any] = {"model_control_mode": "explicit", "strict_readiness": True}
    with serving(repository, **settings) as (_, client):
        assert names(client) == []
        assert client.health()


def test_a_repository_that_is_of_no_use_ends_the_start(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model_control_mode": "explicit", "load_model": "nope"}
    for folder, given, message in (
        (tmp_path / "nope", {}, r"--model_repository: .*nope: can't be read"),
        (tmp_path, settings, "found none for nope"),
    ):
        with pytest.raises(StartupError, match=message), serving(folder, **given):
            pass


def test_a_single_model_has_the_policy_of_its_config_too(repository: Path) -> None:
    config = Config(
        port=None,
        model_name="m",
        model_base_path=str(repository / "several"),
        file_system_poll_wait_seconds=0.02,
        drain_grace_seconds=0.0,
    )
    server = Server(config, load=FakeLoader())
    server.start()
    with Client(f"127.0.0.1:{server.addresses[0].rpartition(':')[2]}", protocol="v2") as client:
        client.wait_until_ready("m", version=1, timeout=TIMEOUT_S)
    server.stop()


def test_a_larger_request_than_the_config_allows_is_refused(repository: Path) -> None:
    (repository / "plain" / "config.pbtxt").write_text("max_batch_size: 2 dynamic_batching { }")
    with serving(repository) as (_, client):
        assert len(client.predict("plain", np.ones((2, 2), np.float32))["y"]) == 2
        with pytest.raises(InvalidInput, match="2"):
            client.predict("plain", np.ones((3, 2), np.float32))


class TestWarmUp:
    def warmed(self, repository: Path, config: str) -> FakeServable:
        (repository / "plain" / "config.pbtxt").write_text(config)
        loader = FakeLoader()
        with serving(repository, loader, max_num_load_retries=0) as (_, client):
            assert names(client) == ["plain", "several"]
        return loader.loaded[ServableId("plain", 1)]

    def test_requests_run_before_the_version_takes_others(self, repository: Path) -> None:
        servable = self.warmed(
            repository,
            """
            model_warmup { name: "ones" batch_size: 3 count: 2
              inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 random_data: true } } }
            model_warmup { name: "zeros"
              inputs { key: "x" value { data_type: TYPE_FP32 dims: [1, 2] zero_data: true } } }
            """,
        )
        assert servable.batches == [3, 3, 1]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("data_type: TYPE_INT32 dims: [1, 2] zero_data: true", "expected float32 [-1, 2], got"),
            ("data_type: TYPE_FP32 dims: [1, 3] zero_data: true", "got float32 [1, 3]"),
            ('data_type: TYPE_FP32 dims: [1, 2] input_data_file: "x"', "warmup/x: can't be read"),
        ],
    )
    def test_a_request_that_does_not_fit_keeps_the_version_out(
        self, repository: Path, value: str, message: str
    ) -> None:
        (repository / "plain" / "config.pbtxt").write_text(
            f'model_warmup {{ name: "w" inputs {{ key: "x" value {{ {value} }} }} }}'
        )
        with serving(repository, max_num_load_retries=0) as (server, client):
            assert names(client) == ["several"]
            problem = server.manager.problem("plain")
        assert problem is not None
        assert 'model_warmup "w" of ' in problem
        assert message in problem

    def test_files_hold_raw_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "warmup").mkdir()
        (tmp_path / "config.pbtxt").write_text(
            """model_warmup { inputs {
              key: "s" value { data_type: TYPE_STRING dims: 2 input_data_file: "s" } } }"""
        )
        data = struct.pack("<I2sI1s", 2, b"ab", 1, b"c")
        # The struct aligns nothing in "<" order, so it is what the protocol has.
        (tmp_path / "warmup" / "s").write_bytes(data)
        seen: list[list[bytes]] = []

        def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
            seen.append(inputs["s"].tolist())
            return {"n": np.zeros(2, np.float32)}

        signature = Signature("serving_default", {"s": spec(-1, data_type=STRING)}, {"n": spec(-1)})
        triton.warm_up(ServableId("m", 1), tmp_path / "1", FakeServable(run, (signature,)))
        assert seen == [[b"ab", b"c"]]


def test_labels_are_the_lines_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert triton.card(tmp_path) is None
    (tmp_path / "config.pbtxt").write_text(
        'output { name: "y" label_filename: "labels.txt" } optimization { } ensemble_scheduling { }'
    )
    (tmp_path / "labels.txt").write_text("ant\nbee \nc\u2028at\n\n", encoding="utf-8")
    assert triton.card(tmp_path) == ModelCard(labels=("ant", "bee", "c\u2028at", ""))
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told.endswith("config.pbtxt: without effect: ensemble_scheduling, optimization")
    (tmp_path / "labels.txt").write_bytes(b"")
    assert triton.card(tmp_path) == ModelCard()


def test_outputs_with_files_of_their_own_have_their_own_labels(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(
        'output { name: "y" label_filename: "a" } output { name: "z" label_filename: "b" }'
    )
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}1\n{name}2\n")
    card = triton.card(tmp_path)
    assert card is not None
    assert card.outputs == {"y": {"labels": ("a1", "a2")}, "z": {"labels": ("b1", "b2")}}
    assert ModelCard.from_json(card.to_json()).outputs["z"] == {"labels": ["b1", "b2"]}


@pytest.mark.parametrize(
    ("config", "card", "completed"),
    [
        (None, None, False),
        ("max_batch_size: 2", None, False),
        ('output { label_filename: "a" }', None, True),
        ('output { label_filename: "a" }', "{}", False),
        ('parameters { key: "TF_SIGNATURE_DEF" value { string_value: "s" } }', "{}", True),
    ],
)
def test_what_a_load_adds_is_not_read_without_one(
    tmp_path: Path, config: str | None, card: str | None, completed: bool
) -> None:
    if config is not None:
        (tmp_path / "config.pbtxt").write_text(config)
    assert triton.completes(tmp_path, card) is completed


class TwoSignatures(FakeLoader):
    """Loads models that double by default, and can triple."""

    def __call__(self, servable_id: ServableId, path: Path) -> FakeServable:
        triple = Signature("triple", {"x": spec(-1, 2)}, {"tripled": spec(-1, 2)})
        return FakeServable(
            lambda inputs: {"y": 2 * inputs["x"], "tripled": 3 * inputs["x"]}, (DOUBLE, triple)
        )


class TestSignature:
    """TF_SIGNATURE_DEF."""

    CONFIG = 'parameters { key: "TF_SIGNATURE_DEF" value { string_value: "triple" } }'

    def test_requests_that_name_none_get_it(self, repository: Path) -> None:
        (repository / "plain" / "config.pbtxt").write_text(self.CONFIG)
        with serving(repository, TwoSignatures()) as (_, client):
            assert [*client.predict("plain", np.ones((1, 2), np.float32))] == ["tripled"]

    def test_a_model_without_it_is_not_served(self, repository: Path) -> None:
        (repository / "plain" / "config.pbtxt").write_text(self.CONFIG)
        with serving(repository, max_num_load_retries=0) as (server, client):
            assert names(client) == ["several"]
            problem = server.manager.problem("plain")
        assert problem is not None
        assert "TF_SIGNATURE_DEF: expected one of ['serving_default'], got \"triple\"" in problem
