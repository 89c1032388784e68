"""When failures end a run: those of rows, and those of the server."""

from __future__ import annotations

from ladle.batch.errors import BatchError, ModelLost, one_line
from ladle.batch.pace import is_busy
from ladle.batch.rows import Answered, FailedRow
from ladle.client.errors import LadleError, NotFound

# A run whose first rows all fail ends, unless it is told how many may: what is wrong with them is
# likely wrong with all.
HOPELESS_ROWS = 200


class Tally:
    """Counts rows as they are answered, in whatever order."""

    def __init__(self, max_failed: int | None, *, rows_before: int, failed_before: int) -> None:
        """Begin with the rows of earlier runs, and of these the ones that failed.

        `max_failed` of all may fail; None for any number, if some were answered.
        """
        self._max_failed = max_failed
        self._answered = rows_before - failed_before
        self._failed_before = failed_before
        self._failed_now = 0
        self._first: FailedRow | None = None

    def count(self, answered: Answered) -> None:
        """Count some rows.

        Raises:
            BatchError: More have failed than may.
        """
        self._answered += len(answered.numbers)
        self._failed_now += len(answered.failed)
        if not answered.failed:
            return
        self._first = min(self._first or answered.failed[0], answered.failed[0])
        first = f"row {self._first.row}: {self._first.reason}"
        most = self._max_failed
        if most is not None:
            if self._failed_before + self._failed_now > most:
                raise BatchError(f"more than {most} rows failed; {first}")
        elif not self._answered and self._failed_now >= HOPELESS_ROWS:
            raise BatchError(
                f"the first {self._failed_now} rows all failed, which --max-failed would allow; "
                f"{first}"
            )


def stopped(error: LadleError, silent_s: float) -> BatchError:
    """Return what ends a run where no request can succeed any more; none has for `silent_s`."""
    if is_busy(error):
        return ModelLost(f"no answer for {silent_s:.0f} s: {one_line(error)}")
    if isinstance(error, NotFound):
        return ModelLost(
            f"{one_line(error)}; if another version has taken over, --allow-changed-model goes "
            "on with it, and --restart begins anew"
        )
    return BatchError(one_line(error))
