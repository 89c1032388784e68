"""Who hears of requests that no method was called for."""

from __future__ import annotations

import pytest

from ladle.server.config import Config
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.wiring.transports import limits


class OneByOne(Unobserved):
    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def request_ended(self, request: Observation) -> None:
        self.heard.append((request.code.name, request.count))


class Many(OneByOne):
    def requests_ended(self, requests: Observation) -> None:
        self.heard.append((requests.code.name, requests.count))


@pytest.mark.parametrize(
    ("observer", "heard"),
    [
        (OneByOne(), [("RESOURCE_EXHAUSTED", 1)] * 3),
        (Many(), [("RESOURCE_EXHAUSTED", 3)]),
    ],
)
def test_refusals_are_observed_at_once_by_who_takes_many(
    observer: OneByOne, heard: list[tuple[str, int]]
) -> None:
    limits(Config(model_base_path="/models"), observer).refused(
        ServingError("too much", Code.RESOURCE_EXHAUSTED), 3
    )
    assert observer.heard == heard
