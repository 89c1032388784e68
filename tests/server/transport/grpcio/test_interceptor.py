from __future__ import annotations

from typing import Any, NamedTuple

import grpc
import pytest

from ladle.server.core.errors import Code, ServingError
from ladle.server.transport.grpcio.interceptor import GateInterceptor


class Details(NamedTuple):
    method: str = "/package.Service/Method"
    invocation_metadata: tuple[tuple[str, str], ...] = (("authorization", "Bearer secret"),)


def test_a_gate_that_fails_lets_nobody_past_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused: list[ServingError] = []
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request
    )

    def broken(method: str, authorization: str | None) -> None:
        raise RuntimeError("no digest")

    def refuse(error: ServingError) -> grpc.RpcMethodHandler[Any, Any]:
        refused.append(error)
        return handler

    def passed(details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        raise AssertionError("it got past")

    details: Any = Details()
    assert GateInterceptor(broken, refuse).intercept_service(passed, details) is handler

    assert [error.code for error in refused] == [Code.INTERNAL]
    assert "no digest" not in refused[0].message
    assert "no digest" in caplog.text
    assert "secret" not in caplog.text
