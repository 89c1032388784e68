"""Whatever is asked, held, broken and published, and however time passes, the rules hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from fakes import TIMEOUT_S, FakeClock, FakeLoader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.residency import ResidencyOptions
from ladle.server.core.models.residents import Residents
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.file_system import FileSystemSource

NAMES = ("p", "a", "b", "c")  # p is pinned
MOST = 3


class Silent:
    def load_wanted(self, cause: str) -> None:
        pass

    def model_unloaded(self, reason: str) -> None:
        pass

    def request_waited(self, seconds: float) -> None:
        pass


class World:
    """Four models, of which three may be loaded, and what is done to them."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.loader = FakeLoader()
        self.loading: set[str] = set()
        self.manager = Manager(self.load, clock=self.clock)
        source = FileSystemSource(self.manager, poll_wait_s=-1, clock=self.clock)
        self.residents = Residents(
            self.manager,
            source,
            ResidencyOptions(max_models=MOST, idle_s=100.0),
            Silent(),
            pinned=["p"],
            clock=self.clock,
        )
        self.manager.load_on_demand(self.residents)
        self.held: list[Handle] = []
        self.loaded_at: dict[str, float] = {}
        for name in NAMES:
            (folder / name / "1").mkdir(parents=True)
        self.residents.set_models({name: ModelConfig(name, folder / name) for name in NAMES})
        self.settle()

    def load(self, servable_id: ServableId, path: Path) -> Servable:
        assert servable_id.name not in self.loading, "two loads of one model"
        self.loading.add(servable_id.name)
        try:
            servable = self.loader(servable_id, path)
            self.loaded_at[servable_id.name] = self.clock.now()
            return servable
        finally:
            self.loading.discard(servable_id.name)

    def settle(self) -> None:
        """Let the residents look, and wait for what they have begun."""
        busy = {handle.id.name for handle in self.held}
        before = self.available()
        self.residents.step()
        for gone in before - self.available():
            assert gone != "p", "it is pinned"
            assert gone not in busy, "a request holds it"
        assert self.manager.wait_until(lambda: not self.manager.transitions, TIMEOUT_S)

    def available(self) -> set[str]:
        return {entry.id.name for entry in self.manager.available()}

    def ask(self, name: str) -> None:
        attempts = len(self.loader.attempts)
        was_there = name in self.available()
        before = self.available()
        try:
            self.manager.wait_for_first(name, None)
        except ServingError as error:
            assert not was_there, "what is loaded answers"
            if error.reason == "no_room":
                assert len(self.loader.attempts) == attempts
                now = self.clock.now()
                free = [
                    other
                    for other in before - {"p"}
                    if other not in {handle.id.name for handle in self.held}
                    and now - self.loaded_at[other] >= 30.0
                ]
                assert len(before) >= MOST, "there was a place"
                assert not free, "one of them could have gone"
        else:
            assert name in self.available()
            assert len(self.loader.attempts) - attempts == (not was_there)
            self.manager.acquire(name).release()
        self.settle()

    def hold(self, name: str) -> None:
        """Ask, and go on using what answers."""
        self.ask(name)
        if name in self.available() and len(self.held) < 2:
            self.held.append(self.manager.acquire(name))
            self.settle()

    def release(self, _name: str) -> None:
        if self.held:
            self.held.pop().release()
            self.settle()

    def break_or_mend(self, name: str) -> None:
        servable_id = ServableId(name, 1)
        if self.loader.failures.pop(servable_id, None) is None:
            self.loader.failures[servable_id] = InvalidArgument("no good")

    def wait(self, _name: str) -> None:
        self.clock.advance(31.0)
        self.settle()

    def close(self) -> None:
        for handle in self.held:
            handle.release()
        self.manager.stop(0)


OPERATIONS: dict[str, Callable[[World, str], None]] = {
    "ask": World.ask,
    "hold": World.hold,
    "release": World.release,
    "break": World.break_or_mend,
    "wait": World.wait,
}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "hold", "release", "break", "wait", "wait"]),
            st.sampled_from(NAMES),
        ),
        max_size=30,
    )
)
@example([("hold", "a"), ("ask", "b"), ("wait", "p"), ("ask", "c"), ("release", "a")])
@example([("break", "a"), ("ask", "a"), ("break", "a"), ("ask", "a"), ("wait", "p"), ("ask", "a")])
def test_the_rules_hold_whatever_happens(operations: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for operation, name in operations:
                OPERATIONS[operation](world, name)
                busy = {handle.id.name for handle in world.held}
                assert busy <= world.available(), "what is held stays"
                assert len(world.available()) <= MOST
                assert "p" in world.available()
                assert world.residents.count <= MOST
        finally:
            world.close()
