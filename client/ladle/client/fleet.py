"""Which server of several a call goes to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set
from copy import copy
from typing import TypeVar

import grpc

from ladle.client.errors import FleetError, LadleError
from ladle.client.retry import NOT_TAKEN, Budget, Hedge, Retry

T = TypeVar("T")

# How long an address is passed over after a failure in a row of them; doubles with each.
_FIRST_REST_S = 0.1
_MAX_REST_S = 5.0
# How many failures a message tells of, of those at several servers.
_MOST_TOLD = 5


def choose(turn: int, resting_until: Sequence[float], tried: Set[int], now: float) -> int:
    """Return the index of an address: in turn, and those likely to fail last.

    An address that this call has tried already comes last, one that is resting from failures
    before it; of several of these the one that has rested longest. There is at least one address.
    """
    count = len(resting_until)
    in_turn = [(turn + step) % count for step in range(count)]
    return min(in_turn, key=lambda i: (i in tried, max(resting_until[i] - now, 0.0)))


class Fleet:
    """The servers behind one client, and what is remembered of how they answered.

    Thread-safe without locks: threads that update it at once may lose one of two failures in a
    row, and that matters to nobody.
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
        """Return this fleet for calls to one of its addresses; both remember how it answers."""
        view = copy(self)
        view._only = index
        return view

    def pick(self, tried: Set[int], now: float) -> int:
        """Return the index of the address that the next attempt of a call goes to."""
        if self._only is not None:
            return self._only
        if len(self.addresses) == 1:
            return 0
        return choose(next(self._turns), self._resting_until, tried, now)

    def pick_beside(self, address: int, tried: Set[int], now: float) -> int:
        """Return where a hedge goes while `address` takes long; takes nobody's turn."""
        return choose(address + 1, self._resting_until, tried, now)

    def has_untried(self, tried: Set[int]) -> bool:
        """Tell whether there is an address that a call has not tried."""
        return self._only is None and len(tried) < len(self.addresses)

    def succeeded(self, index: int) -> None:
        """Remember that a server answered."""
        if self._failures[index]:
            self._failures[index] = 0
            self._resting_until[index] = 0.0

    def failed(self, index: int, code: grpc.StatusCode, now: float) -> None:
        """Remember how a call failed; most codes are a server's answer."""
        if code not in NOT_TAKEN:
            if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self.succeeded(index)
            return
        failures = self._failures[index]
        self._failures[index] = failures + 1
        self._resting_until[index] = now + min(_FIRST_REST_S * 2 ** min(failures, 16), _MAX_REST_S)


def settle(what: str, outcomes: Mapping[str, T | LadleError]) -> dict[str, T]:
    """Return the results by address, where every server has one.

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
    told = [f"{address}: {error}" for address, error in [*errors.items()][:_MOST_TOLD]]
    if len(errors) > len(told):
        told.append(f"and {len(errors) - len(told)} more")
    raise FleetError(
        f"{what} failed at {len(errors)} of {len(outcomes)} servers: {'; '.join(told)}",
        results=results,
        errors=errors,
    )
