"""In every state there is a step, and no step waits for what can't come."""

from __future__ import annotations

from itertools import product

from ladle.batch.dispatch.steps import (
    Finish,
    GiveUp,
    ScheduleState,
    Send,
    WaitForAnswers,
    WaitForReader,
    WaitForRetry,
    Write,
    next_step,
)

NOW_S = 100.0
STATES = [
    ScheduleState(
        now_s=NOW_S,
        in_flight=in_flight,
        limit=limit,
        retry_at_s=retry_at_s,
        has_unsent_rows=has_unsent_rows,
        is_read=is_read,
        can_write=can_write,
        backlog=backlog,
        max_backlog=8,
        is_buffer_full=is_buffer_full,
        silent_until_s=silent_until_s,
    )
    for (
        in_flight,
        limit,
        retry_at_s,
        has_unsent_rows,
        is_read,
        can_write,
        backlog,
        is_buffer_full,
        silent_until_s,
    ) in product(
        (0, 1, 2, 3),
        (1, 2),
        (None, NOW_S - 1, NOW_S, NOW_S + 5),
        (False, True),
        (False, True),
        (False, True),
        (0, 7, 8, 9),
        (False, True),
        (NOW_S, NOW_S + 2, NOW_S + 90),
    )
]


def test_an_answer_is_written_before_anything_else() -> None:
    """64 answers behind a late row kept new rows back, and none of the 64 was written."""
    for state in STATES:
        assert (next_step(state) == Write()) == state.can_write


def test_nothing_is_sent_beyond_the_limit_and_only_what_is_there() -> None:
    for state in STATES:
        if next_step(state) == Send():
            is_due = state.retry_at_s is not None and state.retry_at_s <= NOW_S
            assert state.in_flight < state.limit
            assert is_due or state.has_unsent_rows


def test_new_rows_wait_while_many_answers_do_unless_nothing_is_under_way() -> None:
    for state in STATES:
        if next_step(state) == Send() and state.retry_at_s is None and state.in_flight:
            assert state.backlog < state.max_backlog
            assert not state.is_buffer_full


def test_each_wait_is_for_something_that_comes() -> None:
    for state in STATES:
        match next_step(state):
            case WaitForAnswers(until_s):
                assert state.in_flight
                assert NOW_S < until_s <= state.silent_until_s
            case WaitForRetry(until_s):
                assert until_s == state.retry_at_s
                assert until_s > NOW_S
                assert not state.in_flight
            case WaitForReader():
                # All chunks are used up, so the reader may read.
                assert not state.is_read
                assert (state.in_flight, state.has_unsent_rows) == (0, False)
                assert state.retry_at_s is None


def test_a_run_ends_with_nothing_left_or_after_a_long_silence() -> None:
    for state in STATES:
        match next_step(state):
            case Finish():
                assert state.is_read
                assert (state.in_flight, state.has_unsent_rows) == (0, False)
                assert (state.retry_at_s, state.can_write) == (None, False)
            case GiveUp():
                assert state.in_flight
                assert state.silent_until_s <= NOW_S
