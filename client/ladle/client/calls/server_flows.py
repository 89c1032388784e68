"""The requests about a server and its models, in order; no I/O.

Flows, as in `flows.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

from ladle.client.calls.effects import Flow, Pause
from ladle.client.calls.protocol import Protocol
from ladle.client.calls.tensorflow_serving import TENSORFLOW_SERVING
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    LadleError,
    NotFound,
    Overloaded,
    Unavailable,
)
from ladle.client.messages.requests import Servable
from ladle.client.models import ServedModel, VersionState, VersionStatus

T = TypeVar("T")

Statuses: TypeAlias = "tuple[VersionStatus, ...]"

# The most models or versions that one message lists.
_MOST_NAMES = 10

# How long to wait before a server that isn't ready gets another request.
READY_POLL_S = 0.2


def status(target: Servable, protocol: Protocol = TENSORFLOW_SERVING) -> Flow[Statuses]:
    """Fetch the states of a model's versions."""
    return naming_what_is_served(protocol.status(target), target, protocol)


def naming_what_is_served(flow: Flow[T], target: Servable, protocol: Protocol) -> Flow[T]:
    """Run a flow; where a server that lists its models has not the target, say what it has."""
    try:
        result = yield from flow
    except NotFound as error:
        try:
            served = yield from protocol.models(target.model)
            if not served:  # there may be thousands of others
                served = yield from protocol.models("", _MOST_NAMES + 1)
        except LadleError:
            raise error from error.__cause__
        what = _what_is_served(served, target)
        raise NotFound(f"{error}{what}", details=error.details) from error
    return result


def _what_is_served(served: tuple[ServedModel, ...], target: Servable) -> str:
    """Return the names of the models, or of the target's versions where its model is served.

    Nothing where its versions are no numbers.
    """
    for model in served:
        if model.name == target.model:
            available = [v for v in model.versions if v.state is VersionState.AVAILABLE]
            if model.is_available and not available:
                return ""
            versions = _listing(str(v.version) for v in available)
            problem = f"; {model.problem}" if model.problem else ""
            return f"; its versions served here: {versions}{problem}"
    names = [model.name for model in served]
    others = " and others" if len(names) > _MOST_NAMES else ""
    return f"; served here: {_listing(names[:_MOST_NAMES])}{others}"


def _listing(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return ", ".join(listed[:_MOST_NAMES]) + more or "none"


def wait_until_ready(
    target: Servable | None, protocol: Protocol = TENSORFLOW_SERVING
) -> Flow[None]:
    """Poll until the server takes calls or, if there is a target, until the model is available.

    A server that is about to stop cancels calls, so Cancelled counts as not ready. Drive this flow
    with `once`: it retries by itself.
    """
    reason = "it has not answered yet"
    try:
        while True:
            try:
                not_ready = yield from protocol.not_ready(target)
            except (Unavailable, Overloaded, NotFound, Cancelled) as error:
                not_ready = str(error)
            if not_ready is None:
                return
            reason = not_ready
            yield Pause(READY_POLL_S)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"not ready within the timeout: {reason}") from error
