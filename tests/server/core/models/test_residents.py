"""Loads on demand and unloads, on a clock that stands still: each step is made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock, FakeLoader

from ladle.server.core.errors import (
    Code,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.residency import ResidencyOptions
from ladle.server.core.models.residents import Residents
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.file_system import FileSystemSource


class Counted:
    """Notes that are counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def load_wanted(self, cause: str) -> None:
        self.counts[f"load {cause}"] += 1

    def model_unloaded(self, reason: str) -> None:
        self.counts[f"unload {reason}"] += 1

    def request_waited(self, seconds: float) -> None:
        self.counts["waited"] += 1


class Setting:
    """Models in a folder, and everything that loads them, without the residents' thread."""

    def __init__(self, folder: Path, pinned: str = "", **options: float) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.loader = FakeLoader()
        self.notes = Counted()
        self.manager = Manager(
            self.loader,
            ManagerOptions(max_waiting_requests=8, max_waiting_for_one=4),
            clock=self.clock,
        )
        self.source = FileSystemSource(self.manager, poll_wait_s=-1, clock=self.clock)
        self.residents = Residents(
            self.manager,
            self.source,
            ResidencyOptions(**options),  # type: ignore[arg-type]
            self.notes,
            pinned=pinned.split(),
            clock=self.clock,
        )
        self.manager.load_on_demand(self.residents)
        self.manager.add_listener(self.residents.model_changed)
        self.pool = ThreadPoolExecutor(16)

    def publish(self, *names: str, version: int = 1) -> None:
        for name in names:
            (self.folder / name / str(version)).mkdir(parents=True, exist_ok=True)

    def know(self, *names: str) -> None:
        self.publish(*names)
        self.residents.set_models({name: ModelConfig(name, self.folder / name) for name in names})

    def ask(self, name: str, timeout_s: float | None = None) -> int:
        """Return the version that answers, as a request finds it."""
        try:
            handle = self.manager.acquire(name)
        except NotFound:
            deadline = None if timeout_s is None else self.clock.now() + timeout_s
            self.manager.wait_for_first(name, deadline)
            handle = self.manager.acquire(name)
        with handle:
            return handle.id.version

    def loaded(self) -> set[str]:
        return {entry.id.name for entry in self.manager.available()}

    def wait_until_gone(self, *names: str) -> None:
        ids = [ServableId(name, 1) for name in names]
        assert self.manager.wait_until(lambda: not any(map(self.manager.holds, ids)), TIMEOUT_S)

    def age(self, seconds: float = 31.0) -> None:
        """Let time pass, seen from before it and after it."""
        self.residents.step()
        self.clock.advance(seconds)
        self.residents.step()

    def close(self) -> None:
        self.pool.shutdown()
        self.source.stop()
        self.manager.stop(0)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[list[Setting]]:
    made: list[Setting] = []
    yield made
    for setting in made:
        setting.close()


@pytest.fixture
def two(tmp_path: Path, settings: list[Setting]) -> Setting:
    """Two of four models may be loaded."""
    setting = Setting(tmp_path, max_models=2)
    settings.append(setting)
    setting.know("a", "b", "c", "d")
    return setting


def make(settings: list[Setting], folder: Path, pinned: str = "", **options: float) -> Setting:
    setting = Setting(folder, pinned, **options)
    settings.append(setting)
    return setting


def test_nothing_is_loaded_or_scanned_before_somebody_asks(two: Setting) -> None:
    assert two.loader.attempts == []
    assert two.residents.known == 4
    assert two.residents.count == 0

    assert two.ask("a") == 1

    assert two.loader.attempts == [ServableId("a", 1)]
    assert two.loaded() == {"a"}
    assert two.notes.counts == {"load request": 1, "waited": 1}


def test_one_load_serves_all_who_wait_for_it(two: Setting) -> None:
    let_load = two.loader.hold("a", 1)
    asked = [two.pool.submit(two.ask, "a") for _ in range(4)]
    assert two.manager.wait_until(lambda: two.manager.waiting_requests == 4, TIMEOUT_S)
    let_load.set()

    assert [one.result(TIMEOUT_S) for one in asked] == [1] * 4
    assert two.loader.attempts == [ServableId("a", 1)]


