"""What the supervisor does between workers: it hands on questions, changes and versions.

Messages come in by `handle`, and go out by a function. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ladle.server.core.errors import Code
from ladle.server.wiring.workers.deciding import merging
from ladle.server.wiring.workers.deciding.barrier import Barrier
from ladle.server.wiring.workers.deciding.changes import Change, Turns, first_error, strays
from ladle.server.wiring.workers.deciding.fleet import Fleet, Stage
from ladle.server.wiring.workers.deciding.rounds import Answers, Rounds
from ladle.server.wiring.workers.deciding.statuses import merged_status
from ladle.server.wiring.workers.frames import Message

METRICS_WAIT_S = 0.5
"""How long workers have to say how they do."""
CHANGE_WAIT_S = 15.0
"""How long workers have to check a change, and to apply it."""
_MARGIN_S = 1.0


class Coordinator:
    """Knows what the workers said. Not thread-safe."""

    def __init__(
        self,
        fleet: Fleet,
        send: Callable[[int, Message], bool],
        expel: Callable[[int], None],
    ) -> None:
        """Take who there is.

        Args:
            fleet: the processes.
            send: has one of them get a message; returns False if it can't.
            expel: has one of them end, for another to take its place.
        """
        self._fleet = fleet
        self._send = send
        self._expel = expel
        self._rounds = Rounds()
        self._barrier = Barrier()
        self._turns = Turns(self._check)
        self._joined: set[int] = set()
        self._joining: dict[int, int] = {}  # those that wait for the end of a change
        self._now = 0.0
        self._metrics: dict[int, list[merging.FamilyData]] = {}  # the last of each worker
        self._past: list[merging.FamilyData] = []  # of those that have ended
        self._deaths: dict[int, int] = {}
        self._models: Any = None  # what a worker that starts has to have; None: what its files say

    def handle(self, key: int, message: Message, now: float) -> None:
        """Take a message of a worker's."""
        self._now = now
        match message["op"]:
            case "answer":
                self._rounds.answered(message["round"], key, message)
            case "metrics":
                self._metrics[key] = message["body"]
            case "ask":
                self._ask(key, message)
            case "change":
                if not self._turns.add(Change(key, message["id"], message["body"])):
                    text = "too many changes wait for their turn: this one was not made"
                    error = {"code": Code.UNAVAILABLE.value, "message": text}
                    self._reply(key, message["id"], {"error": error})
            case "join":
                self._joining[key] = message["id"]
                if not self._turns.is_busy:
                    self._admit()
            case "configured":  # by files that are read once
                self._models = self._models or message["models"]
            case "read":  # a file again, which counts more than changes before it
                self._models = None
            case "loaded":
                self._barrier.loaded(key, (message["name"], message["version"]))
            case "failed":
                self._barrier.failed(key, (message["name"], message["version"]))
            case "leaving":
                self._barrier.leaving(key, (message["name"], message["version"]))
        self.release()

    def ended(self, key: int, number: int, *, is_death: bool) -> None:
        """Forget a process, but for what it counted; after the fleet has taken note."""
        self._joined.discard(key)
        self._joining.pop(key, None)
        self._past = merging.totals([self._past, self._metrics.pop(key, [])])
        if is_death:
            self._deaths[number] = self._deaths.get(number, 0) + 1
        self._barrier.gone(key)
        self._rounds.gone(key)
        self.release()

    def lacking(self, key: int, beside: int) -> list[str]:
        """Return the models that one worker has and another, `key`, could not load."""
        return sorted(self._barrier.models(beside) - self._barrier.models(key))

    def release(self) -> None:
        """Have versions answer that are loaded everywhere, and those go that all want to go."""
        stages = self._fleet.stages()
        awaited = [
            key
            for key in self._joined
            if stages.get(key) is Stage.SERVING
            or (stages.get(key) is Stage.STARTING and not self._fleet.is_late(key))
        ]
        for key, (name, version) in self._barrier.released(awaited):
            self._send(key, {"op": "release", "name": name, "version": version})

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        self._rounds.tick(now)

    def due(self) -> float | None:
        """Return when `tick` has something to do; None if never."""
        return self._rounds.due()

    def _ask(self, key: int, message: Message) -> None:
        about, number = message["about"], message["id"]
        if about == "metrics":
            self._metrics[key] = message["body"]
        stages = self._fleet.stages()
        if about == "wait":
            others = self._takers()
            timeout_s = float(message["body"]["timeout_s"]) + _MARGIN_S
        else:
            answering = (Stage.SERVING, Stage.LEAVING)
            others = [k for k, stage in stages.items() if k != key and stage in answering]
            timeout_s = METRICS_WAIT_S
        asked = {k: self._fleet.number(k) for k in others}

        def then(answers: Answers) -> None:
            match about:
                case "metrics":
                    self._reply(key, number, self._gathered(asked, answers))
                case "wait":
                    error = first_error(asked, answers, what="say how its models do")
                    self._reply(key, number, {"error": error})
                case _:
                    good = {asked[k]: a["body"] for k, a in answers.items() if _is_good(a)}
                    own = {self._fleet.number(key): message["body"]}
                    self._reply(key, number, merged_status(good | own, self._fleet.count))

        body = message["body"] if about == "wait" else None
        self._question(others, about, body, timeout_s, then)

    def _gathered(self, asked: dict[int, int], answers: Answers) -> dict[str, Any]:
        """Return what all count together: of those that did not answer, their last word."""
        silent = 0
        for other in asked:
            answer = answers.get(other)
            if answer is not None and _is_good(answer):
                self._metrics[other] = answer["body"]
            elif self._fleet.stages().get(other) is Stage.SERVING:
                silent += 1
        return {
            "families": merging.merged([self._past, *self._metrics.values()]),
            "serving": len(self._fleet.serving()),
            "silent": silent,
            "deaths": {str(number): count for number, count in self._deaths.items()},
        }

    def _takers(self) -> list[int]:
        """Return the workers that changes are for."""
        stages = self._fleet.stages()
        return [key for key in self._joined if stages.get(key) not in (None, Stage.LEAVING)]

    def _check(self, change: Change) -> None:
        # One that starts has no versions yet that labels could be on: it can't refuse.
        asked = {key: self._fleet.number(key) for key in self._takers() if not self._starts(key)}

        def then(answers: Answers) -> None:
            error = first_error(asked, answers, what="check the change, which was made nowhere")
            if error is not None:
                self._finish(change, {"error": error})
            else:
                self._apply(change)

        self._question(asked, "check", change.body, CHANGE_WAIT_S, then)

    def _starts(self, key: int) -> bool:
        return self._fleet.stages().get(key) is Stage.STARTING

    def _apply(self, change: Change) -> None:
        asked = {key: self._fleet.number(key) for key in self._takers()}

        def then(answers: Answers) -> None:
            stray, models = strays(asked, answers)
            self._models = models["models"] if models is not None else self._models
            for key in stray:  # the one that comes after it gets the models of the others
                self._expel(key)
            error = first_error(asked, answers, what="make the change; it is started again with it")
            own = answers.get(change.key, {}).get("body")
            self._finish(change, {"error": error, "body": own})

        self._question(asked, "apply", change.body, CHANGE_WAIT_S, then)

    def _finish(self, change: Change, body: dict[str, Any]) -> None:
        self._reply(change.key, change.number, body)
        self._admit()  # before the next change begins, which is for them too
        self._turns.finished()

    def _admit(self) -> None:
        """Have those that join begin with the models that the others have now."""
        for key, number in self._joining.items():
            self._joined.add(key)
            self._reply(key, number, {"models": self._models})
        self._joining.clear()

    def _question(
        self,
        keys: Any,
        about: str,
        body: Any,
        timeout_s: float,
        then: Callable[[Answers], None],
    ) -> None:
        if self._rounds.is_full:
            then({})
            return
        number = self._rounds.ask(keys, self._now + timeout_s, then)
        for key in list(keys):
            told = {**body, "starts": self._starts(key)} if about == "apply" else body
            query = {"op": "query", "round": number, "about": about, "body": told}
            if not self._send(key, query):
                self._rounds.gone(key)
        self._rounds.settle(number)

    def _reply(self, key: int, number: int, body: dict[str, Any]) -> None:
        self._send(key, {"op": "reply", "id": number, "body": body})


def _is_good(answer: dict[str, Any]) -> bool:
    return answer.get("error") is None and answer.get("body") is not None
