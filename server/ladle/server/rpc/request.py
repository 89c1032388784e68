"""What requests of several services share: reading them, and finding what they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import InvalidArgument, NotFound
from ladle.server.core.lifecycle.entry import Handle
from ladle.server.core.lifecycle.manager import Manager

M = TypeVar("M", bound=Message)


def parse(message_class: type[M], data: bytes, name: str | None = None) -> M:
    """Return the request message; `name` is what callers know it by, if not by its own name.

    Raises:
        InvalidArgument: The bytes are no such message.
    """
    try:
        return message_class.FromString(data)
    except DecodeError:
        name = name or message_class.DESCRIPTOR.full_name
        raise InvalidArgument(f"expected a {name}, got {len(data)} bytes that are none") from None


def require_model_spec(request: Message) -> None:
    """Refuse a request without `model_spec`."""
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")


def acquire(
    manager: Manager,
    spec: ModelSpec,
    deadline: float | None,
    on_end: Callable[[Callable[[], None]], None] | None = None,
) -> Handle:
    """Return a handle on the version that a request names: by number, by label or as the latest.

    Blocks only while the model's first version is on its way, not past the deadline, and not once
    the caller has gone, of which `on_end`, a call's, tells: those who come as soon as the port is
    open find the models that they expect.

    Raises:
        InvalidArgument: No name, or a label that no version has.
        Cancelled: The caller went away.
        NotFound: No such version is available.
        Unavailable: The first version takes too long to load.
    """
    try:
        return acquire_at_once(manager, spec)
    except NotFound:
        if not manager.wait_for_first(spec.name, deadline, on_end):
            raise
    return acquire_at_once(manager, spec)


def acquire_at_once(manager: Manager, spec: ModelSpec) -> Handle:
    """As `acquire`, but never blocks: a version on its way is NotFound too."""
    if not spec.name:
        raise InvalidArgument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    if choice == "version_label":
        version = manager.labelled(spec.name, spec.version_label)
    return manager.acquire(spec.name, version)
