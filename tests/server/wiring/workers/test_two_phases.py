"""Changes in two phases, whatever workers answer, and whenever they die: they end up alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ladle.server.core.errors import Code
from ladle.server.wiring.workers.deciding.fleet import Fleet, Start
from ladle.server.wiring.workers.frames import Message
from ladle.server.wiring.workers.supervising.coordination import CHANGE_WAIT_S, Coordinator

REFUSED = {"code": Code.INTERNAL.value, "message": "no"}
WHICH = st.integers(0, 5)


@dataclass
class Process:
    """A worker: what it serves, and the questions that it has not answered."""

    models: str | None = None
    questions: list[Message] = field(default_factory=list)
    replies: dict[int, Any] = field(default_factory=dict)
    asked_for: set[int] = field(default_factory=set)


class Changes(RuleBasedStateMachine):
    """Three workers, which come back after they have died."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.expelled: set[int] = set()
        self.processes: dict[int, Process] = {}
        self.agreed: dict[str, set[int]] = {}  # by change: those who said that they can
        self.applied_now = False
        self.fleet = Fleet(3, grace_s=30)
        self.coordinator = Coordinator(self.fleet, self.send, self.expelled.add)
        self.start(self.fleet.begin())

    def send(self, key: int, message: Message) -> bool:
        process = self.processes.get(key)
        if process is None:
            return False
        if message["op"] == "query":
            if message["about"] == "apply":
                # All that could answer have agreed before one applies.
                alive = self.processes.keys() & self.agreed[message["body"]["models"]]
                assert key in alive
            else:
                self.applied_now = False
            process.questions.append(message)
        elif message["op"] == "reply":
            assert message["id"] not in process.replies, "one reply to each"
            process.replies[message["id"]] = message["body"]
            if message["id"] == 0:
                process.models = message["body"]["models"]
                self.fleet.opened(key)
                self.fleet.up(key, self.now)
        return True

    def start(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self.processes[action.key] = Process()
                self.says(action.key, op="join", id=0, body=None)

    def says(self, key: int, **message: Any) -> None:
        self.coordinator.handle(key, message, self.now)

    def one(self, which: int) -> int | None:
        keys = sorted(self.processes)
        return keys[which % len(keys)] if keys else None

    def answer(self, key: int, *, well: bool) -> None:
        process = self.processes[key]
        if not process.questions:
            return
        query = process.questions.pop(0)
        models = query["body"]["models"]
        body = None
        if query["about"] == "check" and well:
            self.agreed.setdefault(models, set()).add(key)
        if query["about"] == "apply" and well:
            process.models = models
            self.applied_now = True
            body = {"result": None, "models": models}
        error = None if well else REFUSED
        self.says(key, op="answer", round=query["round"], body=body, error=error)

    @rule(which=WHICH)
    def asks_for_a_change(self, which: int) -> None:
        if (key := self.one(which)) is not None:
            self.number += 1
            self.agreed[f"models {self.number}"] = set()
            self.processes[key].asked_for.add(self.number)
            body = {"kind": "replace", "models": f"models {self.number}"}
            self.says(key, op="change", id=self.number, body=body)

    @rule(which=WHICH, well=st.sampled_from([True, True, True, False]))
    def answers(self, which: int, well: bool) -> None:
        if (key := self.one(which)) is not None:
            self.answer(key, well=well)

    @rule()
    def all_can(self) -> None:
        for key, process in list(self.processes.items()):
            if process.questions and process.questions[0]["about"] == "check":
                self.answer(key, well=True)

    @rule(which=WHICH, outcomes=st.lists(st.sampled_from(["well", "ill", "death"]), min_size=3))
    def all_can_and_some_do(self, which: int, outcomes: list[str]) -> None:
        if any(process.questions for process in self.processes.values()):
            return
        self.asks_for_a_change(which)
        self.all_can()
        for key, outcome in zip(sorted(self.processes), outcomes, strict=False):
            if outcome == "death" and len(self.processes) > 1:
                self.end(key)
            else:
                self.answer(key, well=outcome == "well")

    @rule(which=WHICH)
    def dies(self, which: int) -> None:
        if (key := self.one(which)) is not None and len(self.processes) > 1:
            self.end(key)

    def end(self, key: int) -> None:
        number = self.fleet.number(key)
        del self.processes[key]
        self.expelled.discard(key)
        self.fleet.ended(key, "was ended", self.now)
        self.coordinator.ended(key, number, is_death=True)

    @rule()
    def comes_back(self) -> None:
        due = self.fleet.due()
        if due is not None:
            self.start(self.fleet.tick(max(due, self.now)))

    # Where nobody at all answers in time, nobody knows who has applied what.
    @precondition(lambda self: self.applied_now)
    @rule()
    def time_is_over(self) -> None:
        self.now += CHANGE_WAIT_S
        self.coordinator.tick(self.now)

    @invariant()
    def those_that_have_nothing_to_do_are_alike(self) -> None:
        if not any(process.questions for process in self.processes.values()):
            there = {k: p for k, p in self.processes.items() if 0 in p.replies}
            stay = {k: p for k, p in there.items() if k not in self.expelled}
            assert len({process.models for process in stay.values()}) <= 1

    def teardown(self) -> None:
        while any(process.questions for process in self.processes.values()):
            for key in list(self.processes):
                self.answer(key, well=True)
        self.those_that_have_nothing_to_do_are_alike()
        for process in self.processes.values():
            answered = process.replies.keys()
            assert answered == process.asked_for | {0}, "each change, and the start, has its answer"


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