def test_who_waits_is_bounded_for_each_model_and_the_deadline_holds(two: Setting) -> None:
    """A flood of requests for one slow model leaves places for those to another."""
    let_load = two.loader.hold("a", 1)
    asked = [two.pool.submit(two.ask, "a") for _ in range(4)]
    assert two.manager.wait_until(lambda: two.manager.waiting_requests == 4, TIMEOUT_S)

    with pytest.raises(Unavailable, match="4 requests wait already") as refused:
        two.ask("a")
    assert refused.value.reason == "loading"
    assert two.ask("b") == 1

    let_load.set()
    for one in asked:
        one.result(TIMEOUT_S)


def test_a_deadline_that_passes_while_the_model_loads_ends_the_wait(two: Setting) -> None:
    let_load = two.loader.hold("a", 1)
    late = two.pool.submit(two.ask, "a", 5.0)
    two.clock.wait_until_sleeping(1)
    two.clock.advance(5.0)

    with pytest.raises(DeadlineExceeded, match="model a is still loading"):
        late.result(TIMEOUT_S)
    let_load.set()
    assert two.ask("a") == 1
    assert len(two.loader.attempts) == 1


def test_the_least_recently_used_goes_once_the_new_one_has_loaded(two: Setting) -> None:
    for name in ("a", "b", "a"):
        two.ask(name)
    two.age()
    let_load = two.loader.hold("c", 1)
    asked = two.pool.submit(two.ask, "c")
    assert two.manager.wait_until(lambda: two.manager.waiting_for("c") == 1, TIMEOUT_S)
    two.residents.step()
    assert two.loaded() == {"a", "b"}, "nothing goes for what may not come"

    let_load.set()
    asked.result(TIMEOUT_S)
    two.residents.step()
    two.wait_until_gone("b")

    assert two.loaded() == {"a", "c"}
    assert two.notes.counts["unload room"] == 1


def test_a_look_at_a_model_is_no_use_of_it(two: Setting) -> None:
    """The status page looks at all models every two seconds."""
    two.ask("a")
    two.ask("b")
    two.manager.acquire("a", is_use=False).release()
    two.age()
    two.ask("c")
    two.residents.step()
    two.wait_until_gone("a")
    assert two.loaded() == {"b", "c"}


def test_no_model_with_requests_under_way_goes(two: Setting) -> None:
    two.ask("b")
    two.ask("a")
    handle = two.manager.acquire("b")
    two.ask("a")  # b is the least recently used, and in use
    two.age()
    two.ask("c")
    two.residents.step()
    two.wait_until_gone("a")
    assert two.loaded() == {"b", "c"}

    two.age()
    second = two.manager.acquire("c")
    with pytest.raises(ResourceExhausted) as refused:
        two.ask("d")
    assert refused.value.reason == "no_room"
    assert refused.value.retry_after_s == 1.0
    handle.release()
    second.release()
    assert two.ask("d") == 1


def test_models_that_take_turns_are_not_loaded_for_each_request(two: Setting) -> None:
    two.ask("a")
    two.ask("b")
    two.age(10.0)
    with pytest.raises(ResourceExhausted, match="try again in 20 s") as refused:
        two.ask("c")
    assert refused.value.retry_after_s == 20.0
    assert "--max_loaded_models allows, which is 2" in refused.value.message
    for _ in range(10):
        assert two.ask("a") == two.ask("b") == 1
    assert len(two.loader.attempts) == 2


def test_a_model_that_fails_is_not_loaded_for_each_request(two: Setting) -> None:
    bad = ServableId("a", 1)
    two.loader.failures[bad] = InvalidArgument("no good")
    for _ in range(3):
        with pytest.raises(ServingError) as refused:
            two.ask("a")
        assert refused.value.code is Code.FAILED_PRECONDITION
        assert "model a can't be loaded: no good; it is tried again after 1 s" in str(refused.value)
        assert refused.value.reason == "not_loaded"
    assert two.loader.attempts == [bad]
    assert two.residents.count == 0, "it takes no place"

    waits = []
    for _ in range(4):
        two.clock.advance(1.0)
        with pytest.raises(ServingError) as refused:
            two.ask("a")
        waits.append(len(two.loader.attempts))
    assert waits == [2, 2, 3, 3], "the second wait is twice as long"

    del two.loader.failures[bad]
    two.clock.advance(60.0)
    assert two.ask("a") == 1
    two.loader.failures[bad] = InvalidArgument("no good")
    assert two.ask("a") == 1


