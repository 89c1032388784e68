"""What a stream does next."""

from __future__ import annotations

import pytest

from ladle.client.errors import InvalidInput
from ladle.client.streaming.window import NextAction, StreamWindow, result_or_raise

HAND_OVER, READ, WAIT, END = NextAction


def filled(size: int, *, ordered: bool = True) -> StreamWindow[str]:
    window: StreamWindow[str] = StreamWindow(size, ordered=ordered)
    for index in range(size):
        assert window.next() is READ
        assert window.read() == index
    return window


def test_no_more_is_read_than_the_window_holds() -> None:
    window = filled(3)
    assert window.next() is WAIT


def test_a_result_makes_room_only_when_it_is_handed_over() -> None:
    window = filled(2)
    window.finish(1, "second")
    assert window.next() is WAIT  # the first is still out, and the window is full
    window.finish(0, "first")
    assert [window.next(), window.hand_over()] == [HAND_OVER, (0, "first")]
    assert [window.next(), window.hand_over()] == [HAND_OVER, (1, "second")]
    assert window.next() is READ


def test_results_come_as_they_are_ready_where_order_does_not_matter() -> None:
    window = filled(3, ordered=False)
    window.finish(2, "third")
    window.finish(0, "first")
    assert [window.hand_over(), window.hand_over()] == [(2, "third"), (0, "first")]
    assert window.next() is READ


def test_a_result_is_not_kept_until_the_next_input_comes() -> None:
    window: StreamWindow[str] = StreamWindow(8, ordered=True)
    window.read()
    window.finish(0, "first")
    assert window.next() is HAND_OVER


def test_it_ends_when_all_is_handed_over() -> None:
    window: StreamWindow[str] = StreamWindow(8, ordered=True)
    assert window.next() is READ
    window.read()
    window.end()
    assert window.next() is WAIT
    window.finish(0, "only")
    assert window.next() is HAND_OVER
    window.hand_over()
    assert window.next() is END


@pytest.mark.parametrize("ordered", [True, False])
def test_the_sources_error_comes_after_all_results(ordered: bool) -> None:
    window: StreamWindow[str] = StreamWindow(8, ordered=ordered)
    window.read()
    broken = OSError("the disk")
    window.end(broken)
    assert window.next() is WAIT
    window.finish(0, "only")
    assert window.hand_over() == (0, "only")
    assert [window.next(), window.hand_over()] == [HAND_OVER, (1, broken)]
    assert window.next() is END


def test_a_window_holds_something() -> None:
    with pytest.raises(ValueError, match="window: expected 1 or more, got 0"):
        StreamWindow(0, ordered=True)


def test_errors_go_to_who_wants_them() -> None:
    told: list[object] = []
    error = InvalidInput("bad")
    assert result_or_raise(3, error, lambda index, error: told.append((index, error))) is None
    assert told == [(3, error)]
    with pytest.raises(InvalidInput):
        result_or_raise(3, error, None)
    with pytest.raises(OSError, match="disk"):
        result_or_raise(3, OSError("disk"), lambda index, error: told.append(error))
    assert result_or_raise(3, "fine", None) == "fine"
