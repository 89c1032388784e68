"""Methods of Triton's that this server has no use for; each says so, whatever it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.server.core.errors import Unimplemented
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.open_inference.parameters import SHARED_MEMORY

TRACE = "trace settings are not supported"
LOG = "log settings are not supported"

REFUSALS: Mapping[str, str] = {
    **{
        f"{kind}SharedMemory{what}": SHARED_MEMORY
        for kind in ("System", "Cuda")
        for what in ("Status", "Register", "Unregister")
    },
    "TraceSetting": TRACE,
    "LogSettings": LOG,
}
"""The answer to callers of each method, by its name."""


def refusing() -> dict[str, Callable[[ObservedCall], bytes]]:
    """Return each of the methods by its name."""
    return {name: _refusing(text) for name, text in REFUSALS.items()}


def _refusing(text: str) -> Callable[[ObservedCall], bytes]:
    def refuse(_: ObservedCall) -> bytes:
        raise Unimplemented(text)

    return refuse
