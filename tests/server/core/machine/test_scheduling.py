from __future__ import annotations

import os
import threading

import pytest

from ladle.server.core.machine.scheduling import starting_such_as_yield

linux = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has policies")


def policy_of_a_new_thread() -> int:
    policies: list[int] = []
    thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return policies[0]


@linux
def test_threads_that_start_yield_and_this_one_is_as_it_was() -> None:
    with starting_such_as_yield():
        inside = policy_of_a_new_thread()

    assert inside == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == policy_of_a_new_thread() == os.SCHED_OTHER


@linux
def test_where_the_system_refuses_all_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with starting_such_as_yield():
        assert policy_of_a_new_thread() == os.SCHED_OTHER
