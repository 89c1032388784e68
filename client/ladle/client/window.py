"""What a stream does next: hand over a result, read an input, or wait. Decisions without I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Generic, TypeVar

from ladle.client.errors import LadleError

R = TypeVar("R")

OnError = Callable[[int, LadleError], object]
"""Is told which input of a stream failed, counted from 0, and how."""


class Step(Enum):
    """What is next."""

    HAND_OVER = auto()
    READ = auto()
    WAIT = auto()
    END = auto()


class Window(Generic[R]):
    """The inputs of a stream that were read and whose results were not handed over.

    Not thread-safe: it belongs to whoever consumes the stream.
    """

    def __init__(self, size: int, *, ordered: bool) -> None:
        """Make a window of at most `size` inputs.

        Raises:
            ValueError: `size` is less than 1.
        """
        if size < 1:
            raise ValueError(f"window: expected 1 or more, got {size}")
        self._size = size
        self._ordered = ordered
        self._read = 0
        self._handed_over = 0
        self._has_ended = False
        self._end_error: Exception | None = None
        self._finished: dict[int, R | Exception] = {}

    def next(self) -> Step:
        """Return what to do now.

        A result that is there goes first, so that it never waits for an input to come; then inputs
        are read as far as the window reaches.
        """
        if self._finished and (not self._ordered or self._handed_over in self._finished):
            return Step.HAND_OVER
        under_way = self._read - self._handed_over
        if self._end_error is not None and not under_way:
            return Step.HAND_OVER
        if not self._has_ended and under_way < self._size:
            return Step.READ
        return Step.WAIT if under_way else Step.END

    def read(self) -> int:
        """Note that an input was read, and return its index."""
        self._read += 1
        return self._read - 1

    def end(self, error: Exception | None = None) -> None:
        """Note that there are no more inputs; `error` is told after all results."""
        self._has_ended = True
        self._end_error = error

    def finish(self, index: int, result: R | Exception) -> None:
        """Note what came of an input."""
        self._finished[index] = result

    def hand_over(self) -> tuple[int, R | Exception]:
        """Return the index and the result that are next, and forget them."""
        if not self._finished:
            assert self._end_error is not None  # or else `next` had said something else
            error, self._end_error = self._end_error, None
            return self._read, error
        # dicts keep the order in which results came
        index = self._handed_over if self._ordered else next(iter(self._finished))
        self._handed_over += 1
        return index, self._finished.pop(index)


def result_or_raise(index: int, result: R | Exception, on_error: OnError | None) -> R | None:
    """Return the result; None where it is an error that `on_error` was told of.

    Raises:
        LadleError: The result is one, and nobody else wants to know.
        Exception: Whatever the source of the inputs raised.
    """
    if not isinstance(result, Exception):
        return result
    if on_error is None or not isinstance(result, LadleError):
        raise result
    on_error(index, result)
    return None
