"""Shows the progress of a run: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

_BAR_INTERVAL_S = 0.2
_LINE_INTERVAL_S = 10.0
_BAR_WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class ProgressState:
    """The progress of a run."""

    rows: int
    """How many rows are done, those of earlier runs included."""
    failed: int
    share: float
    """How much of the input is done, from 0 to 1; 0 where that is unknown."""
    in_flight: int
    elapsed_s: float
    """Seconds since this run began."""
    rows_before: int
    """How many rows earlier runs did."""
    share_before: float

    @property
    def rows_per_s(self) -> float:
        """How many rows this run does in a second."""
        return (self.rows - self.rows_before) / max(self.elapsed_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this speed; None while that is unknown."""
        done = self.share - self.share_before
        return None if done <= 0 else self.elapsed_s * (1 - self.share) / done


def line(state: ProgressState) -> str:
    """Return the state as one line: `52,000 rows, 41%, 9,800 rows/s, 8 s left, 3 failed`."""
    parts = [f"{state.rows:,} rows"]
    if state.share:
        parts.append(f"{state.share:.0%}")
    parts.append(f"{state.rows_per_s:,.0f} rows/s")
    if state.left_s is not None:
        parts.append(f"{duration(state.left_s)} left")
    parts.append(f"{state.failed:,} failed")
    return ", ".join(parts)


def bar(state: ProgressState, width: int) -> str:
    """Return the state as a bar in one line of at most `width` characters."""
    filled = round(state.share * _BAR_WIDTH)
    drawn = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] " if state.share else ""
    return f"{drawn}{line(state)}, {state.in_flight} in flight"[: max(width - 1, 1)]


def duration(seconds: float) -> str:
    """Return a duration in the units that fit it: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def write_line(stream: TextIO, text: str) -> None:
    """Write a line at once; see `write`."""
    write(stream, text + "\n")


def write(stream: TextIO, text: str) -> None:
    """Write text and flush. Text for a pipe that nobody reads any more is dropped from then on."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The stream keeps the text, and would fail with it again when the process ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Progress:
    """Shows states on a stream, now and then; for one thread."""

    def __init__(
        self,
        stream: TextIO,
        *,
        is_quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._is_quiet = is_quiet
        self._now = now
        self._is_terminal = stream.isatty()
        self._shown_at = now()
        self._shown = 0

    def show(self, state: ProgressState) -> None:
        """Show a state, unless the last one was shown just now."""
        interval_s = _BAR_INTERVAL_S if self._is_terminal else _LINE_INTERVAL_S
        if self._is_quiet or self._now() - self._shown_at < interval_s:
            return
        self._shown_at = self._now()
        if self._is_terminal:
            shown = bar(state, shutil.get_terminal_size().columns)
            write(self._stream, f"\r{shown.ljust(self._shown)}")
            self._shown = len(shown)
        else:
            write_line(self._stream, line(state))

    def end(self) -> None:
        """Remove the bar, so that the next text begins a line."""
        if self._shown:
            write(self._stream, f"\r{' ' * self._shown}\r")
            self._shown = 0
