"""How much may wait for a version, and the error of a request that would be too much."""

from __future__ import annotations

from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth
from ladle.server.core.errors import Unavailable

_DEFAULTS = BatchOptions()
# A hint for a caller that was refused; what a batch takes is known only roughly.
_MAX_RETRY_AFTER_S = 10.0


class QueueCapacity:
    """What is left of the places and bytes in a version's queues.

    Thread-safe: `check` reads the depth with or without the batcher's lock. Without it the figures
    may be a request old.
    """

    def __init__(self, depth: QueueDepth, max_bytes: int) -> None:
        """`depth` is what waits; `max_bytes` of inputs may."""
        self._depth = depth
        self._max_bytes = max_bytes
        self._batch_s = 0.0

    def batch_took(self, seconds: float) -> None:
        """Take note of how long a batch ran."""
        self._batch_s = 0.8 * self._batch_s + 0.2 * seconds

    def check(self, rows: int, nbytes: int, options: BatchOptions | None) -> None:
        """Refuse a request that would wait and find no place. One that need not wait has a place.

        Raises:
            Unavailable: So many rows or bytes would be too many.
        """
        depth = self._depth
        if not depth.requests:
            return
        options = options or _DEFAULTS
        room = options.max_batch_size * options.max_enqueued_batches
        if depth.rows + rows > room:
            excess = f"{depth.rows} rows wait of at most {room}, and the request brings {rows}"
        elif depth.nbytes + nbytes > self._max_bytes:
            excess = (
                f"{depth.nbytes} bytes wait of at most {self._max_bytes}, "
                f"and the request brings {nbytes}"
            )
        else:
            return
        # These words are what scripts around upstream look for.
        error = Unavailable(
            "The batch scheduling queue to which this task was submitted is full: "
            f"{excess}; try again later"
        )
        error.reason = "queue_full"
        batches = 1 + depth.rows / options.max_batch_size
        error.retry_after_s = min(batches * self._batch_s, _MAX_RETRY_AFTER_S)
        raise error
