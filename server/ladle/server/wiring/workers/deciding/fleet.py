"""Which workers there are, and what is to be done about them: decisions without I/O or clock.

STARTING ──► SERVING ──► LEAVING ──► (ended)

Each method takes what has happened and the monotonic time, and returns what to do now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from ladle.server.wiring.workers.deciding.restarts import deaths_in_a_row, is_pointless, wait_s

# What a worker may take beyond its grace: the last spans and log lines, and what Python needs.
_MARGIN_S = 10.0


class Start(NamedTuple):
    """Start a process."""

    key: int
    """Which one: never used again."""
    number: int
    """Which worker it is, from 1."""
    late: bool
    """Whether it opens its ports only once its models are up: others serve meanwhile."""


class Drain(NamedTuple):
    """Ask a process to finish what is under way, and to end."""

    key: int
    lame_duck: bool
    """Whether it takes requests for a while still."""


class Kill(NamedTuple):
    """End a process at once."""

    key: int


class Say(NamedTuple):
    """Write a line to the log."""

    text: str
    is_problem: bool = False


class End(NamedTuple):
    """End the supervisor; every process has ended, or is to be killed."""

    status: int
    reason: str = ""
    """One line; empty where all is well."""


Action: TypeAlias = "Start | Drain | Kill | Say | End"


class Stage(Enum):
    """Where a process stands."""

    STARTING = auto()
    SERVING = auto()
    """It takes requests."""
    LEAVING = auto()
    """It was asked to end, or has to."""


@dataclass
class _Process:
    number: int
    late: bool
    """Whether it opens its ports only once its models are up."""
    stage: Stage = Stage.STARTING
    served_since: float | None = None
    """When its models were up, or had failed."""
    reason: str = ""
    """Why it can't start, in its own words."""
    replaces: int | None = None
    """The process of the same number that leaves once this one serves."""
    kill_at: float | None = None


@dataclass
class _Seat:
    """What is known of a worker's number, whatever processes it has had."""

    deaths: int = 0
    start_at: float | None = None


