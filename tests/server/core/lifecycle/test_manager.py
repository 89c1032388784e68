from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable

from ladle.server.core.errors import Code, InvalidArgument, NotFound, ServingError
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.lifecycle.states import State
from ladle.server.core.servable_id import ServableId

ONE = {1: Path("/m/1")}
TWO = {2: Path("/m/2")}


def wait_for(manager: Manager, condition: Callable[[], bool]) -> None:
    """Block until the manager's state makes `condition` true."""
    assert manager.wait_until(condition, TIMEOUT_S)


def states(manager: Manager, name: str = "m") -> dict[int, State]:
    return {status.version: status.state for status in manager.status(name)}


def become(manager: Manager, expected: dict[int, State]) -> None:
    wait_for(manager, lambda: states(manager) == expected)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def manager(loader: FakeLoader) -> Manager:
    return Manager(loader)


def servable(loader: FakeLoader, version: int, name: str = "m") -> FakeServable:
    return loader.loaded[ServableId(name, version)]


def test_an_aspired_version_is_loaded_and_can_be_had(manager: Manager, loader: FakeLoader) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})

    with manager.acquire("m") as latest, manager.acquire("m", 1) as first:
        assert latest.id == first.id == ServableId("m", 1)
        assert latest.servable is servable(loader, 1)


def test_what_is_not_available_is_not_found_in_upstreams_words(manager: Manager) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})

    with pytest.raises(NotFound, match=r"Servable not found for request: Latest\(x\)"):
        manager.acquire("x")
    with pytest.raises(NotFound, match=r"Servable not found for request: Specific\(m, 2\)"):
        manager.acquire("m", 2)


def test_the_old_version_serves_until_the_new_one_does(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    let_load = loader.hold("m", 2)

    manager.aspire("m", TWO)
    become(manager, {1: State.AVAILABLE, 2: State.LOADING})
    with manager.acquire("m") as handle:
        assert handle.id.version == 1

    let_load.set()
    become(manager, {1: State.END, 2: State.AVAILABLE})
    with manager.acquire("m") as handle:
        assert handle.id.version == 2


def test_a_version_is_closed_only_after_its_last_handle(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    first, second = manager.acquire("m"), manager.acquire("m", 1)

    manager.aspire("m", TWO)
    become(manager, {1: State.UNLOADING, 2: State.AVAILABLE})
    with pytest.raises(NotFound):
        manager.acquire("m", 1)
    first.release()
    assert not servable(loader, 1).closed.is_set()

    second.release()
    become(manager, {1: State.END, 2: State.AVAILABLE})
    assert servable(loader, 1).closed.is_set()


def test_a_handle_on_one_model_does_not_hold_up_another(
    manager: Manager, loader: FakeLoader
) -> None:
    """Upstream's map is one object for all models, so there a slow request delays every swap."""
    manager.aspire("slow", {1: Path("/slow/1")})
    wait_for(manager, lambda: states(manager, "slow") == {1: State.AVAILABLE})
    with manager.acquire("slow"):
        manager.aspire("m", ONE)
        become(manager, {1: State.AVAILABLE})
        manager.aspire("m", TWO)
        become(manager, {1: State.END, 2: State.AVAILABLE})


def test_a_load_that_hangs_does_not_hold_up_another_model(
    manager: Manager, loader: FakeLoader
) -> None:
    let_load = loader.hold("slow", 1)
    manager.aspire("slow", {1: Path("/slow/1")})

    manager.aspire("m", ONE)

    become(manager, {1: State.AVAILABLE})
    let_load.set()


def test_a_failed_load_leaves_the_old_version_and_says_why(
    manager: Manager, loader: FakeLoader
) -> None:
    loader.failures[ServableId("m", 2)] = InvalidArgument("no good")
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})

    manager.aspire("m", TWO)
    become(manager, {1: State.AVAILABLE, 2: State.END})

    error = manager.status("m")[0].error
    assert error is not None
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "no good")
    with manager.acquire("m") as handle:
        assert handle.id.version == 1


def test_a_loader_that_breaks_is_an_internal_error(manager: Manager, loader: FakeLoader) -> None:
    loader.failures[ServableId("m", 1)] = RuntimeError("bug")
    manager.aspire("m", ONE)
    become(manager, {1: State.END})

    error = manager.status("m")[0].error
    assert isinstance(error, ServingError)
    assert error.code is Code.INTERNAL


def test_a_failed_version_is_loaded_again_once_it_was_left_out_or_moved(
    manager: Manager, loader: FakeLoader
) -> None:
    loader.failures[ServableId("m", 1)] = InvalidArgument("no good")
    manager.aspire("m", ONE)
    become(manager, {1: State.END})
    manager.aspire("m", ONE)
    assert len(loader.attempts) == 1

    manager.aspire("m", {})
    manager.aspire("m", ONE)
    wait_for(manager, lambda: len(loader.attempts) == 2 and states(manager) == {1: State.END})

    loader.failures.clear()
    manager.aspire("m", {1: Path("/elsewhere/1")})
    become(manager, {1: State.AVAILABLE})


