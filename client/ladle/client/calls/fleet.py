"""Which of several servers gets a call."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set
from copy import copy
from typing import TypeVar

import grpc

from ladle.client.calls.retry import NOT_TAKEN, Budget, Hedge, Retry
from ladle.client.errors import FleetError, LadleError

T = TypeVar("T")

# How long an address rests after a failure; doubles with each further failure in a row.
_FIRST_REST_S = 0.1
_MAX_REST_S = 5.0
# The most failures that one message lists.
_MOST_LISTED = 5


def choose(turn: int, resting_until: Sequence[float], tried: Set[int], now: float) -> int:
    """Return the index of an address: round robin, with addresses that are likely to fail last.

    Addresses that rest after failures come after the others, the one that is ready soonest first.
    Addresses that this call has tried come after those. There is at least one address.
    """
    count = len(resting_until)
    in_turn = [(turn + step) % count for step in range(count)]
    return min(in_turn, key=lambda i: (i in tried, max(resting_until[i] - now, 0.0)))


class Fleet:
    """The servers of one client, and their recent failures.

    Thread-safe without locks. Of two failures that two threads note at once, one may be lost,
    which only shortens a rest.
    """

    def __init__(
        self, addresses: Sequence[str], *, retry: Retry, hedge: Hedge | None = None
    ) -> None:
        self.addresses = tuple(addresses)
        self.retry = retry
        self.hedge = hedge
        self.retries = Budget()
        self.hedges = Budget(hedge.max_share, tokens=1.0) if hedge else Budget(0.0, tokens=0.0)
        self._only: int | None = None
        self._turns = itertools.count()
        self._resting_until = [0.0] * len(self.addresses)
        self._failures = [0] * len(self.addresses)

    def only(self, index: int) -> Fleet:
        """Return a view of this fleet with one address; both share the record of failures."""
        view = copy(self)
        view._only = index
        return view

    def pick(self, tried: Set[int], now: float) -> int:
        """Return the index of the address for the next attempt of a call."""
        if self._only is not None:
            return self._only
        if len(self.addresses) == 1:
            return 0
        return choose(next(self._turns), self._resting_until, tried, now)

    def pick_beside(self, address: int, tried: Set[int], now: float) -> int:
        """Return the address of a hedge beside `address`; it does not advance the round robin."""
        return choose(address + 1, self._resting_until, tried, now)

    def has_untried(self, tried: Set[int]) -> bool:
        """Return whether a call has an address left that it has not tried."""
        return self._only is None and len(tried) < len(self.addresses)

    def succeeded(self, index: int) -> None:
        """Note that a server answered."""
        if self._failures[index]:
            self._failures[index] = 0
            self._resting_until[index] = 0.0

    def failed(self, index: int, code: grpc.StatusCode, now: float) -> None:
        """Note a failed call. Most codes are the answer of a server that works."""
        if code not in NOT_TAKEN:
            if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self.succeeded(index)
            return
        failures = self._failures[index]
        self._failures[index] = failures + 1
        self._resting_until[index] = now + min(_FIRST_REST_S * 2 ** min(failures, 16), _MAX_REST_S)


def results_or_raise(what: str, outcomes: Mapping[str, T | LadleError]) -> dict[str, T]:
    """Return the results by address if no server failed.

    Raises:
        FleetError: Some failed.
    """
    results, errors = {}, {}
    for address, outcome in outcomes.items():
        if isinstance(outcome, LadleError):
            errors[address] = outcome
        else:
            results[address] = outcome
    if not errors:
        return results
    listed = [f"{address}: {error}" for address, error in [*errors.items()][:_MOST_LISTED]]
    if len(errors) > len(listed):
        listed.append(f"and {len(errors) - len(listed)} more")
    raise FleetError(
        f"{what} failed at {len(errors)} of {len(outcomes)} servers: {'; '.join(listed)}",
        results=results,
        errors=errors,
    )
