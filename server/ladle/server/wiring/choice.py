"""Which of the transports serves gRPC."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Choice(NamedTuple):
    """A transport, `native` or `grpcio`, and why it is that one."""

    name: str
    why: str


class Unavailable(Exception):
    """The transport that was asked for can't be had; the message says why, in one line."""


def choose(asked: str, *, native: str | None, unknown_arguments: Sequence[str]) -> Choice:
    """Decide which transport serves gRPC.

    Args:
        asked: `auto`, `native` or `grpcio`.
        native: the version of the native transport; None where it is not installed.
        unknown_arguments: channel arguments that were given, and mean nothing to it.

    Raises:
        Unavailable: The native transport was asked for, and can't be had.
    """
    given = ", ".join(unknown_arguments)
    if asked == "native":
        if native is None:
            raise Unavailable("--transport=native: expected the package ladle-native, found none")
        if given:
            raise Unavailable(
                f"--transport=native: expected no --grpc_channel_arguments that it does not know, "
                f"got {given}"
            )
        return Choice("native", "--transport=native")
    if asked == "auto" and native is not None:
        if not given:
            return Choice("native", f"ladle-native {native} is installed")
        return Choice("grpcio", f"the native transport knows no {given}")
    return Choice("grpcio", f"--transport={asked}" if asked != "auto" else "no ladle-native")


def native_version() -> str | None:
    """Return the version of the native transport; None where it is not installed."""
    if importlib.util.find_spec("ladle_native") is None:
        return None
    try:
        return version("ladle-native")
    except PackageNotFoundError:
        return None
