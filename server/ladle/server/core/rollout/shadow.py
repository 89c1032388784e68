"""Which requests of a model run on another version too, for a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ladle.server.core.rollout.comparing import OutputRule


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A version that answers nobody. What stable has answered runs on it once more."""

    label: str = "canary"
    """The label of that version."""
    share: float
    """Of the requests that stable answers, from 0 to 1."""
    max_in_flight: int = 16
    """How many may be held for it at a time; what comes beyond them is not compared."""
    rules: Mapping[str, OutputRule] = field(default_factory=dict)
    """When outputs agree, by name; that of the empty name is for all others."""
    log: str = ""
    """The path of a file that gets rows which do not agree; empty for none."""