def test_a_model_that_comes_up_during_a_look_has_not_failed(
    two: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_load = two.loader.hold("a", 1)
    asked = two.pool.submit(two.ask, "a")
    assert two.manager.wait_until(lambda: two.manager.waiting_for("a") == 1, TIMEOUT_S)
    real = two.manager.is_settled

    def comes_up_first(name: str) -> bool:
        let_load.set()
        assert two.manager.wait_until(lambda: two.manager.is_available(name), TIMEOUT_S)
        return real(name)

    monkeypatch.setattr(two.manager, "is_settled", comes_up_first)
    two.residents.step()

    assert asked.result(TIMEOUT_S) == 1
    assert two.residents.count == 1


def test_callers_are_not_told_where_a_model_without_versions_lies(two: Setting) -> None:
    (two.folder / "a" / "1").rmdir()
    with pytest.raises(NotFound) as refused:
        two.ask("a")
    assert "a" in refused.value.message.split()
    assert str(two.folder) not in refused.value.message


def test_a_rescan_forgets_a_failure(two: Setting) -> None:
    bad = ServableId("a", 1)
    two.loader.failures[bad] = InvalidArgument("no good")
    with pytest.raises(ServingError):
        two.ask("a")
    del two.loader.failures[bad]

    assert two.residents.rescan("a")
    assert two.ask("a") == 1
    assert not two.residents.rescan("unknown")


def test_what_passes_by_itself_may_be_asked_again(two: Setting) -> None:
    two.loader.failures[ServableId("a", 1)] = Unavailable("no thread can be had")
    with pytest.raises(ServingError, match="no thread can be had") as refused:
        two.ask("a")
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.retry_after_s == 1.0


def test_a_model_without_versions_is_not_found_with_the_reason(two: Setting) -> None:
    (two.folder / "a" / "1").rmdir()
    with pytest.raises(
        NotFound, match=r"^Servable not found for request: Latest\(a\): no versions under base path"
    ):
        two.ask("a")
    assert two.residents.count == 0


def test_an_unknown_model_costs_no_look(two: Setting) -> None:
    two.publish("later")
    with pytest.raises(NotFound, match=r"^Servable not found for request: Latest\(later\)$"):
        two.ask("later")
    assert two.loader.attempts == []


def test_what_nobody_asks_for_goes_after_a_while(tmp_path: Path, settings: list[Setting]) -> None:
    setting = make(settings, tmp_path, idle_s=10.0)
    setting.know("a", "b")
    setting.ask("a")
    setting.ask("b")
    handle = setting.manager.acquire("b")
    setting.age(9.0)
    assert setting.loaded() == {"a", "b"}
    setting.age(1.0)
    setting.wait_until_gone("a")
    assert setting.loaded() == {"b"}, "a request holds it"

    setting.age(5.0)
    handle.release()
    setting.age(9.0)
    assert setting.loaded() == {"b"}
    setting.age(1.0)
    setting.wait_until_gone("b")
    assert setting.notes.counts["unload idle"] == 2
    assert setting.ask("a") == 1


def test_a_pinned_model_is_loaded_at_once_and_stays(
    tmp_path: Path, settings: list[Setting]
) -> None:
    setting = make(settings, tmp_path, "p", max_models=2, idle_s=10.0)
    setting.know("p", "a", "b")
    assert setting.manager.wait_until_settled(["p"], TIMEOUT_S)
    assert setting.residents.wanted == {"p"}
    setting.ask("a")
    setting.age(31.0)
    setting.wait_until_gone("a")
    setting.ask("a")
    assert setting.loaded() == {"p", "a"}
    setting.age(5.0)
    with pytest.raises(ResourceExhausted):
        setting.ask("b")


def test_one_that_comes_back_while_it_unloads_loads_afresh(two: Setting) -> None:
    """Its last request runs on when the next one asks."""
    two.ask("a")
    two.residents.step()
    handle = two.manager.acquire("a")
    two.residents.set_models({})
    assert two.manager.wait_until(
        lambda: two.manager.status("a")[0].state is State.UNLOADING, TIMEOUT_S
    )
    two.know("a", "b")
    asked = two.pool.submit(two.ask, "a")
    assert two.manager.wait_until(lambda: two.manager.waiting_for("a") == 1, TIMEOUT_S)
    handle.release()

    assert asked.result(TIMEOUT_S) == 1
    assert len(two.loader.attempts) == 2


def test_bytes_are_made_free_before_the_load(tmp_path: Path, settings: list[Setting]) -> None:
    setting = make(settings, tmp_path, max_bytes=100)
    setting.know("a", "b", "c")
    for name in ("a", "b"):
        setting.ask(name)
        assert setting.residents.make_room(ServableId(name, 1), 0) == []
        setting.residents.measured(ServableId(name, 1), 40)
    assert setting.residents.nbytes == 80
    with pytest.raises(ResourceExhausted, match="it takes about 30 bytes, and --max_loaded_bytes"):
        setting.residents.make_room(ServableId("c", 1), 30)
    setting.age()

    assert setting.residents.make_room(ServableId("c", 1), 30) == [ServableId("a", 1)]
    setting.wait_until_gone("a")
    setting.residents.measured(ServableId("c", 1), None)
    setting.residents.step()
    assert setting.residents.nbytes == 40
    assert setting.residents.make_room(ServableId("a", 1), 0) == []
    assert setting.residents.make_room(ServableId("a", 1), 0) == [], "what it takes counts once"
    assert setting.residents.nbytes == 40, "it is not being loaded: nothing is held for it"


def test_what_a_model_took_last_time_is_known_before_its_next_load(
    tmp_path: Path, settings: list[Setting]
) -> None:
    setting = make(settings, tmp_path, max_bytes=100, idle_s=10.0)
    setting.know("a", "b")
    for name in ("a", "b"):
        setting.ask(name)
        setting.residents.make_room(ServableId(name, 1), 0)
        setting.residents.measured(ServableId(name, 1), 60)
        setting.age(10.0)
        setting.wait_until_gone(name)
    setting.ask("a")
    setting.residents.measured(ServableId("a", 1), 60)
    loads = len(setting.loader.attempts)
    for waited_s in (0.0, 10.0):
        setting.clock.advance(waited_s)
        with pytest.raises(ResourceExhausted, match="it takes about 60 bytes") as refused:
            setting.ask("b")
        assert refused.value.retry_after_s == pytest.approx(30.0 - waited_s)
    assert len(setting.loader.attempts) == loads, "none was begun in vain"


def test_a_load_for_which_there_is_no_room_says_so_and_when_to_come_back(two: Setting) -> None:
    full = ResourceExhausted("no room for model a: it takes about 7 bytes")
    full.reason, full.retry_after_s = "no_room", 20.0
    two.loader.failures[ServableId("a", 1)] = full
    with pytest.raises(ServingError) as refused:
        two.ask("a")
    two.clock.advance(0.5)
    with pytest.raises(ServingError) as again:
        two.ask("a")
    for error, wait_s in ((refused.value, 20.0), (again.value, 19.5)):
        assert error.message == "no room for model a: it takes about 7 bytes"
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "no_room")
        assert error.retry_after_s == wait_s
    del two.loader.failures[ServableId("a", 1)]
    two.clock.advance(0.5)
    assert two.ask("a") == 1


def test_a_model_that_goes_from_the_configuration_is_unloaded(two: Setting) -> None:
    two.ask("a")
    two.ask("b")
    two.residents.set_models({"b": ModelConfig("b", two.folder / "b")})
    two.wait_until_gone("a")
    assert two.loaded() == {"b"}
    with pytest.raises(NotFound):
        two.ask("a")


def test_versions_of_a_model_that_is_not_loaded_are_told(two: Setting) -> None:
    two.publish("a", version=7)
    (status,) = two.manager.look("a")
    assert (status.version, status.state, status.error) == (7, State.START, None)
    assert two.loader.attempts == []

    two.loader.failures[ServableId("a", 7)] = InvalidArgument("no good")
    with pytest.raises(ServingError):
        two.ask("a")
    (status,) = two.manager.look("a")
    assert status.state is State.END
    assert "no good" in str(status.error)
