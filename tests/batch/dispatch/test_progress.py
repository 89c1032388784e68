from __future__ import annotations

import io
import os

import pytest

from ladle.batch.dispatch.progress import Progress, ProgressState, bar, duration, line, write_line


def state(rows: int = 5000, share: float = 0.5, elapsed_s: float = 10.0) -> ProgressState:
    return ProgressState(
        rows=rows,
        failed=3,
        share=share,
        in_flight=8,
        elapsed_s=elapsed_s,
        rows_before=1000,
        share_before=0.1,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_tells_rows_speed_time_left_and_failures() -> None:
    assert line(state()) == "5,000 rows, 50%, 400 rows/s, 12 s left, 3 failed"


def test_what_is_not_known_is_not_told() -> None:
    assert line(state(share=0.0)) == "5,000 rows, 400 rows/s, 3 failed"


def test_a_bar_fits_the_terminal() -> None:
    assert bar(state(), 200).startswith("[############............] 5,000 rows, 50%")
    assert bar(state(), 200).endswith("8 in flight")
    assert len(bar(state(), 30)) == 29


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_elsewhere_than_on_a_terminal_there_is_a_line_now_and_then() -> None:
    now, stream = [0.0], io.StringIO()
    progress = Progress(stream, now=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        progress.show(state())
    progress.end()
    assert stream.getvalue() == (line(state()) + "\n") * 2


def test_a_terminal_has_one_line_that_is_written_over_and_taken_away() -> None:
    now, stream = [0.0], Terminal()
    progress = Progress(stream, now=lambda: now[0])
    for rows in (5_000_000, 5000):
        now[0] += 1
        progress.show(state(rows))
    progress.end()
    _, first, second, blank, rest = stream.getvalue().split("\r")
    assert len(second) == len(first), "what the longer line left is written over"
    assert (blank.strip(), rest) == ("", "")


def test_quiet_tells_nothing() -> None:
    now, stream = [0.0], Terminal()
    progress = Progress(stream, is_quiet=True, now=lambda: now[0])
    now[0] = 100
    progress.show(state())
    progress.end()
    assert stream.getvalue() == ""


def test_a_pipe_that_nobody_reads_any_more_takes_all_that_is_shown() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        write_line(stream, "one")
        write_line(stream, "two")
        stream.write("three")  # written when the stream is closed
