"""How many calls are taken, and what becomes of those that send no message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.errors import ServingError
from ladle.server.transport.grpcio.admission import MESSAGE_TIMEOUT_S, Admission


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
        self.is_told = False
        self._admission = admission

    def cut_off(self, error: ServingError) -> None:
        if self.error is None:
            self.error = error
            self.end()

    def stop(self) -> None:
        self.is_told = True

    def end(self) -> None:
        self._admission.ended(self)


def begin(admission: Admission) -> FakeCall:
    """Let a call come in that is not refused."""
    assert admission.refusal() is None
    admission.come()
    call = FakeCall(admission)
    admission.begin(call)
    return call


def test_what_finds_no_place_is_told_when_to_come_back() -> None:
    refused: list[ServingError] = []
    admission = Admission(1, lambda error, _: refused.append(error))
    first = begin(admission)

    error = admission.refusal()
    assert error is not None
    assert error.code.name == "UNAVAILABLE"
    assert error.retry_after_s == 0.1
    assert "1 calls are under way already" in error.message
    assert refused == [error]
    assert error.reason == "calls"

    first.end()
    begin(admission)


def test_a_call_that_waits_for_a_thread_has_a_place() -> None:
    admission = Admission(1)
    admission.come()

    assert admission.refusal() is not None
    call = FakeCall(admission)
    admission.begin(call)
    assert admission.refusal() is not None
    call.end()
    assert admission.refusal() is None


def test_a_call_without_a_message_is_ended_in_time_and_no_other() -> None:
    time = Time()
    refused: list[ServingError] = []
    admission = Admission(10, lambda error, _: refused.append(error), clock=time)
    silent, speaking = begin(admission), begin(admission)
    admission.received(speaking)
    time.now = 1
    late = begin(admission)

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
    silent, speaking = begin(admission), begin(admission)
    admission.received(speaking)
    time.now = 0.5
    assert admission.refusal() is not None, "its message may still be on its way"

    time.now = 1
    begin(admission)
    assert silent.error is not None
    assert speaking.error is None
    assert admission.refusal() is not None


def test_a_stop_is_told_to_all_calls_and_to_later_ones() -> None:
    admission = Admission(2)
    before = begin(admission)
    admission.stop()
    after = begin(admission)

    assert before.is_told
    assert after.is_told


def test_what_is_under_way_can_be_ended() -> None:
    admission = Admission(2)
    calls = [begin(admission), begin(admission)]
    admission.received(calls[0])
    error = ServingError("over")
    admission.end_all(error)

    assert [call.error for call in calls] == [error, error]
    assert admission.under_way == 0


@given(st.lists(st.sampled_from(["come", "speak", "end", "wait", "sweep"])), st.integers(1, 4))
def test_there_are_never_more_than_the_most_and_each_is_counted_once(
    steps: list[str], most: int
) -> None:
    time = Time()
    admission = Admission(most, clock=time)
    alive: list[FakeCall] = []
    for step in steps:
        if step == "come":
            if admission.refusal() is None:
                admission.come()
                alive.append(FakeCall(admission))
                admission.begin(alive[-1])
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
