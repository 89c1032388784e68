"""A file of answers that a shadow gave otherwise than stable: a JSON line for each."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.server.core.errors import Code
from ladle.server.core.rollout.agreement import Comparison

logger = logging.getLogger(__name__)

_WAIT_S = 1.0
MAX_BYTES = 64 << 20
"""A file that is as large gets nothing more."""
_MAX_VALUES = 32
_MAX_OUTPUTS = 16
_MAX_TEXT = 200


class ShadowLog:
    """One file; one line a second at most. One thread uses it, and it may block there.

    Several processes may write one file: each line is one write to its end.
    """

    def __init__(
        self,
        path: str,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take the file; nothing is made before the first line."""
        self._path = path
        self._now = now
        self._wall = wall
        self._next_s = float("-inf")
        self._has_failed = False

    def write(self, comparison: Comparison) -> None:
        """Write how an answer differs, if it does, and a second has passed. Never raises."""
        if comparison.code is Code.OK and comparison.row is None:
            return
        now_s = self._now()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _WAIT_S
        line = json.dumps(_fields(comparison, self._wall())) + "\n"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size + len(line) > MAX_BYTES:
                    raise OSError(f"it has {MAX_BYTES >> 20} MiB, and gets nothing more")
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._has_failed:
                reason = error.strerror or str(error)
                logger.error("the log of a shadow can't be written: %s: %s", self._path, reason)
            self._has_failed = True
        else:
            self._has_failed = False


def example(
    callers: Mapping[str, NDArray[Any]], others: Mapping[str, NDArray[Any]], row: int
) -> dict[str, tuple[object, object]]:
    """Return one row of each output of two answers, as JSON has it; long ones are shortened."""
    return {
        alias: (_row(array, row), _row(others.get(alias), row))
        for alias, array in list(callers.items())[:_MAX_OUTPUTS]
    }


def _row(array: NDArray[Any] | None, row: int) -> object:
    if array is None:
        return None
    if array.ndim:
        if row >= len(array):
            return None
        array = np.asarray(array[row : row + 1])
    return [_value(value) for value in array.reshape(-1)[:_MAX_VALUES].tolist()]


def _value(value: object) -> object:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)  # JSON has no other numbers
    return str(value)[:_MAX_TEXT]


def _fields(comparison: Comparison, wall_s: float) -> dict[str, object]:
    return {
        "time": datetime.fromtimestamp(wall_s, timezone.utc).isoformat(timespec="milliseconds"),
        "model": comparison.model,
        "stable": comparison.stable,
        "shadow": comparison.version,
        "request_id": comparison.request_id,
        **({"row": comparison.row} if comparison.row is not None else {}),
        **(
            {"code": comparison.code.name, "error": comparison.error[:_MAX_TEXT]}
            if comparison.code is not Code.OK
            else {}
        ),
        "outputs": {
            alias: {"stable": mine, "shadow": theirs}
            for alias, (mine, theirs) in comparison.answers.items()
        },
    }