def test_a_version_that_is_aspired_again_while_it_unloads_comes_back(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    first = servable(loader, 1)
    handle = manager.acquire("m")
    manager.aspire("m", {})
    become(manager, {1: State.UNLOADING})

    manager.aspire("m", ONE)
    handle.release()

    become(manager, {1: State.AVAILABLE})
    assert first.closed.is_set()
    assert servable(loader, 1) is not first


def test_a_version_left_out_before_its_load_began_ends_as_cancelled(
    manager: Manager, loader: FakeLoader
) -> None:
    let_load = loader.hold("m", 2)
    manager.aspire("m", ONE | TWO)
    become(manager, {1: State.START, 2: State.LOADING})

    manager.aspire("m", TWO)
    become(manager, {1: State.END, 2: State.LOADING})

    error = manager.status("m")[1].error
    assert error is not None
    assert error.code is Code.CANCELLED
    let_load.set()


def test_a_version_left_out_while_it_loads_is_unloaded_again(
    manager: Manager, loader: FakeLoader
) -> None:
    let_load = loader.hold("m", 1)
    manager.aspire("m", ONE)
    manager.aspire("m", {})
    let_load.set()

    become(manager, {1: State.END})
    assert servable(loader, 1).closed.is_set()


def test_resources_first_frees_the_old_version_before_the_new_one_loads(
    loader: FakeLoader,
) -> None:
    manager = Manager(loader, ManagerOptions(policy="resource_preserving"))
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    handle = manager.acquire("m")

    manager.aspire("m", TWO)
    become(manager, {1: State.UNLOADING, 2: State.START})
    assert not manager.wait_until_settled(["m"], timeout_s=0)

    handle.release()
    become(manager, {1: State.END, 2: State.AVAILABLE})


def test_the_status_forgets_old_endings(manager: Manager) -> None:
    for version in range(1, 40):
        manager.aspire("m", {version: Path(f"/m/{version}")})
        wait_for(manager, lambda v=version: states(manager).get(v) is State.AVAILABLE)  # type: ignore[misc]
    wait_for(manager, lambda: not manager.transitions)

    assert states(manager)[39] is State.AVAILABLE
    assert len(states(manager)) <= 18


def test_stop_waits_for_the_last_handle_within_its_bound(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    handle = manager.acquire("m")

    assert not manager.stop(timeout_s=0)

    handle.release()
    assert manager.stop(timeout_s=TIMEOUT_S)
    assert servable(loader, 1).closed.is_set()


def test_handles_and_swaps_race_without_a_failure(manager: Manager, loader: FakeLoader) -> None:
    """Whoever asks for the latest version always gets one, and it is open while it is held."""
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    stopped = threading.Event()
    seen: set[int] = set()
    failures: list[BaseException] = []

    def take_handles() -> None:
        try:
            while not stopped.is_set():
                with manager.acquire("m") as handle:
                    assert isinstance(handle.servable, FakeServable)
                    assert not handle.servable.closed.is_set()
                    seen.add(handle.id.version)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=take_handles) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 22):
        manager.aspire("m", {version: Path(f"/m/{version}")})
        wait_for(manager, lambda v=version: states(manager)[v] is State.AVAILABLE)  # type: ignore[misc]
    stopped.set()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert failures == []
    assert len(seen) > 1


def test_a_label_of_the_folder_waits_for_its_version_and_leaves_with_it(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    manager.label("m", {"stable": 1, "next": 2})
    assert manager.labels("m") == {"stable": 1}
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: next"):
        manager.labelled("m", "next")

    let_load = loader.hold("m", 2)
    manager.aspire("m", {**ONE, **TWO})
    manager.label("m", {"stable": 2, "next": 2})
    assert manager.labels("m") == {"stable": 1}  # until 2 is there
    let_load.set()
    become(manager, {1: State.AVAILABLE, 2: State.AVAILABLE})
    assert manager.labels("m") == {"stable": 2, "next": 2}

    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE, 2: State.END})
    assert manager.labels("m") == {}


def test_labels_of_the_folder_count_only_where_none_are_configured(manager: Manager) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    manager.label("m", {"stable": 1})
    manager.set_labels({"m": {"old": 7}})
    assert manager.labels("m") == {"old": 7}
    manager.set_labels({"m": {}})
    assert manager.labelled("m", "stable") == 1
    manager.withdraw("m")
    assert manager.labels("m") == {}