@dataclass
class Fleet:
    """`count` workers, numbered from 1, and the processes that are or were them."""

    count: int
    grace_s: float
    """How long a process that drains may take."""
    _processes: dict[int, _Process] = field(default_factory=dict)
    _seats: dict[int, _Seat] = field(default_factory=dict)
    _last_key: int = 0
    _early_deaths: int = 0
    _has_served: bool = False
    _stopping: bool = False
    _killed: bool = False
    _ended: bool = False
    _to_replace: list[int] = field(default_factory=list)

    def begin(self) -> list[Action]:
        """Start them all."""
        self._seats = {number: _Seat() for number in range(1, self.count + 1)}
        return [self._start(number) for number in self._seats]

    def stages(self) -> dict[int, Stage]:
        """Return where each process stands, by its key."""
        return {key: process.stage for key, process in self._processes.items()}

    def number(self, key: int) -> int:
        """Return which worker a process is."""
        return self._processes[key].number

    def is_late(self, key: int) -> bool:
        """Whether a process opens its ports only once its models are up."""
        return self._processes[key].late

    def was_asked_to_end(self, key: int) -> bool:
        """Whether a process ends because it was asked to."""
        process = self._processes[key]
        return process.stage is Stage.LEAVING or process.kill_at is not None or self._ended

    def serving(self) -> list[int]:
        """Return the keys of the processes that take requests, by their workers' numbers."""
        found = [(p.number, key) for key, p in self._processes.items() if p.stage is Stage.SERVING]
        return [key for _, key in sorted(found)]

    def opened(self, key: int) -> list[Action]:
        """Take note that a process takes requests; its models may load still."""
        process = self._processes.get(key)
        if process is not None and process.stage is Stage.STARTING:
            process.stage = Stage.SERVING
        return []

    def up(self, key: int, now: float) -> list[Action]:
        """Take note that a process has its models, or knows that they failed."""
        process = self._processes.get(key)
        if process is None or process.stage is Stage.LEAVING:
            return []
        process.stage = Stage.SERVING
        process.served_since = now
        self._early_deaths = 0
        self._has_served = True
        old = process.replaces
        process.replaces = None
        if old is not None and old in self._processes:
            return self._leave(old, now, lame_duck=True)
        return self._replace_next()

    def replaced(self, key: int) -> int | None:
        """Return the process that leaves once this one serves; None if there is none."""
        process = self._processes.get(key)
        old = None if process is None else process.replaces
        return old if old in self._processes else None

    def unfit(self, key: int, reason: str, now: float) -> list[Action]:
        """Take note that a new process is worse than the one that it was to replace."""
        number = self._processes[key].number
        self._to_replace.clear()
        text = f"worker {number} {reason}: the restart ends here, and the old ones go on"
        return [Say(text, is_problem=True), *self._leave(key, now, lame_duck=False)]

    def refused(self, key: int, reason: str) -> list[Action]:
        """Take note of why a process can't start; it ends by itself."""
        process = self._processes.get(key)
        if process is None or self._ended:
            return []
        process.reason = reason
        if self._has_served or self._stopping:
            return []
        return self._give_up(reason)  # the others would say the same

    def ended(self, key: int, how: str, now: float) -> list[Action]:
        """Take note that a process has ended; `how` goes behind "worker 1"."""
        process = self._processes.pop(key, None)
        if process is None or self._ended:
            return []
        if self._stopping:
            return self._end_if_empty()
        if process.stage is Stage.LEAVING:
            return self._replace_next()
        said: list[Action] = []
        if process.replaces is not None and process.replaces in self._processes:
            self._to_replace.clear()
            text = f"worker {process.number} {how} before it served: the restart ends here, and "
            return [Say(f"{text}the others go on", is_problem=True)]
        served_s = None if process.served_since is None else now - process.served_since
        if served_s is None:
            self._early_deaths += 1
        seat = self._seats[process.number]
        seat.deaths = deaths_in_a_row(seat.deaths, served_s)
        reason = f"worker {process.number} {how}"
        if process.reason:
            reason += f": {process.reason}"
        if is_pointless(self._early_deaths, len(self.serving())):
            count = self._early_deaths
            return self._give_up(f"{count} workers in a row ended before they served: {reason}")
        # Another process of this number may be on its way to replace it.
        if not any(p.number == process.number for p in self._processes.values()):
            seat.start_at = now + wait_s(seat.deaths)
            reason += f"; another starts in {wait_s(seat.deaths):g} s"
        said.append(Say(reason, is_problem=True))
        return [*said, *self._replace_next()]

    def expel(self, key: int, now: float) -> list[Action]:
        """Have a process end that is not as the others are; another takes its place."""
        process = self._processes.get(key)
        if process is None or process.stage is Stage.LEAVING or process.kill_at is not None:
            return []
        process.kill_at = now + self.grace_s + _MARGIN_S
        return [Drain(key, lame_duck=True)]

    def stop(self, now: float, *, lame_duck: bool) -> list[Action]:
        """Have all of them drain, at the same time."""
        if self._stopping or self._ended:
            return []
        self._stopping = True
        self._to_replace.clear()
        for seat in self._seats.values():
            seat.start_at = None
        actions = [
            action
            for key, process in list(self._processes.items())
            if process.stage is not Stage.LEAVING
            for action in self._leave(key, now, lame_duck=lame_duck)
        ]
        return [*actions, *self._end_if_empty()]

    def stop_at_once(self) -> list[Action]:
        """End all of them without a drain."""
        self._stopping = True
        return [*(Kill(key) for key in self._processes), *self._end(0)]

    def replace_all(self) -> list[Action]:
        """Put new processes in place of all, one after the other."""
        if self._stopping or self._ended:
            return []
        self._to_replace = list(self._seats)
        return [Say("all workers are replaced, one after the other"), *self._replace_next()]

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        if self._ended:
            return []
        actions: list[Action] = []
        for number, seat in self._seats.items():
            if seat.start_at is not None and seat.start_at <= now:
                seat.start_at = None
                actions.append(self._start(number))
        for key, process in self._processes.items():
            if process.kill_at is not None and process.kill_at <= now:
                process.kill_at = None
                self._killed = True
                text = f"worker {process.number} did not end in time, and is killed"
                actions += [Say(text, is_problem=True), Kill(key)]
        return actions

    def due(self) -> float | None:
        """Return when `tick` has something to do; None if never."""
        times = [seat.start_at for seat in self._seats.values() if seat.start_at is not None]
        times += [p.kill_at for p in self._processes.values() if p.kill_at is not None]
        return None if self._ended else min(times, default=None)

    def _start(self, number: int, replaces: int | None = None) -> Start:
        self._last_key += 1
        late = bool(self.serving())
        self._processes[self._last_key] = _Process(number, late, replaces=replaces)
        return Start(self._last_key, number, late)

    def _leave(self, key: int, now: float, *, lame_duck: bool) -> list[Action]:
        process = self._processes[key]
        process.stage = Stage.LEAVING
        process.replaces = None
        process.kill_at = now + self.grace_s + _MARGIN_S
        return [Drain(key, lame_duck)]

    def _replace_next(self) -> list[Action]:
        """Begin with the next worker, unless one is at it."""
        busy = any(
            p.replaces is not None or p.stage is Stage.LEAVING for p in self._processes.values()
        )
        while self._to_replace and not busy:
            number = self._to_replace.pop(0)
            for key, process in self._processes.items():
                if process.number == number and process.stage is Stage.SERVING:
                    return [self._start(number, replaces=key)]
            # One that is about to start is a new one anyway.
        return []

    def _give_up(self, reason: str) -> list[Action]:
        return [*(Kill(key) for key in self._processes), *self._end(1, reason)]

    def _end_if_empty(self) -> list[Action]:
        return [] if self._processes else self._end(1 if self._killed else 0)

    def _end(self, status: int, reason: str = "") -> list[Action]:
        self._ended = True
        return [End(status, reason)]
