"""How many calls are taken, and what becomes of those that send no message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.errors import ServingError
from ladle.server.transport.grpcio.intake import MESSAGE_TIMEOUT_S, Admission


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeCall:
    """A call that is over as soon as it is ended."""

    def __init__(self, admission: Admission) -> None:
        self.error: ServingError | None = None
        self._admission = admission

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        if self.error is None:
            self.error = error
            self.end()

    def end(self) -> None:
        self._admission.ended(self)


def test_what_finds_no_place_is_told_when_to_come_back() -> None:
    refused: list[ServingError] = []
    admission = Admission(1, refused.append)
    first, second = FakeCall(admission), FakeCall(admission)

    assert admission.admit(first)
    assert not admission.admit(second)
    assert second.error is not None
    assert second.error.code.name == "UNAVAILABLE"
    assert second.error.retry_after_s == 0.1
    assert "1 calls are under way already" in second.error.message
    assert refused == [second.error]
    assert second.error.reason == "calls"

    first.end()
    assert admission.admit(FakeCall(admission))


def test_a_call_without_a_message_is_ended_in_time_and_no_other() -> None:
    time = Time()
    refused: list[ServingError] = []
    admission = Admission(10, refused.append, clock=time)
    silent, speaking, late = FakeCall(admission), FakeCall(admission), FakeCall(admission)
    admission.admit(silent)
    admission.admit(speaking)
    admission.received(speaking)
    time.now = 1
    admission.admit(late)

    time.now = MESSAGE_TIMEOUT_S
    admission.end_silent()
    assert silent.error is not None
    assert silent.error.code.name == "DEADLINE_EXCEEDED"
    assert silent.error.message == "expected a request message within 30 s, got none"
    assert refused == [silent.error]
    assert speaking.error is None
    assert late.error is None
    assert admission.under_way == 2


def test_a_silent_call_gives_its_place_to_the_next_one() -> None:
    time = Time()
    admission = Admission(2, clock=time)
    silent, speaking, newer = FakeCall(admission), FakeCall(admission), FakeCall(admission)
    admission.admit(silent)
    admission.admit(speaking)
    admission.received(speaking)
    time.now = 0.5
    assert not admission.admit(FakeCall(admission)), "it may still be on its way"

    time.now = 1
    assert admission.admit(newer)
    assert silent.error is not None
    assert speaking.error is None
    assert not admission.admit(FakeCall(admission))


@given(st.lists(st.sampled_from(["come", "speak", "end", "wait", "sweep"])), st.integers(1, 4))
def test_there_are_never_more_than_the_most_and_each_is_counted_once(
    steps: list[str], most: int
) -> None:
    time = Time()
    admission = Admission(most, clock=time)
    alive: list[FakeCall] = []
    for step in steps:
        if step == "come":
            call = FakeCall(admission)
            if admission.admit(call):
                alive.append(call)
        elif step == "wait":
            time.now += 0.7
        elif step == "sweep":
            admission.end_silent()
        elif alive and step == "speak":
            admission.received(alive[0])
        elif alive:
            alive.pop(0).end()
        alive = [call for call in alive if call.error is None]
        assert admission.under_way == len(alive) <= most
