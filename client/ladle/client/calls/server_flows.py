"""The requests about a server and its models, in order; no I/O.

Flows, as in `flows.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TypeVar

from ladle.client.calls.effects import Flow, Pause
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    LadleError,
    NotFound,
    Overloaded,
    Unavailable,
    Unimplemented,
)
from ladle.client.messages import requests, responses
from ladle.client.messages.requests import Servable
from ladle.client.models import ServedModel, VersionState, VersionStatus

T = TypeVar("T")

# The most models or versions that one message lists.
_MOST_NAMES = 10

# How long to wait before a server that isn't ready gets another request.
READY_POLL_S = 0.2


def status(target: Servable) -> Flow[tuple[VersionStatus, ...]]:
    """Fetch the states of a model's versions."""
    return naming_what_is_served(_status(target), target)


def _status(target: Servable) -> Flow[tuple[VersionStatus, ...]]:
    answer = yield requests.status(target)
    return responses.status(answer, target)


def naming_what_is_served(flow: Flow[T], target: Servable) -> Flow[T]:
    """Run a flow; where a server that lists its models has not the target, say what it has."""
    try:
        result = yield from flow
    except NotFound as error:
        try:
            served = yield from models("")
        except LadleError:
            raise error from error.__cause__
        raise NotFound(
            f"{error}; {_what_is_served(served, target)}", details=error.details
        ) from error
    return result


def _what_is_served(served: tuple[ServedModel, ...], target: Servable) -> str:
    """Return the names of the models, or of the target's versions where its model is served."""
    for model in served:
        if model.name == target.model:
            available = [v for v in model.versions if v.state is VersionState.AVAILABLE]
            versions = _listing(str(v.version) for v in available)
            problem = f"; {model.problem}" if model.problem else ""
            return f"its versions served here: {versions}{problem}"
    return f"served here: {_listing(model.name for model in served)}"


def _listing(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return ", ".join(listed[:_MOST_NAMES]) + more or "none"


def models(name: str) -> Flow[tuple[ServedModel, ...]]:
    """List the models that the server is configured to serve; ladle servers only."""
    try:
        answer = yield requests.models(name)
    except Unimplemented as error:
        raise Unimplemented(
            "this server doesn't list its models, as TensorFlow Serving doesn't; "
            f"status(model) works for one model ({error})",
            details=error.details,
        ) from error
    return responses.models(answer)


def reload(configs: requests.ModelConfigs) -> Flow[None]:
    """Replace the list of models that the server serves."""
    answer = yield requests.reload(configs)
    responses.reload(answer)


def load(name: str, base_path: str | PathLike[str] | None) -> Flow[ServedModel]:
    """Add a model or replace it; without a base path, look again at the one that it has."""
    if base_path is None:
        answer = yield requests.rescan(name)
    else:
        answer = yield requests.load(name, base_path)
    return responses.model(answer, "RescanModel" if base_path is None else "LoadModel")


def unload(name: str) -> Flow[None]:
    """Take a model out."""
    answer = yield requests.unload(name)
    responses.unload(answer)


def health(service: str) -> Flow[bool]:
    """Check the health of a service."""
    answer = yield requests.health(service)
    return responses.health(answer)


def wait_until_ready(target: Servable | None) -> Flow[None]:
    """Poll until the server takes calls or, if there is a target, until the model is available.

    A server without health checks, such as TensorFlow Serving, counts as ready once it answers. A
    server that is about to stop cancels calls, so Cancelled counts as not ready. Drive this flow
    with `once`: it retries by itself.
    """
    reason = "it has not answered yet"
    try:
        while True:
            try:
                not_ready = yield from _not_ready(target)
            except (Unavailable, Overloaded, NotFound, Cancelled) as error:
                not_ready = str(error)
            if not_ready is None:
                return
            reason = not_ready
            yield Pause(READY_POLL_S)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"not ready within the timeout: {reason}") from error


def _not_ready(target: Servable | None) -> Flow[str | None]:
    """Return why the server or model is not ready; None when it is."""
    if target is not None:
        versions = yield from _status(Servable(target.model, target.version))
        if not any(version.state is VersionState.AVAILABLE for version in versions):
            states = ", ".join(f"version {v.version} is {v.state.name}" for v in versions)
            failures = "".join(f"; {v.error_message}" for v in versions if v.error_message)
            return f"{target}: {states or 'it has no version'}{failures}"
        return None
    try:
        return None if (yield from health("")) else "the server says that it takes no calls"
    except (Unimplemented, NotFound):
        return None
