"""When failures end a run: those of rows, and those of the servers."""

from __future__ import annotations

from ladle.batch.dispatch.retries import is_overload
from ladle.batch.errors import BatchError, ModelLost, one_line
from ladle.batch.rows import Answered, FailedRow
from ladle.client.errors import LadleError, NotFound

# A run ends when this many rows failed and none succeeded, because all others will most likely fail
# for the same reason. --max-failed sets another number.
HOPELESS_ROWS = 200


class FailureCounter:
    """Counts rows as their answers come, in any order; for one thread."""

    def __init__(self, max_failed: int | None, *, rows_before: int, failed_before: int) -> None:
        """Begin after `rows_before` rows of earlier runs, where `failed_before` rows failed.

        `max_failed` rows of all runs may fail; None for any number, once a row has succeeded.
        """
        self._max_failed = max_failed
        self._answered = rows_before - failed_before
        self._failed_before = failed_before
        self._failed_now = 0
        self._first: FailedRow | None = None

    def count(self, answered: Answered) -> None:
        """Count some rows.

        Raises:
            BatchError: More rows have failed than may.
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


def end_of_run(error: LadleError, silent_s: float) -> BatchError:
    """Return why a run ends whose request failed with `error`, `silent_s` after the last answer."""
    if is_overload(error):
        return ModelLost(f"no answer for {silent_s:.0f} s: {one_line(error)}")
    if isinstance(error, NotFound):
        return ModelLost(
            f"{one_line(error)}; if another version has taken over, --allow-changed-model goes "
            "on with it, and --restart begins anew"
        )
    return BatchError(one_line(error))


def silent(requests: int, silent_s: float) -> ModelLost:
    """Return why a run ends whose requests in flight don't come back, not even as timed out."""
    return ModelLost(
        f"no answer and no error for {silent_s:.0f} s, which is longer than --timeout and "
        f"--patience together; requests in flight: {requests}"
    )
