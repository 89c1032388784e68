"""Changes, questions and versions between workers that are lists of messages."""

from __future__ import annotations

from typing import Any

import pytest
from server.wiring.workers.test_statuses import status

from ladle.server.core.errors import Code
from ladle.server.wiring.workers.deciding.changes import MOST_WAITING
from ladle.server.wiring.workers.deciding.fleet import Fleet
from ladle.server.wiring.workers.frames import Message
from ladle.server.wiring.workers.supervising.coordination import (
    CHANGE_WAIT_S,
    METRICS_WAIT_S,
    Coordinator,
)

WRONG = {"code": Code.FAILED_PRECONDITION.value, "message": "no such version"}


class Workers:
    """Two workers that serve, and what they were sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.inbox: dict[int, list[Message]] = {1: [], 2: []}
        self.expelled: list[int] = []
        self.deaf: set[int] = set()
        self.fleet = Fleet(2, grace_s=30)
        self.fleet.begin()
        self.coordinator = Coordinator(self.fleet, self.send, self.expelled.append)
        for key in (1, 2):
            self.says(key, op="join", id=0, body=None)
            self.fleet.opened(key)
            self.fleet.up(key, 0.0)
            self.take(key)

    def send(self, key: int, message: Message) -> bool:
        if key in self.deaf:
            return False
        self.inbox.setdefault(key, []).append(message)
        return True

    def says(self, key: int, **message: Any) -> None:
        self.coordinator.handle(key, message, self.now)

    def take(self, key: int) -> list[Message]:
        found, self.inbox[key] = self.inbox[key], []
        return found

    def answers(self, key: int, body: Any = None, error: Any = None) -> Message:
        """Have a worker answer the question that it has; return the question."""
        (query,) = self.take(key)
        assert query["op"] == "query"
        self.says(key, op="answer", round=query["round"], body=body, error=error)
        return query

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    def ends(self, key: int) -> None:
        number = self.fleet.number(key)
        self.fleet.ended(key, "was ended", self.now)
        self.coordinator.ended(key, number, is_death=True)


@pytest.fixture
def workers() -> Workers:
    return Workers()


def change(workers: Workers, key: int = 1, number: int = 7) -> None:
    workers.says(key, op="change", id=number, body={"kind": "replace", "models": "x"})


def applied(models: str = "new") -> dict[str, Any]:
    return {"result": ["m"], "models": models}


class TestChanges:
    def test_all_check_then_all_apply_then_the_caller_hears(self, workers: Workers) -> None:
        change(workers)
        assert workers.answers(1)["about"] == "check"
        assert workers.inbox[1] == []
        assert workers.answers(2)["about"] == "check"
        assert workers.answers(2, applied())["about"] == "apply"
        (query,) = workers.take(1)
        workers.says(1, op="answer", round=query["round"], body=applied(), error=None)
        (reply,) = workers.take(1)
        assert reply == {"op": "reply", "id": 7, "body": {"error": None, "body": applied()}}
        assert workers.expelled == []

    def test_what_one_can_not_do_none_does(self, workers: Workers) -> None:
        change(workers)
        workers.answers(1)
        workers.answers(2, error=WRONG)
        (reply,) = workers.take(1)
        assert reply["body"]["error"] == {**WRONG, "message": "worker 2: no such version"}
        assert workers.inbox[2] == []

    def test_an_error_that_all_have_is_told_as_it_is(self, workers: Workers) -> None:
        change(workers)
        workers.answers(2, error=WRONG)
        workers.answers(1, error=WRONG)
        (reply,) = workers.take(1)
        assert reply["body"]["error"] == WRONG

    def test_one_that_does_not_answer_stops_it_and_is_named(self, workers: Workers) -> None:
        change(workers)
        workers.answers(1)
        workers.passes(CHANGE_WAIT_S)
        (reply,) = workers.take(1)
        assert reply["body"]["error"]["code"] == Code.UNAVAILABLE.value
        assert "worker 2 did not answer" in reply["body"]["error"]["message"]

    def test_one_that_does_not_apply_is_replaced_by_one_that_has_it(self, workers: Workers) -> None:
        change(workers)
        workers.answers(1)
        workers.answers(2)
        workers.answers(1, applied())
        workers.answers(2, error=WRONG)
        (reply,) = workers.take(1)
        assert reply["body"]["error"]["message"] == "worker 2: no such version"
        assert workers.expelled == [2]
        workers.ends(2)
        workers.says(3, op="join", id=1, body=None)
        assert workers.take(3) == [{"op": "reply", "id": 1, "body": {"models": "new"}}]

    def test_where_none_applies_it_all_stay_as_they_are(self, workers: Workers) -> None:
        change(workers)
        workers.answers(1)
        workers.answers(2)
        workers.answers(1, error=WRONG)
        workers.answers(2, error=WRONG)
        (reply,) = workers.take(1)
        assert reply["body"]["error"] == WRONG
        assert workers.expelled == []

    def test_one_that_dies_in_between_is_named_and_the_next_has_the_change(
        self, workers: Workers
    ) -> None:
        change(workers)
        workers.answers(1)
        workers.answers(2)
        workers.answers(1, applied())
        workers.ends(2)
        (reply,) = workers.take(1)
        assert "worker 2" in reply["body"]["error"]["message"]
        workers.says(3, op="join", id=1, body=None)
        assert workers.take(3)[0]["body"] == {"models": "new"}

    def test_one_that_starts_meanwhile_begins_with_what_comes_of_it(self, workers: Workers) -> None:
        change(workers)
        workers.answers(1)
        workers.says(3, op="join", id=1, body=None)
        workers.answers(2)
        for key in (1, 2):
            assert workers.inbox.get(3, []) == []
            workers.answers(key, applied())
        assert workers.take(3) == [{"op": "reply", "id": 1, "body": {"models": "new"}}]

    def test_one_that_starts_is_not_asked_whether_it_can_and_takes_what_the_others_have(
        self, workers: Workers
    ) -> None:
        workers.ends(2)
        due = workers.fleet.due()
        assert due is not None
        workers.fleet.tick(due)  # starts process 3
        workers.says(3, op="join", id=1, body=None)
        workers.take(3)
        change(workers)
        assert not workers.answers(1)["body"].get("starts")
        assert workers.answers(3, applied())["body"]["starts"] is True
        assert workers.answers(1, applied())["body"]["starts"] is False
        assert workers.take(1)[0]["body"]["error"] is None

    def test_one_change_is_made_at_a_time(self, workers: Workers) -> None:
        change(workers, number=7)
        change(workers, key=2, number=8)
        for key in (1, 2):
            workers.answers(key)
        for key in (2, 1):
            workers.answers(key, applied("first"))
        assert [m["op"] for m in workers.inbox[1]] == ["reply", "query"]
        assert workers.inbox[2][0]["about"] == "check"

    def test_there_is_a_bound_for_those_that_wait(self, workers: Workers) -> None:
        for number in range(MOST_WAITING + 2):
            change(workers, number=number)
        _, refused = workers.take(1)
        assert refused["id"] == MOST_WAITING + 1
        assert "too many changes" in refused["body"]["error"]["message"]

    def test_one_that_can_not_be_reached_is_named_at_once(self, workers: Workers) -> None:
        workers.deaf.add(2)
        change(workers)
        workers.answers(1)
        (reply,) = workers.take(1)
        assert "worker 2 did not answer" in reply["body"]["error"]["message"]

    def test_all_wait_for_models_and_the_first_error_is_the_answer(self, workers: Workers) -> None:
        body = {"names": ["m"], "timeout_s": 20.0}
        workers.says(1, op="ask", id=3, about="wait", body=body)
        assert workers.answers(1)["body"] == body
        workers.answers(2, error=WRONG)
        (reply,) = workers.take(1)
        assert reply["body"]["error"]["message"] == "worker 2: no such version"


class TestStarts:
    """What a worker begins with that starts later."""

    def begins_with(self, workers: Workers) -> Any:
        workers.says(3, op="join", id=1, body=None)
        (reply,) = workers.take(3)
        return reply["body"]["models"]

    def test_the_files_count_where_they_are_read_again_and_again(self, workers: Workers) -> None:
        assert self.begins_with(workers) is None

    def test_files_that_are_read_once_count_as_they_were_then(self, workers: Workers) -> None:
        workers.says(1, op="configured", models="as at the start")
        workers.says(2, op="configured", models="edited since")
        assert self.begins_with(workers) == "as at the start"

    def test_a_change_counts_more_than_the_start_and_a_file_read_later_more_than_both(
        self, workers: Workers
    ) -> None:
        workers.says(1, op="configured", models="as at the start")
        change(workers)
        for key in (1, 2):
            workers.answers(key)
        for key in (2, 1):
            workers.answers(key, applied("changed"))
        assert self.begins_with(workers) == "changed"
        workers.says(2, op="read")
        assert self.begins_with(workers) is None


def counts(count: int, kind: str = "counter") -> list[dict[str, Any]]:
    family = {"name": "n", "kind": kind, "labels": [], "about": "", "across": "sum"}
    return [{**family, "bounds": None, "series": [[[], count]]}]


class TestMetrics:
    def gathered(self, workers: Workers, own: int) -> dict[str, Any]:
        workers.says(1, op="ask", id=5, about="metrics", body=counts(own))
        if workers.inbox[2]:
            workers.answers(2, counts(10))
        (reply,) = workers.take(1)
        body: dict[str, Any] = reply["body"]
        return body

    def test_the_others_are_asked(self, workers: Workers) -> None:
        body = self.gathered(workers, 1)
        assert body["families"] == counts(11)
        assert (body["serving"], body["silent"], body["deaths"]) == (2, 0, {})

    def test_what_a_worker_counted_stays_after_its_death(self, workers: Workers) -> None:
        self.gathered(workers, 1)
        workers.ends(2)
        body = self.gathered(workers, 1)
        assert body["families"] == counts(11)
        assert body["deaths"] == {"2": 1}

    def test_its_last_word_counts_and_its_gauges_go_with_it(self, workers: Workers) -> None:
        workers.says(2, op="metrics", body=[*counts(12), *counts(3, "gauge")])
        workers.ends(2)
        assert self.gathered(workers, 1)["families"] == counts(13)

    def test_of_one_that_is_silent_the_last_word_counts(self, workers: Workers) -> None:
        self.gathered(workers, 1)
        workers.says(1, op="ask", id=6, about="metrics", body=counts(1))
        workers.passes(METRICS_WAIT_S)
        (reply,) = workers.take(1)
        assert reply["body"]["families"] == counts(11)
        assert reply["body"]["silent"] == 1

    def test_statuses_are_those_of_all_that_answer(self, workers: Workers) -> None:
        workers.says(1, op="ask", id=5, about="status", body=status(uptime_s=3.0))
        workers.answers(2, status(uptime_s=8.0))
        (reply,) = workers.take(1)
        assert reply["body"]["server"]["uptime_s"] == 8.0
        assert reply["body"]["server"]["workers"] == {"expected": 2, "ready": 2}


class TestVersions:
    def test_a_version_answers_once_all_have_it(self, workers: Workers) -> None:
        workers.says(1, op="loaded", name="m", version=3)
        assert workers.inbox[1] == []
        workers.says(2, op="loaded", name="m", version=3)
        for key in (1, 2):
            assert workers.take(key) == [{"op": "release", "name": "m", "version": 3}]

    def test_what_one_could_not_load_and_another_has_is_told(self, workers: Workers) -> None:
        workers.says(1, op="loaded", name="m", version=3)
        workers.says(1, op="loaded", name="n", version=1)
        workers.says(2, op="failed", name="m", version=3)
        workers.says(2, op="loaded", name="n", version=2)
        assert workers.coordinator.lacking(2, beside=1) == ["m"]
        assert workers.coordinator.lacking(1, beside=2) == []

    def test_one_that_dies_is_not_waited_for(self, workers: Workers) -> None:
        workers.says(1, op="loaded", name="m", version=3)
        workers.ends(2)
        assert [m["op"] for m in workers.take(1)] == ["release"]

    def test_one_that_opens_late_is_not_waited_for_and_waits_for_the_others(
        self, workers: Workers
    ) -> None:
        workers.ends(2)
        due = workers.fleet.due()
        assert due is not None
        workers.fleet.tick(due)  # starts process 3, which opens late
        workers.says(3, op="join", id=1, body=None)
        workers.take(3)
        workers.says(1, op="loaded", name="m", version=3)
        assert [m["op"] for m in workers.take(1)] == ["release"]
        workers.says(3, op="loaded", name="m", version=4)
        assert workers.take(3) == []
        workers.says(1, op="failed", name="m", version=4)
        assert [m["op"] for m in workers.take(3)] == ["release"]
