"""The transports that each test of what any transport does runs against."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Protocol

import pytest

from ladle.server.call import Methods, Transport
from ladle.server.limits import Limits
from ladle.server.transport.credentials import read_credentials, read_pem
from ladle.server.transport.grpcio.transport import GrpcioTransport


class MakeTransport(Protocol):
    """Makes a transport that listens nowhere yet; `tls` is the path of an SSLConfig."""

    def __call__(
        self, methods: Methods, *, max_threads: int, tls: Path | None = None, **options: Any
    ) -> LimitedTransport: ...


class LimitedTransport(Transport, Protocol):
    """A Transport that shows what requests may take."""

    limits: Limits


def grpcio(
    methods: Methods, *, max_threads: int, tls: Path | None = None, **options: Any
) -> LimitedTransport:
    credentials = read_credentials(tls) if tls else None
    return GrpcioTransport(methods, max_threads=max_threads, credentials=credentials, **options)


def native(
    methods: Methods, *, max_threads: int, tls: Path | None = None, **options: Any
) -> LimitedTransport:
    from ladle.server.transport.native.transport import NativeTransport

    credentials = read_pem(tls) if tls else None
    return NativeTransport(methods, max_threads=max_threads, credentials=credentials, **options)


TRANSPORTS: dict[str, MakeTransport] = {"grpcio": grpcio, "native": native}


def require(name: str) -> None:
    """Skip the test where the transport is not installed; CI has to have it."""
    if name == "native" and importlib.util.find_spec("ladle_native") is None:
        reason = "no ladle_native: `make install` builds it where cargo is"
        if os.environ.get("CI"):
            pytest.fail(reason)  # CI that skips this would guard nothing
        pytest.skip(reason)
