"""How many requests are in flight: additive increase, multiplicative decrease, as in TCP.

Each round of answers without a sign of overload allows one request more. A sign of overload halves
the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_LIMIT = 4


@dataclass(frozen=True, kw_only=True)
class ConcurrencyLimiter:
    """How many requests may be in flight. Each method returns the limiter that follows."""

    allowed: float
    most: int
    """The limit never passes this."""
    halved_at: int = -1
    """The serial number of the newest request at the time of the last halving."""

    @property
    def limit(self) -> int:
        """How many requests may be in flight, at least one."""
        return int(self.allowed)

    def at_most(self, most: int) -> ConcurrencyLimiter:
        """Lower the highest limit to `most`; a larger `most` changes nothing."""
        if most >= self.most:
            return self
        return replace(self, allowed=min(self.allowed, float(most)), most=most)

    def after_answer(self, in_flight: int) -> ConcurrencyLimiter:
        """Grow after an answer; `in_flight` requests were under way, that one included.

        The limit grows only where it is what holds requests back.
        """
        if in_flight < self.limit:
            return self
        return replace(self, allowed=min(self.allowed + 1 / self.allowed, float(self.most)))

    def after_overload(self, serial: int, last_serial: int) -> ConcurrencyLimiter:
        """Halve the limit after request `serial` met an overload; `last_serial` is the newest.

        Requests that were sent before the last halving don't halve the limit again.
        """
        if serial <= self.halved_at:
            return self
        return replace(self, allowed=max(self.allowed / 2, 1.0), halved_at=last_serial)
