"""What runs in a replica of Ray Serve: models without ports, and an answer to each call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

import grpc

from ladle.embedded import Embedded
from ladle.embedded.calls import LocalCalls
from ladle.ray.services import PATHS
from ladle.server.config import Config
from ladle.server.core.errors import ServingError, Unimplemented

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# Details of a status travel in HTTP/2's trailers, which have little room.
_MAX_DETAILS = 4096
_REFUSED = {
    "HandleReloadConfigRequest": (
        "a reload reaches one replica of many: change the file that model_config_file names, "
        "which each replica reads again, or redeploy"
    )
}


class Context(Protocol):
    """A gRPC call as Ray shows it: the caller's metadata, and the status to answer with."""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """Return what the caller sent beside the message."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of the answer."""

    def set_details(self, details: str) -> None:
        """Set the text of the status."""

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        """Set what goes with the status."""


class Answer(bytes):
    """The bytes of an answer, in the form that Ray asks for."""

    def SerializeToString(self) -> bytes:
        """Return the bytes."""
        return bytes(self)


class Ladle:
    """The ingress of the application: each method of `PATHS` under its last name."""

    def __init__(self, flags: Mapping[str, Any], request_timeout_s: float) -> None:
        """Load the models; blocks until they are up.

        Args:
            flags: the fields of a `Config`.
            request_timeout_s: after which Ray gives callers DEADLINE_EXCEEDED. Their own deadlines
                don't come as far as here.

        Raises:
            StartupError: There is nothing to serve.
        """
        self._request_timeout_s = request_timeout_s
        self._embedded = Embedded(Config(**flags))
        self._embedded.start()

    def check_health(self) -> None:
        """Say to Ray that the replica works.

        Raises:
            RuntimeError: No model is available.
        """
        if not self._embedded.is_healthy():
            raise RuntimeError("no model is available")

    def __del__(self) -> None:
        # Ray calls this when it takes the replica away, and also where `__init__` has raised.
        embedded = getattr(self, "_embedded", None)
        if embedded is not None:
            with suppress(Exception):
                embedded.stop()


def _method(name: str) -> Callable[[Ladle, bytes, Context], Coroutine[Any, Any, Answer]]:
    async def method(self: Ladle, request: bytes, grpc_context: Context) -> Answer:
        return await answer(
            self._embedded.calls, name, request, grpc_context, self._request_timeout_s
        )

    method.__name__ = name
    method.__qualname__ = f"{Ladle.__name__}.{name}"
    method.__doc__ = f"Answer `{PATHS[name]}`."
    return method


for _name in PATHS:
    setattr(Ladle, _name, _method(_name))


async def answer(
    calls: LocalCalls, name: str, request: bytes, context: Context, timeout_s: float
) -> Answer:
    """Return the answer to a call; where it fails, an empty one, with the status in the context.

    An exception would do as well, but Ray logs each one with its traceback, in the replica and in
    the proxy: callers who name a wrong model would fill the logs. If the caller goes, Ray cancels
    this, and the request leaves its queue.

    Args:
        calls: makes calls of methods.
        name: the method's last name, one of `PATHS`.
        request: the request message.
        context: the call's metadata and status.
        timeout_s: how long the caller waits at most.
    """
    try:
        if name in _REFUSED:
            raise Unimplemented(_REFUSED[name])
        metadata = {
            key: value for key, value in context.invocation_metadata() if isinstance(value, str)
        }
        called = calls.call(PATHS[name], request, timeout_s=timeout_s, metadata=metadata)
        response: bytes = await asyncio.wrap_future(called)
        return Answer(response)
    except ServingError as error:
        context.set_code(_CODES.get(int(error.code), grpc.StatusCode.UNKNOWN))
        context.set_details(error.message[:_MAX_DETAILS])
        if error.retry_after_s is not None:
            pushback = str(max(1, math.ceil(error.retry_after_s * 1000)))
            context.set_trailing_metadata([("grpc-retry-pushback-ms", pushback)])
        return Answer()
