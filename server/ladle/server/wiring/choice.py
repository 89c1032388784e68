"""Which of the transports serves gRPC."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# In a checkout: what the crate's sources say that the module has.
_INTERFACE = Path(__file__).parents[3] / "native" / "ladle_native.pyi"


class Choice(NamedTuple):
    """A transport, `native` or `grpcio`, and why it is that one."""

    name: str
    why: str
    is_second_best: bool = False
    """Whether the native transport is there, and something is wrong with it."""


class Native(NamedTuple):
    """What was found of the native transport."""

    version: str | None = None
    """None where it is not installed, or can't be imported."""
    problem: str = ""
    """Why it can't be imported."""


class Unavailable(Exception):
    """The transport that was asked for can't be had; the message says why, in one line."""


def choose(
    asked: str, *, ladle: str | None, native: Native, unknown_arguments: Sequence[str] = ()
) -> Choice:
    """Decide which transport serves gRPC.

    Args:
        asked: `auto`, `native` or `grpcio`.
        ladle: the version of ladle; None where it runs from its sources.
        native: the native transport, which has to have the same version.
        unknown_arguments: channel arguments that were given, and mean nothing to it.

    Raises:
        Unavailable: The native transport was asked for, and can't be had.
    """
    if asked == "grpcio":
        return Choice("grpcio", "--transport=grpcio")
    problem = native.problem
    if native.version is not None and ladle not in (None, native.version):
        problem = f"expected ladle-native {ladle}, as ladle itself, got {native.version}"
    given = ", ".join(unknown_arguments)
    if asked == "native":
        if problem or native.version is None:
            problem = problem or "expected the package ladle-native, found none"
            raise Unavailable(f"--transport=native: {problem}")
        if given:
            raise Unavailable(
                f"--transport=native: expected no --grpc_channel_arguments that it does not know, "
                f"got {given}"
            )
        return Choice("native", "--transport=native")
    if problem:
        return Choice("grpcio", problem, is_second_best=True)
    if native.version is None:
        return Choice("grpcio", "no ladle-native")
    if given:
        return Choice("grpcio", f"the native transport knows no {given}")
    return Choice("native", f"ladle-native {native.version} is installed")


def find(asked: str, unknown_arguments: Sequence[str] = ()) -> Choice:
    """Decide as `choose` by what is installed; imports the native transport, unless asked not to.

    Raises:
        Unavailable: The native transport was asked for, and can't be had.
    """
    native = Native() if asked == "grpcio" else _installed()
    return choose(asked, ladle=_ladle(), native=native, unknown_arguments=unknown_arguments)


def _installed() -> Native:
    try:
        module = importlib.import_module("ladle_native")
        found = Native(module.__version__)
        # And what uses it: of one with other parts some may be missing.
        importlib.import_module("ladle.server.transport.native.transport")
    except (ImportError, AttributeError) as error:  # for another machine, or cut off
        if isinstance(error, ModuleNotFoundError) and error.name == "ladle_native":
            return Native()
        return Native(problem=f"ladle-native can't be imported: {error}")
    if is_of_other_sources(module, _INTERFACE):
        return Native(problem="ladle-native was built of other sources: run `make native`")
    return found


def is_of_other_sources(module: ModuleType, interface: Path) -> bool:
    """Whether an installed module says of itself something else than a checkout does.

    Both have the same version until the next release. Without a checkout nothing is compared.
    """
    try:
        built = Path(module.__file__ or "").with_name("__init__.pyi")
        return interface.read_bytes() != built.read_bytes()
    except OSError:
        return False


def _ladle() -> str | None:
    try:
        return version("ladle")
    except PackageNotFoundError:
        return None
