"""What a worker says to the supervisor, and does with what it hears: over a real channel."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import TIMEOUT_S

from ladle.server.core.errors import Code, FailedPrecondition, ServingError, Unavailable
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.families import Counters, Family, text
from ladle.server.wiring.workers.frames import Decoder, Message, encode
from ladle.server.wiring.workers.serving.channel import Channel
from ladle.server.wiring.workers.serving.families_data import to_data
from ladle.server.wiring.workers.serving.siblings import Siblings

SERVABLE = ServableId("m", 3)


class Supervisor:
    """The other end of a worker's channel."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TIMEOUT_S)
        self._decoder = Decoder()
        self._received: list[Message] = []
        self.has_gone = threading.Event()
        self._channel = Channel(theirs)
        self.siblings = Siblings(self._channel, number=1, barrier_s=TIMEOUT_S)
        self._channel.start(self.siblings.handle, self._gone)

    def _gone(self) -> None:
        self.siblings.gone()
        self.has_gone.set()

    def receive(self) -> Message:
        while not self._received:
            self._received += self._decoder.feed(self._socket.recv(65536))
        return self._received.pop(0)

    def send(self, message: Message) -> None:
        self._socket.sendall(encode(message))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()
    assert supervisor.has_gone.wait(TIMEOUT_S)


def begun(call: Callable[[], Any]) -> Callable[[], Any]:
    """Call something in a thread; return what waits for its outcome."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except ServingError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(TIMEOUT_S)
        assert outcome, "it does not end"
        return outcome[0]

    return wait


def counted(count: int) -> list[Family]:
    family = Counters("n", about="N.")
    family.add(count)
    return [family]


def reply(supervisor: Supervisor, body: Any) -> Message:
    asked = supervisor.receive()
    supervisor.send({"op": "reply", "id": asked["id"], "body": body})
    return asked


def test_a_change_is_asked_for_and_its_result_returned(supervisor: Supervisor) -> None:
    ended = begun(lambda: supervisor.siblings.change({"kind": "x"}))
    asked = reply(supervisor, {"error": None, "body": {"result": 5}})
    assert (asked["op"], asked["body"]) == ("change", {"kind": "x"})
    assert ended() == {"result": 5}


def test_an_error_of_another_worker_s_is_the_caller_s(supervisor: Supervisor) -> None:
    ended = begun(lambda: supervisor.siblings.wait(["m"], 5.0))
    error = {"code": Code.UNKNOWN.value, "message": "worker 2: m did not load"}
    asked = reply(supervisor, {"error": error})
    assert asked["body"] == {"names": ["m"], "timeout_s": 5.0}
    raised = ended()
    assert (raised.code, raised.message) == (Code.UNKNOWN, "worker 2: m did not load")


def test_metrics_are_those_of_all_with_what_is_known_of_the_workers(
    supervisor: Supervisor,
) -> None:
    ended = begun(lambda: list(supervisor.siblings.merged_families(counted(1))))
    all_families = [to_data(family) for family in counted(7)]
    body = {"families": all_families, "serving": 2, "silent": 1, "deaths": {"2": 3}}
    asked = reply(supervisor, body)
    assert asked["body"] == [to_data(family) for family in counted(1)]
    lines = text(ended()).splitlines()
    assert "n 7" in lines
    assert "ladle_workers_serving 2" in lines
    assert "ladle_workers_silent 1" in lines
    assert 'ladle_worker_deaths_total{worker="2"} 3' in lines


def test_without_a_supervisor_a_worker_has_its_own_figures_and_changes_nothing(
    supervisor: Supervisor,
) -> None:
    supervisor.close()
    assert supervisor.has_gone.wait(TIMEOUT_S)
    assert supervisor.siblings.merged_status({"server": {}, "models": []})["models"] == []
    own = counted(1)
    assert supervisor.siblings.merged_families(own) == own
    with pytest.raises(Unavailable, match="did not answer"):
        supervisor.siblings.change({"kind": "x"})
    supervisor.siblings.loaded(SERVABLE)  # waits for nobody


def test_questions_are_answered_once_there_are_answers(supervisor: Supervisor) -> None:
    def refuse(_: Any) -> None:
        raise FailedPrecondition("no such version")

    def fail(_: Any) -> None:
        raise KeyError("oops")

    supervisor.send({"op": "query", "round": 1, "about": "double", "body": 4})
    answers = {"double": lambda body: body * 2, "refuse": refuse, "fail": fail}
    supervisor.siblings.answer_with(answers)
    assert supervisor.receive() == {"op": "answer", "round": 1, "error": None, "body": 8}
    supervisor.send({"op": "query", "round": 2, "about": "refuse", "body": None})
    refused = supervisor.receive()["error"]
    assert refused == {"code": Code.FAILED_PRECONDITION.value, "message": "no such version"}


def test_a_fault_of_ours_is_answered_without_a_traceback(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    supervisor.siblings.answer_with({})
    supervisor.send({"op": "query", "round": 3, "about": "unheard of", "body": None})
    error = supervisor.receive()["error"]
    assert error == {"code": Code.INTERNAL.value, "message": "worker 1 failed on this request"}


def test_a_version_waits_until_it_is_released(supervisor: Supervisor) -> None:
    ended = begun(lambda: supervisor.siblings.loaded(SERVABLE))
    assert supervisor.receive() == {"op": "loaded", "name": "m", "version": 3}
    supervisor.send({"op": "release", "name": "m", "version": 3})
    assert ended() is None


def test_others_hear_of_versions_that_fail(supervisor: Supervisor) -> None:
    supervisor.siblings.failed(SERVABLE)
    assert supervisor.receive() == {"op": "failed", "name": "m", "version": 3}


def test_a_version_that_goes_waits_for_the_others_unless_the_worker_stops(
    supervisor: Supervisor,
) -> None:
    ended = begun(lambda: supervisor.siblings.leaving(SERVABLE))
    assert supervisor.receive() == {"op": "leaving", "name": "m", "version": 3}
    supervisor.siblings.stop_waiting()
    assert ended() is None
