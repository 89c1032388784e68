"""What goes wrong with models, and who waits for them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from fakes import TIMEOUT_S, FakeClock, FakeLoader

from ladle.server.core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
)
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.lifecycle.states import State, retry_wait_s
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId

T = TypeVar("T")
ONE = {1: Path("/m/1")}
TWO = {2: Path("/m/2")}
BAD = InvalidArgument("no good")


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(loader: FakeLoader, clock: FakeClock) -> Manager:
    options = ManagerOptions(
        max_concurrent_loads=2,
        max_load_retries=2,
        longest_retry_wait_s=1.5,
        max_waiting_requests=1,
        longest_request_wait_s=60,
    )
    return Manager(loader, options, clock=clock)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def wait_for(manager: Manager, condition: Callable[[], bool]) -> None:
    assert manager.wait_until(condition, TIMEOUT_S)


def become(manager: Manager, expected: dict[int, State], name: str = "m") -> None:
    wait_for(manager, lambda: {s.version: s.state for s in manager.status(name)} == expected)


def waiting(manager: Manager, pool: ThreadPoolExecutor, ask: Callable[[], T]) -> Future[T]:
    """Return what `ask` will give, once it waits for a first version."""
    answer = pool.submit(ask)
    while not manager.waiting_requests and not answer.done():
        pass  # nobody is notified of it
    return answer


def test_waits_between_tries_double_up_to_the_bound() -> None:
    assert [retry_wait_s(attempt, 60) for attempt in (0, 1, 2, 5, 6, 99)] == [1, 2, 4, 32, 60, 60]
    assert retry_wait_s(0, -1) == 0


def test_a_failed_version_is_tried_again_after_a_second_and_so_often(
    manager: Manager, loader: FakeLoader, clock: FakeClock
) -> None:
    loader.failures[ServableId("m", 1)] = BAD
    manager.aspire("m", ONE)

    for attempts, wait_s in ((1, 1.0), (2, 1.5)):
        wait_for(manager, lambda n=attempts: len(loader.attempts) == n)  # type: ignore[misc]
        become(manager, {1: State.END})
        clock.wait_until_sleeping(1)
        clock.advance(wait_s)

    wait_for(manager, lambda: len(loader.attempts) == 3 and not manager.transitions)
    assert list(manager.failed("m")) == [1]
    assert manager.problem("m") == "no good"


def test_a_problem_names_what_failed_before_what_is_missing(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.report("m", "copying", final=False)
    assert manager.problem("m") == "copying"
    loader.failures[ServableId("m", 1)] = BAD
    manager.aspire("m", ONE)
    become(manager, {1: State.END})
    assert manager.problem("m") == "no good"
    manager.report("m", "version 2 is not whole", final=True)
    assert manager.problem("m") == "no good; version 2 is not whole"


def test_the_log_says_where_a_bad_file_lies_and_callers_hear_its_name(
    manager: Manager, loader: FakeLoader, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ServableId("m", 1)
    loader.failures[bad] = InvalidArgument("/srv/models/m/1/warmup is damaged")
    manager.aspire("m", {1: Path("/srv/models/m/1")})
    wait_for(manager, lambda: manager.problem("m") is not None)
    assert manager.problem("m") == "m/1/warmup is damaged"
    assert "error=/srv/models/m/1/warmup is damaged" in caplog.text


def test_nothing_is_kept_of_a_load_that_failed_but_its_message() -> None:
    """The error is kept for as long as the version is remembered."""

    class Graph:
        pass

    loading: list[weakref.ref[Graph]] = []

    def load(_id: ServableId, _path: Path) -> Servable:
        graph = Graph()
        loading.append(weakref.ref(graph))
        try:
            raise ValueError("no such operation")
        except ValueError as error:
            raise InvalidArgument("can't be loaded") from error

    manager = Manager(load, ManagerOptions(max_load_retries=0))
    manager.aspire("m", ONE)
    become(manager, {1: State.END})

    assert manager.problem("m") == "can't be loaded"
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    wait_for(manager, lambda: not manager.transitions)
    assert loading[0]() is None


def test_a_retry_brings_the_version_up(
    manager: Manager, loader: FakeLoader, clock: FakeClock
) -> None:
    loader.failures[ServableId("m", 1)] = BAD
    manager.aspire("m", ONE)
    become(manager, {1: State.END})
    clock.wait_until_sleeping(1)
    loader.failures.clear()

    clock.advance(1)

    become(manager, {1: State.AVAILABLE})
    assert manager.problem("m") is None


def test_a_version_left_out_is_not_tried_again(manager: Manager, loader: FakeLoader) -> None:
    loader.failures[ServableId("m", 1)] = BAD
    manager.aspire("m", ONE)
    become(manager, {1: State.END})

    manager.aspire("m", TWO)

    become(manager, {1: State.END, 2: State.AVAILABLE})
    wait_for(manager, lambda: not manager.transitions)
    assert loader.attempts.count(ServableId("m", 1)) == 1


def test_changed_files_are_reason_to_load_at_once(manager: Manager, loader: FakeLoader) -> None:
    loader.failures[ServableId("m", 1)] = BAD
    manager.aspire("m", ONE)
    become(manager, {1: State.END})
    loader.failures.clear()

    manager.retry("m", 1)
    become(manager, {1: State.AVAILABLE})
    manager.retry("m", 1)
    manager.retry("m", 2)
    manager.retry("x", 1)
    assert len(loader.attempts) == 2, "only what has failed"


def test_no_more_versions_load_at_a_time_than_may(manager: Manager, loader: FakeLoader) -> None:
    let_load = [loader.hold(name, 1) for name in "abc"]
    for name in "abc":
        manager.aspire(name, {1: Path(f"/{name}/1")})
    become(manager, {1: State.LOADING}, "a")
    become(manager, {1: State.LOADING}, "b")
    become(manager, {1: State.START}, "c")

    let_load[0].set()

    become(manager, {1: State.AVAILABLE}, "a")
    become(manager, {1: State.LOADING}, "c")
    for event in let_load:
        event.set()
    become(manager, {1: State.AVAILABLE}, "c")


def test_a_request_waits_for_the_first_version(
    manager: Manager, loader: FakeLoader, pool: ThreadPoolExecutor
) -> None:
    let_load = loader.hold("m", 1)
    manager.expect("m")
    answer = waiting(manager, pool, lambda: manager.wait_for_first("m", None))
    manager.aspire("m", ONE)
    become(manager, {1: State.LOADING})
    assert not answer.done()

    let_load.set()

    assert answer.result(TIMEOUT_S)
    assert manager.is_available("m")


@pytest.mark.parametrize(
    "cause", ["failed", "nothing there", "unknown", "withdrawn", "no source", "stopped"]
)
def test_nobody_waits_for_what_will_not_come(
    manager: Manager, loader: FakeLoader, pool: ThreadPoolExecutor, cause: str
) -> None:
    if cause != "unknown":
        manager.expect("m")
    answer = waiting(manager, pool, lambda: manager.wait_for_first("m", None))

    if cause == "failed":
        loader.failures[ServableId("m", 1)] = BAD
        manager.aspire("m", ONE)
    elif cause == "nothing there":
        manager.report("m", "no versions", final=True)
    elif cause == "withdrawn":
        manager.withdraw("m")
    elif cause == "no source":
        manager.source_stopped()
    elif cause == "stopped":
        manager.stop(timeout_s=0)

    assert not answer.result(TIMEOUT_S)


def test_what_loads_when_the_source_stops_is_still_waited_for(
    manager: Manager, loader: FakeLoader, pool: ThreadPoolExecutor
) -> None:
    let_load = loader.hold("m", 1)
    manager.aspire("m", ONE)
    answer = waiting(manager, pool, lambda: manager.wait_for_first("m", None))

    manager.source_stopped()
    let_load.set()

    assert answer.result(TIMEOUT_S)


def test_a_label_of_the_folder_may_come_with_the_first_version(
    manager: Manager, loader: FakeLoader
) -> None:
    """So a request for it waits, as any other does."""
    manager.expect("m")
    with pytest.raises(NotFound):
        manager.labelled("m", "stable")
    let_load = loader.hold("m", 1)
    manager.label("m", {"stable": 1})
    manager.aspire("m", ONE)
    with pytest.raises(NotFound):
        manager.labelled("m", "stable")

    let_load.set()
    become(manager, {1: State.AVAILABLE})

    assert manager.labelled("m", "stable") == 1
    with pytest.raises(InvalidArgument):
        manager.labelled("m", "other")


def test_nobody_waits_once_any_version_is_there(manager: Manager, loader: FakeLoader) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    let_load = loader.hold("m", 2)
    manager.aspire("m", ONE | TWO)

    assert manager.wait_for_first("m", None)
    with pytest.raises(NotFound):
        manager.acquire("m", 2)
    let_load.set()


@pytest.mark.parametrize(("deadline_s", "error"), [(5, DeadlineExceeded), (None, Unavailable)])
def test_waiting_ends_with_the_deadline_or_the_bound(
    manager: Manager,
    clock: FakeClock,
    pool: ThreadPoolExecutor,
    deadline_s: float | None,
    error: type[ServingError],
) -> None:
    manager.expect("m")
    deadline = None if deadline_s is None else clock.now() + deadline_s
    answer = waiting(manager, pool, lambda: manager.wait_for_first("m", deadline))
    clock.wait_until_sleeping(1)

    clock.advance(deadline_s or 60)

    with pytest.raises(error, match="model m is still loading"):
        answer.result(TIMEOUT_S)


def test_only_so_many_requests_wait(manager: Manager, pool: ThreadPoolExecutor) -> None:
    """Each holds a thread that the models which are up need."""
    manager.expect("m")
    first = waiting(manager, pool, lambda: manager.wait_for_first("m", None))

    with pytest.raises(Unavailable, match="1 requests wait already"):
        manager.wait_for_first("m", None)

    manager.withdraw("m")
    first.result(TIMEOUT_S)


def test_a_request_waits_out_a_swap_that_puts_resources_first(
    loader: FakeLoader, pool: ThreadPoolExecutor
) -> None:
    manager = Manager(loader, ManagerOptions(policy="resource_preserving"))
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    let_load = loader.hold("m", 2)
    manager.aspire("m", TWO)
    become(manager, {1: State.END, 2: State.LOADING})

    answer = waiting(manager, pool, lambda: manager.wait_for_first("m", None))
    let_load.set()

    assert answer.result(TIMEOUT_S)


def test_a_label_stands_for_its_version(manager: Manager) -> None:
    manager.set_labels({"m": {"stable": 1}})

    assert manager.labelled("m", "stable") == 1
    for name, label in (("m", "canary"), ("x", "stable")):
        with pytest.raises(InvalidArgument, match=f"Unrecognized servable version label: {label}"):
            manager.labelled(name, label)


def test_listeners_hear_of_changes_and_may_ask(manager: Manager) -> None:
    heard: list[tuple[str, bool]] = []
    up, down = threading.Event(), threading.Event()

    def listen(name: str) -> None:
        available = manager.is_available(name)
        heard.append((name, available))
        (up if available else down).set()

    manager.add_listener(listen)
    manager.aspire("m", ONE)
    assert up.wait(TIMEOUT_S)
    down.clear()
    manager.withdraw("m")
    assert down.wait(TIMEOUT_S)
    assert {name for name, _ in heard} == {"m"}


def test_who_waits_for_a_model_finds_the_listeners_told(manager: Manager) -> None:
    """The health service is one: a server that has started must not say that it serves nothing."""
    told: list[bool] = []
    waiter, let_loader_go_on = threading.current_thread(), threading.Event()

    def listen(name: str) -> None:
        if threading.current_thread() is not waiter:
            let_loader_go_on.wait(TIMEOUT_S)  # the loading thread gets here late
        elif manager.is_available(name):
            told.append(True)

    manager.add_listener(listen)
    manager.expect("m")
    manager.aspire("m", ONE)
    try:
        assert manager.wait_until_settled(["m"], TIMEOUT_S)
        assert told
    finally:
        let_loader_go_on.set()


def test_a_look_that_finds_nothing_new_tells_nobody(manager: Manager) -> None:
    """With a thousand models there are a thousand each second."""
    manager.expect("m")
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    wait_for(manager, lambda: not manager.transitions)
    heard: list[str] = []
    manager.add_listener(heard.append)

    manager.aspire("m", ONE)
    manager.report("m", None, final=True)
    manager.label("m", {})
    assert heard == []

    manager.report("m", "no version 2", final=True)
    manager.report("m", "no version 2", final=True)
    manager.report("m", None, final=True)
    assert heard == ["m", "m"]
    manager.withdraw("unseen")
    assert heard[2:] == ["unseen"]


def test_withdrawn_models_are_forgotten_in_time(manager: Manager) -> None:
    for number in range(100):
        name = f"m{number}"
        manager.expect(name)
        manager.aspire(name, ONE)
        become(manager, {1: State.AVAILABLE}, name)
        manager.withdraw(name)
        become(manager, {1: State.END}, name)
    wait_for(manager, lambda: not manager.transitions)
    manager.withdraw("m99")

    assert manager.status("m99")
    assert not manager.status("m0")
    assert len(manager.names()) <= 65


def test_models_that_are_forgotten_while_they_wait_to_load_hold_up_no_other(
    loader: FakeLoader,
) -> None:
    manager = Manager(loader, ManagerOptions(max_concurrent_loads=1))
    let_load = loader.hold("slow", 1)
    manager.aspire("slow", ONE)
    for number in range(100):
        manager.aspire(f"m{number}", ONE)
    for number in range(100):
        manager.withdraw(f"m{number}")
    assert not manager.status("m0")
    manager.aspire("last", ONE)

    let_load.set()

    become(manager, {1: State.AVAILABLE}, "last")


class Threads:
    """Lets the manager's threads start, or not, as on a machine that has no room for more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = True
        start = threading.Thread.start

        def start_or_fail(thread: threading.Thread) -> None:
            if not self.room and thread.name.startswith("_run_"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


def test_a_version_for_which_there_is_no_thread_loads_at_the_next_look(
    manager: Manager, loader: FakeLoader, threads: Threads
) -> None:
    manager.aspire("m", ONE)
    become(manager, {1: State.AVAILABLE})
    threads.room = False
    for _ in range(5):  # more often than loads may run at a time
        manager.aspire("m", ONE | TWO)
        error = manager.status("m")[0].error
        assert isinstance(error, Unavailable)
        assert "no thread can be had to load it" in error.message
    manager.aspire("new", ONE)
    assert manager.is_settled("new"), "health does not wait for it"

    threads.room = True
    manager.aspire("m", ONE | TWO)
    manager.aspire("new", ONE)

    become(manager, {1: State.AVAILABLE, 2: State.AVAILABLE})
    become(manager, {1: State.AVAILABLE}, "new")
    assert manager.problem("m") is None
    assert loader.attempts.count(ServableId("m", 2)) == 1


def test_a_load_that_ends_makes_room_for_what_had_no_thread(
    manager: Manager, loader: FakeLoader, threads: Threads
) -> None:
    """Without polling nothing else would come to it."""
    let_load = loader.hold("slow", 1)
    manager.aspire("slow", ONE)
    threads.room = False
    manager.aspire("m", ONE)
    become(manager, {1: State.END})
    threads.room = True

    let_load.set()

    become(manager, {1: State.AVAILABLE})


def test_a_version_that_no_thread_can_unload_serves_on_until_there_is_one(
    manager: Manager, loader: FakeLoader, threads: Threads
) -> None:
    for name in "mn":
        manager.aspire(name, ONE)
        become(manager, {1: State.AVAILABLE}, name)
    threads.room = False
    manager.withdraw("m")
    with manager.acquire("m") as handle:
        assert handle.id.version == 1

    threads.room = True
    manager.aspire("n", ONE)

    become(manager, {1: State.END})
    assert manager.stop(timeout_s=TIMEOUT_S)


def test_a_retry_takes_no_further_thread_until_it_is_due(
    manager: Manager, loader: FakeLoader, clock: FakeClock, threads: Threads
) -> None:
    loader.failures[ServableId("m", 1)] = BAD
    let_load = loader.hold("m", 1)
    manager.aspire("m", ONE)
    threads.room = False
    let_load.set()
    clock.wait_until_sleeping(1)
    threads.room = True
    loader.failures.clear()

    clock.advance(1)

    become(manager, {1: State.AVAILABLE})


def test_stop_does_not_wait_for_a_load_and_takes_in_nothing_more(
    manager: Manager, loader: FakeLoader
) -> None:
    let_load = loader.hold("m", 1)
    manager.aspire("m", ONE)

    assert not manager.stop(timeout_s=0), "something still runs"

    manager.aspire("n", ONE)
    assert manager.status("n") == []
    let_load.set()
    become(manager, {1: State.END})
    assert manager.stop(timeout_s=0)
