"""Versions of a manager beside which other processes serve the same."""

from __future__ import annotations

import threading
from pathlib import Path

from fakes import TIMEOUT_S, FakeLoader

from ladle.server.core.errors import NotFound, ServingError
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.lifecycle.states import State
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId

ONE, TWO = {1: Path("/m/1")}, {2: Path("/m/2")}


class Others:
    """Other processes, which are as far as they are told to be."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.have_failed: list[ServableId] = []
        self._may_go_on = threading.Semaphore(0)

    def go_on(self, times: int = 1) -> None:
        self._may_go_on.release(times)

    def loaded(self, servable_id: ServableId) -> None:
        self.asked.release()
        assert self._may_go_on.acquire(timeout=TIMEOUT_S)

    leaving = loaded

    def failed(self, servable_id: ServableId) -> None:
        self.have_failed.append(servable_id)


def become(manager: Manager, **expected: State) -> None:
    def is_so() -> bool:
        return {f"v{s.version}": s.state for s in manager.status("m")} == expected

    assert manager.wait_until(is_so, TIMEOUT_S)


def answers(manager: Manager, version: int) -> bool:
    try:
        with manager.acquire("m", version):
            return True
    except NotFound:
        return False


def test_a_version_is_available_once_the_others_have_it_and_the_old_one_serves_till_then() -> None:
    others = Others()
    manager = Manager(FakeLoader(), others=others)
    others.go_on()
    manager.aspire("m", ONE)
    become(manager, v1=State.AVAILABLE)
    assert others.asked.acquire(timeout=TIMEOUT_S)

    manager.aspire("m", TWO)
    assert others.asked.acquire(timeout=TIMEOUT_S)  # version 2 is loaded, and waits
    become(manager, v1=State.AVAILABLE, v2=State.LOADING)
    assert (answers(manager, 1), answers(manager, 2)) == (True, False)
    others.go_on()
    assert others.asked.acquire(timeout=TIMEOUT_S)  # version 1 is to go, and waits
    become(manager, v1=State.UNLOADING, v2=State.AVAILABLE)
    assert (answers(manager, 1), answers(manager, 2)) == (True, True)
    others.go_on()
    become(manager, v1=State.END, v2=State.AVAILABLE)
    assert not answers(manager, 1)


def test_one_that_waits_for_the_others_holds_up_no_other_load() -> None:
    others = Others()
    manager = Manager(FakeLoader(), ManagerOptions(max_concurrent_loads=1), others=others)
    manager.aspire("m", ONE)
    assert others.asked.acquire(timeout=TIMEOUT_S)
    manager.aspire("n", ONE)
    assert others.asked.acquire(timeout=TIMEOUT_S)
    others.go_on(2)
    assert manager.wait_until_settled(["m", "n"], TIMEOUT_S)


def test_the_others_hear_of_a_load_that_fails() -> None:
    def load(servable_id: ServableId, path: Path) -> Servable:
        raise ServingError("bad file")

    others = Others()
    manager = Manager(load, others=others)
    manager.aspire("m", ONE)
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    assert others.have_failed == [ServableId("m", 1)]
