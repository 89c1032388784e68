"""How requests become calls: retries, addresses, deadlines; without gRPC and without time."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from ladle.client.calls.effects import Failure, Flow, Outcome, Pause, Raced, Second, Send
from ladle.client.calls.fleet import Fleet
from ladle.client.calls.retry import Hedge, Retry
from ladle.client.calls.retry_loop import drive
from ladle.client.errors import DeadlineExceeded, LadleError, Unavailable, from_status
from ladle.client.messages import requests
from ladle.client.messages.requests import EncodedRequest

Code = grpc.StatusCode
REQUEST = EncodedRequest(requests.PREDICT, b"asked")


def fails(code: grpc.StatusCode = Code.UNAVAILABLE, pushback: str | None = None) -> Failure:
    return Failure(from_status(code, "as the test says", "the fake"), pushback)


class FakeFleet:
    """Servers that answer as `outcomes` say, one for each call, in a time that only pauses take."""

    def __init__(
        self,
        outcomes: list[Outcome],
        *,
        addresses: int = 1,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        call_s: float = 0.0,
    ) -> None:
        names = [f"server-{index}" for index in range(addresses)]
        self.fleet = Fleet(names, retry=retry or Retry(), hedge=hedge)
        self.outcomes = outcomes
        self.call_s = call_s
        self.now_s = 0.0
        self.sent: list[Send] = []
        self.pauses_s: list[float] = []

    def run(self, flow: Flow[bytes] | None = None, timeout_s: float = 30.0) -> bytes:
        talk = drive(
            flow or once(), self.fleet, self.now_s + timeout_s, lambda: self.now_s, lambda: 1.0
        )
        try:
            effect = next(talk)
            while True:
                if isinstance(effect, Pause):
                    self.pauses_s.append(effect.seconds)
                    self.now_s += effect.seconds
                    effect = talk.send(None)
                else:
                    self.sent.append(effect)
                    self.now_s += self.call_s
                    effect = talk.send(self.outcomes.pop(0))
        except StopIteration as finished:
            result: bytes = finished.value
            return result


def once() -> Flow[bytes]:
    return (yield REQUEST)


def test_an_answer_is_handed_over() -> None:
    world = FakeFleet([b"answer"])
    assert world.run() == b"answer"
    (sent,) = world.sent
    assert (sent.request, sent.timeout_s, sent.what) == (REQUEST, 30.0, "Predict at server-0")


def test_what_no_server_could_take_is_sent_again() -> None:
    world = FakeFleet([fails(), fails(), b"answer"])
    assert world.run() == b"answer"
    assert world.pauses_s == pytest.approx([0.1, 0.2])
    assert [sent.timeout_s for sent in world.sent] == pytest.approx([30.0, 29.9, 29.7])


def test_another_address_is_tried_at_once() -> None:
    world = FakeFleet([fails(), fails(), fails(), b"answer"], addresses=3)
    assert world.run() == b"answer"
    assert sorted(sent.address for sent in world.sent[:3]) == [0, 1, 2]
    assert world.pauses_s == pytest.approx([0.4])


def test_the_last_failure_is_told_when_no_attempt_is_left() -> None:
    world = FakeFleet([fails()] * 9, retry=Retry(max_attempts=3))
    with pytest.raises(Unavailable, match="as the test says"):
        world.run()
    assert len(world.sent) == 3


def test_other_failures_are_told_at_once() -> None:
    world = FakeFleet([fails(Code.INTERNAL)], addresses=2)
    with pytest.raises(LadleError) as caught:
        world.run()
    assert caught.value.code is Code.INTERNAL


def test_the_server_can_ask_to_be_left_alone() -> None:
    with pytest.raises(Unavailable):
        FakeFleet([fails(pushback="-1")], addresses=2).run()
    world = FakeFleet([fails(pushback="1500"), b"answer"], addresses=2)
    world.run()
    assert world.pauses_s == [1.5]


def test_retries_end_where_the_budget_does() -> None:
    """Each call that fails for good would be made five times, and two hundred tokens are there."""
    world = FakeFleet([fails() for _ in range(1_000)])
    for _ in range(100):
        with pytest.raises(Unavailable):
            world.run()
    assert 300 <= len(world.sent) <= 100 + 200 + 0.2 * 100


def test_nothing_is_sent_after_the_deadline() -> None:
    def twice() -> Flow[bytes]:
        yield REQUEST
        return (yield REQUEST)

    world = FakeFleet([b"first"], call_s=5.0)
    with pytest.raises(DeadlineExceeded, match="had passed before it was sent"):
        world.run(twice(), timeout_s=5.0)
    assert len(world.sent) == 1


def test_a_retry_that_would_come_too_late_is_not_made() -> None:
    world = FakeFleet([fails()], call_s=4.95)
    with pytest.raises(Unavailable):
        world.run(timeout_s=5.0)


def test_a_pause_of_the_flows_ends_with_the_deadline() -> None:
    def patient() -> Flow[bytes]:
        yield Pause(100.0)
        return (yield REQUEST)

    world = FakeFleet([])
    with pytest.raises(DeadlineExceeded):
        world.run(patient(), timeout_s=3.0)
    assert world.pauses_s == [3.0]


@pytest.mark.parametrize(
    ("method", "is_hedged"),
    [(requests.PREDICT, True), (requests.CLASSIFY, True), (requests.RELOAD_CONFIG, False)],
)
def test_predictions_are_hedged_at_another_address(method: str, is_hedged: bool) -> None:
    def ask() -> Flow[bytes]:
        return (yield EncodedRequest(method, b""))

    world = FakeFleet([b"answer"], addresses=2, hedge=Hedge(after_s=0.05))
    world.run(ask())
    (sent,) = world.sent
    if is_hedged:
        assert isinstance(sent.second, Second)
        assert sent.second.address != sent.address
        assert sent.second.after_s == 0.05
    else:
        assert sent.second is None


def raced(*ended: tuple[int, bytes | Failure]) -> Raced:
    return Raced(ended)


def test_what_comes_of_a_hedge_is_noted_of_who_answered() -> None:
    """An answer of the second server doesn't make the first one's failures undone."""
    world = FakeFleet([raced((1, b"answer"))], addresses=2, hedge=Hedge(after_s=0.05))
    world.fleet.failed(0, Code.UNAVAILABLE, now=-1.0)
    assert world.run() == b"answer"
    assert world.sent[0].address == 0
    world.fleet.failed(0, Code.UNAVAILABLE, now=0.0)
    assert {world.fleet.pick(set(), 0.19) for _ in range(4)} == {1}, "the second in a row"


def test_a_hedge_answers_for_a_first_attempt_that_failed() -> None:
    world = FakeFleet([raced((0, fails()), (1, b"answer"))], addresses=2, hedge=Hedge(after_s=0.05))
    assert world.run() == b"answer"
    assert {world.fleet.pick(set(), world.now_s) for _ in range(4)} == {1}


def test_a_call_whose_attempts_both_failed_is_made_elsewhere() -> None:
    outcomes: list[Outcome] = [raced((0, fails()), (1, fails())), b"answer"]
    world = FakeFleet(outcomes, addresses=3, hedge=Hedge(after_s=0.05))
    assert world.run() == b"answer"
    assert [sent.address for sent in world.sent] == [0, 2]
    assert not world.pauses_s


def test_hedges_take_nobodys_turn() -> None:
    world = FakeFleet([b"answer"] * 4, addresses=2, hedge=Hedge(after_s=0.05))
    for _ in range(4):
        world.run()
    assert [sent.address for sent in world.sent] == [0, 1, 0, 1]


def test_hedges_keep_to_their_share() -> None:
    world = FakeFleet([b""] * 1_000, addresses=2, hedge=Hedge(after_s=0.05, max_share=0.1))
    allowed = 0
    for _ in range(1_000):
        world.run()
        second = world.sent[-1].second
        assert second is not None
        allow: Callable[[], bool] = second.allow
        allowed += allow()
    assert 90 <= allowed <= 102
