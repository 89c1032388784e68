from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader
from transports import MakeTransport

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rpc.services import methods


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def manager(loader: FakeLoader) -> Manager:
    """A manager that serves version 3 of the model `m`."""
    manager = Manager(loader)
    manager.aspire("m", {3: Path("/m/3")})
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    return manager


@pytest.fixture
def channel(manager: Manager, make_transport: MakeTransport) -> Iterator[grpc.Channel]:
    """A channel to a real gRPC server in this process, over the loopback."""
    transport = make_transport(methods(manager, tensor_content=False), max_threads=4)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    transport.stop(TIMEOUT_S)
