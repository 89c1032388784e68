from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock, FakeLoader

from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.model_set import ModelSet
from ladle.server.core.sources.file_system import FileSystemSource


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(clock: FakeClock) -> Manager:
    return Manager(FakeLoader(), clock=clock)


@pytest.fixture
def pool(manager: Manager) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
        manager.stop(0)


def test_where_nothing_is_to_be_waited_for_no_place_among_those_who_wait_is_needed(
    manager: Manager, clock: FakeClock, pool: ThreadPoolExecutor
) -> None:
    """So a bad model for which others wait can be taken out, and the caller hears that it was."""
    models = ModelSet(manager, FileSystemSource(manager, poll_wait_s=-1), clock=clock)
    manager.expect("late")
    waiting = [pool.submit(models.wait_for, ["late"], None) for _ in range(4)]
    clock.wait_until_sleeping(4)
    manager.aspire("up", {1: Path("/up/1")})
    assert manager.wait_until_settled(["up"], TIMEOUT_S)
    manager.report("bad", "no versions", final=True)

    models.wait_for([], None)
    models.wait_for(["up"], None)
    with pytest.raises(ServingError, match="did not become available") as refused:
        models.wait_for(["bad", "up"], None)
    assert refused.value.code is Code.UNKNOWN
    assert "{bad: it was taken out again}" in refused.value.message
    with pytest.raises(Unavailable, match="4 callers wait for models to load already"):
        models.wait_for(["up", "late"], None)

    manager.aspire("late", {1: Path("/late/1")})
    for waited in waiting:
        waited.result(TIMEOUT_S)
