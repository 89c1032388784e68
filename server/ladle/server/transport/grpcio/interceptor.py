"""Asks the gate about every call that arrives, also one to health or reflection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from ladle.server.call import Gate
from ladle.server.core.errors import Code, ServingError

logger = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class GateInterceptor(grpc.ServerInterceptor):
    """Refuses calls before their requests are read. Thread-safe."""

    def __init__(self, gate: Gate, refuse: Callable[[ServingError], _Handler]) -> None:
        """`refuse` returns a handler that ends calls of any kind with a status."""
        self._gate = gate
        self._refuse = refuse

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Return the method's own handler, or one that refuses."""
        try:
            self._gate(handler_call_details.method, _authorization(handler_call_details))
        except ServingError as error:
            return self._refuse(error)
        except Exception:
            # Whatever went wrong, nobody gets past.
            logger.exception("a call's token could not be checked")
            return self._refuse(ServingError("the server failed on this request", Code.INTERNAL))
        return continuation(handler_call_details)


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    for name, value in details.invocation_metadata or ():
        if name == "authorization" and isinstance(value, str):
            return value
    return None
