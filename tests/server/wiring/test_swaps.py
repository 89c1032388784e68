"""What a whole server does so that requests don't feel a swap, with models without TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeServable

from ladle.server import Config, Server
from ladle.server.core.machine.slices import SHORT_S
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.wiring.loading import ModelLoader


class Compiled(FakeServable):
    """A model of which one signature has run."""

    def __init__(self) -> None:
        super().__init__()
        self.used = [(DOUBLE.name, ("y",))]
        self.compiled: list[tuple[str, tuple[str, ...]]] = []

    def compile(self, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.compiled.append((signature.name, outputs))


@contextmanager
def serving(base_path: Path, load: ModelLoader, *, owns_process: bool = False) -> Iterator[Server]:
    """Serve what is there, and what comes."""
    config = Config(
        port=None,
        model_name="m",
        model_base_path=str(base_path),
        file_system_poll_wait_seconds=0.01,
        drain_grace_seconds=0.0,
    )
    server = Server(config, load=load, listens=False, owns_process=owns_process)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def wait_until_available(server: Server, version: int) -> None:
    manager = server.manager
    assert manager.wait_until(lambda: manager.is_available("m", version), TIMEOUT_S)


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """The base path of a model with version 1."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    return tmp_path / "m"


def test_what_has_run_is_compiled_before_the_next_version_is_available(base_path: Path) -> None:
    models: dict[int, Compiled] = {}

    def load(servable_id: ServableId, path: Path) -> Compiled:
        return models.setdefault(servable_id.version, Compiled())

    with serving(base_path, load) as server:
        (base_path / "2").mkdir()
        wait_until_available(server, 2)
        compiled = {version: list(model.compiled) for version, model in models.items()}

    assert compiled == {1: [], 2: [(DOUBLE.name, ("y",))]}


@pytest.mark.parametrize("owns_process", [True, False])
def test_only_a_server_in_its_own_process_shortens_slices_and_only_while_it_loads(
    base_path: Path, owns_process: bool
) -> None:
    usual_s, while_loading_s = sys.getswitchinterval(), []

    def load(servable_id: ServableId, path: Path) -> FakeServable:
        while_loading_s.append(sys.getswitchinterval())
        return FakeServable()

    with serving(base_path, load, owns_process=owns_process) as server:
        wait_until_available(server, 1)
        assert sys.getswitchinterval() == usual_s

    expected_s = min(usual_s, SHORT_S) if owns_process else usual_s
    assert while_loading_s == [pytest.approx(expected_s)]
