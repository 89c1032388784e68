"""What is asked of every server of a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, listening

from ladle.client import FleetError, NotFound, Retry, Unavailable
from ladle.client.calls.fleet import Fleet, results_or_raise
from ladle.protos import ladle_pb

NOBODY = "127.0.0.1:1"


@pytest.fixture
def fleet() -> Iterator[tuple[list[FakeServing], list[str]]]:
    """Three servers, and their addresses."""
    servers = [FakeServing({}) for _ in range(3)]
    with ExitStack() as stack:
        yield servers, [stack.enter_context(listening(server)) for server in servers]


@pytest.mark.parametrize("client_class", CLIENTS)
class TestEverywhere:
    def test_every_server_answers(self, client_class: Any, fleet: Any) -> None:
        servers, addresses = fleet
        servers[1].is_healthy = False
        for number, server in enumerate(servers):
            model = ladle_pb.Model()
            model.config.name = f"m{number}"
            server.models = [model]
        with client_class(addresses) as client:
            health = client.health_everywhere()
            assert health == dict(zip(addresses, [True, False, True], strict=True))
            models = client.models_everywhere()
            assert [models[address][0].name for address in addresses] == ["m0", "m1", "m2"]
            told = client.reload_everywhere({"m": "/models/m"})
            assert told == dict.fromkeys(addresses)
        assert [len(server.reloaded) for server in servers] == [1, 1, 1]

    def test_a_server_that_is_gone_keeps_nobody_from_answering(
        self, client_class: Any, fleet: Any
    ) -> None:
        _, addresses = fleet
        retry = Retry(max_attempts=2, initial_backoff_s=0.001)
        with client_class([*addresses, NOBODY], retry=retry) as client:
            with pytest.raises(
                FleetError, match=rf"health failed at 1 of 4 servers: {NOBODY}: .*UNAVAILABLE"
            ) as caught:
                client.health_everywhere()
            assert caught.value.results == dict.fromkeys(addresses, True)
            assert [*caught.value.errors] == [NOBODY]
            assert isinstance(caught.value.errors[NOBODY], Unavailable)
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE
            assert "\n" not in str(caught.value)

    def test_who_reloaded_and_who_did_not_is_told(self, client_class: Any, fleet: Any) -> None:
        servers, addresses = fleet
        servers[2].reload_status.error_code = 5
        servers[2].reload_status.error_message = "no such folder"
        with (
            client_class(addresses) as client,
            pytest.raises(
                FleetError, match=r"reload failed at 1 of 3 servers: .*no such folder"
            ) as e,
        ):
            client.reload_everywhere({"m": "/models/m"})
        assert [*e.value.results] == addresses[:2]
        assert isinstance(e.value.errors[addresses[2]], NotFound)

    def test_mistakes_are_the_programs(self, client_class: Any, fleet: Any) -> None:
        with (
            client_class(fleet[1]) as client,
            pytest.raises(ValueError, match="expected a name and a base path"),
        ):
            client.reload_everywhere({"": "/models/m"})


def test_errors_of_several_kinds_are_listed_up_to_a_bound() -> None:
    failures = {f"a:{n}": NotFound("no") if n else Unavailable("gone") for n in range(9)}
    with pytest.raises(FleetError) as caught:
        results_or_raise("it", failures)
    assert str(caught.value) == (
        "it failed at 9 of 9 servers: a:0: gone; a:1: no; a:2: no; a:3: no; a:4: no; and 4 more"
    )
    assert caught.value.code is grpc.StatusCode.UNKNOWN


def test_one_address_of_a_fleet_is_picked_whatever_it_did() -> None:
    fleet = Fleet(["a:1", "b:1"], retry=Retry())
    only = fleet.only(1)
    only.failed(1, grpc.StatusCode.UNAVAILABLE, 10.0)
    assert [only.pick(set(), 10.0) for _ in range(3)] == [1, 1, 1]
    assert not only.has_untried({1})
    assert [fleet.pick(set(), 10.0) for _ in range(3)] == [0, 0, 0]
