"""What a stream does next: yield a result, read an input, or wait; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Generic, TypeVar

from ladle.client.errors import LadleError

R = TypeVar("R")

OnError = Callable[[int, LadleError], object]
"""Called with the index of the input that failed, counted from 0, and its error."""


class NextAction(Enum):
    """What is next."""

    HAND_OVER = auto()
    READ = auto()
    WAIT = auto()
    END = auto()


class StreamWindow(Generic[R]):
    """The inputs of a stream that were read and whose results were not yielded yet.

    Not thread-safe: the consumer of the stream owns it.
    """

    def __init__(self, size: int, *, ordered: bool) -> None:
        """Make a window of at most `size` inputs.

        Raises:
            TypeError: `size` is no whole number.
            ValueError: `size` is less than 1.
        """
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"window: expected a whole number, got {size!r}")
        if size < 1:
            raise ValueError(f"window: expected 1 or more, got {size}")
        self._size = size
        self._ordered = ordered
        self._read = 0
        self._handed_over = 0
        self._has_ended = False
        self._end_error: Exception | None = None
        self._finished: dict[int, R | Exception] = {}

    def next(self) -> NextAction:
        """Return the next action.

        A finished result comes first, so that no result waits for an input. Then inputs are read
        until the window is full.
        """
        if self._finished and (not self._ordered or self._handed_over in self._finished):
            return NextAction.HAND_OVER
        under_way = self._read - self._handed_over
        if self._end_error is not None and not under_way:
            return NextAction.HAND_OVER
        if not self._has_ended and under_way < self._size:
            return NextAction.READ
        return NextAction.WAIT if under_way else NextAction.END

    def read(self) -> int:
        """Note that an input was read, and return its index."""
        self._read += 1
        return self._read - 1

    def end(self, error: Exception | None = None) -> None:
        """Note that there are no more inputs; `error` is raised after all results."""
        self._has_ended = True
        self._end_error = error

    def finish(self, index: int, result: R | Exception) -> None:
        """Note the result of an input."""
        self._finished[index] = result

    def hand_over(self) -> tuple[int, R | Exception]:
        """Remove and return the next index and its result."""
        if not self._finished:
            assert self._end_error is not None  # or else `next` had said something else
            error, self._end_error = self._end_error, None
            return self._read, error
        # dicts keep the order in which results came
        index = self._handed_over if self._ordered else next(iter(self._finished))
        self._handed_over += 1
        return index, self._finished.pop(index)


def result_or_raise(index: int, result: R | Exception, on_error: OnError | None) -> R | None:
    """Return the result; None if it is an error and `on_error` was called with it.

    Raises:
        LadleError: The result is one, and there is no `on_error`.
        Exception: The iterable of the inputs raised it.
    """
    if not isinstance(result, Exception):
        return result
    if on_error is None or not isinstance(result, LadleError):
        raise result
    on_error(index, result)
    return None
