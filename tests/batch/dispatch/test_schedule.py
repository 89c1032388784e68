"""A model check of the schedule: whatever happens, it ends, with every row once, in order.

Hypothesis chooses what the world does: when the reader reads, which request comes back, with an
answer, a refusal, a timeout or a complaint about a row, and when a server dies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.batch.dispatch.options import Options
from ladle.batch.dispatch.reader_thread import CHUNKS_AHEAD
from ladle.batch.dispatch.schedule import Schedule
from ladle.batch.dispatch.steps import (
    Finish,
    GiveUp,
    Send,
    WaitForAnswers,
    WaitForReader,
    WaitForRetry,
    Write,
    next_step,
)
from ladle.batch.errors import BatchError, ModelLost
from ladle.batch.rows import FailedRow, Part
from ladle.client import DeadlineExceeded, InvalidInput, LadleError, Prediction, Unavailable

# More steps than any of these runs can take; one that takes more goes round in circles.
MAX_STEPS = 20_000


@dataclass
class FakeFleet:
    """Everything outside the schedule, with a clock that moves only while a run waits."""

    chance: random.Random
    rows: int
    chunk_rows: int
    unreadable: set[int]
    bad: set[int]
    """Rows that fail a request."""
    refused: float
    """The share of requests that are refused."""
    timed_out: float
    silent: float
    """The share of requests that never come back."""
    deadly: float
    """The share of events that are the death of a server."""
    servers: int = 3
    alive: int = 3
    now_s: float = 0.0
    answered: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    @property
    def written(self) -> int:
        return len(self.answered) + len(self.failed)

    def run(self, options: Options) -> bool:
        """Run from the first row that is not written; tell whether the run ended with all."""
        permits = CHUNKS_AHEAD

        def used_up() -> None:
            nonlocal permits
            permits += 1

        chunks = self.chunks(self.written)
        has_ended = False
        schedule = Schedule(
            options,
            first_row=self.written,
            rows_before=self.written,
            failed_before=len(self.failed),
            used_up=used_up,
            now_s=self.now_s,
        )
        in_flight: dict[int, Part] = {}
        lost: set[int] = set()

        def read() -> None:
            nonlocal permits, has_ended
            permits -= 1
            chunk = next(chunks, None)
            if chunk is None:
                has_ended = True
                schedule.end_input()
            else:
                schedule.add_chunk(chunk)

        for _ in range(MAX_STEPS):
            can_read = permits > 0 and not has_ended
            match next_step(schedule.state(self.now_s)):
                case Send():
                    if (request := schedule.send(self.now_s)) is not None:
                        in_flight[request.serial] = request.part
                        if self.chance.random() < self.silent:
                            lost.add(request.serial)
                    assert len(in_flight) <= options.max_in_flight
                case Write():
                    answered = schedule.pop_answer()
                    assert answered.start == self.written
                    self.answered += answered.numbers.tolist()
                    self.failed += [row.row for row in answered.failed]
                    assert answered.stop == self.written
                case WaitForReader():
                    assert can_read, "it waits for a reader that can't read"
                    self.now_s += 100.0  # however slow it is
                    read()
                case WaitForRetry(until_s):
                    assert not in_flight
                    assert until_s > self.now_s
                    if can_read and self.chance.random() < 0.3:
                        read()
                    else:
                        self.now_s = until_s
                case WaitForAnswers(until_s):
                    assert in_flight, "it waits for an answer, and nothing is in flight"
                    assert until_s > self.now_s
                    back = [serial for serial in in_flight if serial not in lost]
                    if can_read and self.chance.random() < 0.3:
                        read()
                    elif not back:
                        self.now_s = until_s
                    elif self.alive and self.chance.random() < self.deadly:
                        self.alive -= 1
                        for serial in list(in_flight):  # each server had some
                            if serial in back and self.chance.randrange(self.servers) == 0:
                                del in_flight[serial]
                                schedule.take_failure(serial, Unavailable("gone"), self.now_s)
                    else:
                        serial = self.chance.choice(back)
                        part = in_flight.pop(serial)
                        self.now_s += 0.01
                        outcome = self.outcome(part)
                        if isinstance(outcome, LadleError):
                            schedule.take_failure(serial, outcome, self.now_s)
                        else:
                            schedule.take_answer(serial, outcome, self.now_s)
                case GiveUp():
                    assert lost >= in_flight.keys(), "it gives up what comes back"
                    assert str(schedule.silence(self.now_s)).startswith("no answer and no error")
                    return False
                case Finish():
                    assert self.written == self.rows
                    return True
        raise AssertionError("the run doesn't end")

    def chunks(self, start: int) -> Iterator[Part]:
        while start < self.rows:
            stop = min(start + self.chance.randint(1, self.chunk_rows), self.rows)
            numbers = np.array([n for n in range(start, stop) if n not in self.unreadable], int)
            unread = sorted(self.unreadable & set(range(start, stop)))
            yield Part(
                start=start,
                stop=stop,
                numbers=numbers,
                tensors={"x": numbers},
                kept={},
                failed=tuple(FailedRow(n, "BAD", "unreadable") for n in unread),
            )
            start = stop

    def outcome(self, part: Part) -> Prediction | LadleError:
        if not self.alive or self.chance.random() < self.refused:
            return Unavailable("refused")
        if self.chance.random() < self.timed_out:
            return DeadlineExceeded("late")
        if self.bad & set(part.numbers.tolist()):
            return InvalidInput("bad")
        return Prediction(outputs={"y": part.numbers}, model="m", version=1, signature="s")


@settings(max_examples=300, deadline=None)
@given(
    chance=st.randoms(use_true_random=False),
    rows=st.integers(0, 120),
    chunk_rows=st.integers(1, 60),
    unreadable=st.sets(st.integers(0, 119), max_size=6),
    bad=st.sets(st.integers(0, 119), max_size=6),
    refused=st.sampled_from([0.0, 0.005, 0.02, 0.15, 0.6]),
    timed_out=st.sampled_from([0.0, 0.05]),
    silent=st.sampled_from([0.0, 0.0, 0.02]),
    deadly=st.sampled_from([0.0, 0.02, 0.1]),
    request_rows=st.integers(1, 12),
    shard_rows=st.integers(4, 50),
    max_in_flight=st.integers(1, 6),
)
def test_whatever_happens_it_waits_for_something_and_every_row_is_there_once(
    chance: random.Random,
    rows: int,
    chunk_rows: int,
    unreadable: set[int],
    bad: set[int],
    refused: float,
    timed_out: float,
    silent: float,
    deadly: float,
    request_rows: int,
    shard_rows: int,
    max_in_flight: int,
) -> None:
    world = FakeFleet(
        chance=chance,
        rows=rows,
        chunk_rows=chunk_rows,
        unreadable=unreadable,
        bad=bad,
        refused=refused,
        timed_out=timed_out,
        silent=silent,
        deadly=deadly,
    )
    options = Options(
        request_rows=request_rows,
        max_in_flight=max_in_flight,
        shard_rows=shard_rows,
        timeout_s=5.0,
        patience_s=20.0,
        max_failed=rows,
    )
    while True:
        began_s = world.now_s
        try:
            if world.run(options):
                break
        except ModelLost:
            assert world.now_s - began_s > options.patience_s
        # The same command again, with servers that were started again.
        world.alive, world.deadly, world.silent = world.servers, 0.0, 0.0
        world.refused = min(world.refused, 0.15)
    assert sorted(world.answered + world.failed) == list(range(rows))
    assert world.answered == sorted(world.answered)
    # A row that was refused eight times while others were answered fails as well.
    assert {n for n in unreadable | bad if n < rows} <= set(world.failed)
    if not refused and not timed_out and not deadly:
        assert set(world.failed) == {n for n in unreadable | bad if n < rows}


def part(rows: int) -> Part:
    numbers = np.arange(rows)
    return Part(start=0, stop=rows, numbers=numbers, tensors={"x": numbers}, kept={})


def begun(options: Options, rows: int = 8) -> Schedule:
    schedule = Schedule(
        options, first_row=0, rows_before=0, failed_before=0, used_up=lambda: None, now_s=0.0
    )
    schedule.add_chunk(part(rows))
    schedule.end_input()
    return schedule


def test_a_request_that_never_comes_back_ends_the_run_after_timeout_and_patience() -> None:
    schedule = begun(Options(timeout_s=30.0, patience_s=60.0))
    schedule.send(5.0)
    assert next_step(schedule.state(5.0)) == WaitForAnswers(95.0)
    assert next_step(schedule.state(95.0)) == GiveUp()
    assert str(schedule.silence(95.0)) == (
        "no answer and no error for 90 s, which is longer than --timeout and --patience together; "
        "requests in flight: 1"
    )


def test_a_refused_request_waits_longer_each_time_and_then_its_rows_are_sent_in_halves() -> None:
    schedule = begun(Options(max_in_flight=1, request_rows=8, patience_s=1e9))
    now_s, waits = 0.0, []
    for _ in range(3):
        request = schedule.send(now_s)
        assert request is not None
        schedule.take_failure(request.serial, Unavailable("no"), now_s)
        step = next_step(schedule.state(now_s))
        assert isinstance(step, WaitForRetry)
        waits.append(round(step.until_s - now_s, 3))
        now_s = step.until_s
    assert waits == [0.1, 0.2, 0.4]


def test_two_halves_that_are_answered_show_that_the_request_was_too_large() -> None:
    schedule = begun(Options(max_in_flight=1, request_rows=8), rows=16)
    whole = schedule.send(0.0)
    assert whole is not None
    schedule.take_failure(whole.serial, InvalidInput("too many rows"), 0.0)
    sizes = []
    while next_step(schedule.state(0.0)) != Finish():
        if next_step(schedule.state(0.0)) == Write():
            schedule.pop_answer()
            continue
        request = schedule.send(0.0)
        assert request is not None
        sizes.append(len(request.part.numbers))
        answer = Prediction(
            outputs={"y": request.part.numbers}, model="m", version=1, signature="s"
        )
        schedule.take_answer(request.serial, answer, 0.0)
    assert sizes == [4, 4, 4, 4]


def test_an_output_without_a_row_for_each_input_ends_the_run() -> None:
    schedule = begun(Options())
    request = schedule.send(0.0)
    assert request is not None
    answer = Prediction(outputs={"y": np.zeros(3)}, model="m", version=1, signature="s")
    with pytest.raises(BatchError, match='output "y": expected 8 rows for as many inputs'):
        schedule.take_answer(request.serial, answer, 0.0)
