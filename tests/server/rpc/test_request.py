"""Finding what a request names, while it is on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock, FakeLoader

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import Cancelled, DeadlineExceeded, InvalidArgument, Unavailable
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.rpc.request import ExpectedVersion, find_version

ONE = {1: Path("/m/1")}
LATEST = ModelSpec(name="m")
STABLE = ModelSpec(name="m", version_label="stable")


def acquire(
    manager: Manager,
    spec: ModelSpec,
    deadline: float | None,
    on_end: Callable[[Callable[[], None]], None] | None = None,
) -> Handle:
    """Take the version now, or wait for it, as a call does in a thread."""
    found = find_version(manager, spec)
    return found.wait(deadline, on_end) if isinstance(found, ExpectedVersion) else found


class Harness:
    """A manager that expects the model `m`, and who asks for it in threads."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.clock = FakeClock()
        self.loader = FakeLoader()
        self.manager = Manager(self.loader, clock=self.clock)
        self.manager.expect("m")
        self.leave: list[Callable[[], None]] = []
        self._pool = pool

    def waiting(self, spec: ModelSpec, deadline: float | None = None) -> Future[Handle]:
        """Return the handle that there will be, once it is waited for."""
        asked = self._pool.submit(acquire, self.manager, spec, deadline, self.leave.append)
        self.clock.wait_until_sleeping(1)
        return asked


@pytest.fixture
def setting() -> Iterator[Harness]:
    with ThreadPoolExecutor(1) as pool:
        setting = Harness(pool)
        yield setting
        setting.manager.stop(0)


def test_a_label_of_the_folder_is_waited_for_as_a_version_is(setting: Harness) -> None:
    """Which labels there are is known only when their versions are available."""
    handle = setting.waiting(STABLE)
    setting.manager.label("m", {"stable": 1})
    setting.manager.aspire("m", ONE)

    with handle.result(TIMEOUT_S) as stable:
        assert stable.id.version == 1


def test_a_label_that_did_not_come_is_refused_as_any_other(setting: Harness) -> None:
    handle = setting.waiting(STABLE)
    setting.manager.aspire("m", ONE)

    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: stable"):
        handle.result(TIMEOUT_S)


def test_a_label_that_none_is_among_those_configured_is_refused_at_once(setting: Harness) -> None:
    setting.manager.set_labels({"m": {"canary": 1}})

    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: stable"):
        acquire(setting.manager, STABLE, None)


def test_a_caller_who_goes_waits_no_longer(setting: Harness) -> None:
    """Its place is another's: clients that give up and ask again would take them all."""
    handle = setting.waiting(LATEST)
    [leave] = setting.leave

    leave()

    with pytest.raises(Cancelled):
        handle.result(TIMEOUT_S)
    assert not setting.manager.waiting_requests


def test_a_caller_whose_deadline_has_passed_is_late_and_not_gone(setting: Harness) -> None:
    handle = setting.waiting(LATEST, deadline=setting.clock.now() + 1)
    [leave] = setting.leave

    setting.clock.advance(1)
    leave()

    with pytest.raises(DeadlineExceeded):
        handle.result(TIMEOUT_S)


def test_nothing_is_kept_for_a_caller_for_whom_there_is_no_place() -> None:
    """A stream lives on, and may have thousands of its requests refused."""
    manager = Manager(FakeLoader(), ManagerOptions(max_waiting_requests=0))
    manager.expect("m")
    leave: list[Callable[[], None]] = []

    with pytest.raises(Unavailable, match="0 requests wait already"):
        acquire(manager, LATEST, None, leave.append)

    assert not leave
    assert not manager.waiting_requests
