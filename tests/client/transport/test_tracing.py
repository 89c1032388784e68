"""The trace that a caller is in reaches the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, image_version, listening

from ladle.client import Client

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def in_a_span() -> Any:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(
        TRACE_ID, SPAN_ID, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.use_span(trace.NonRecordingSpan(context))


@pytest.mark.parametrize("client_class", CLIENTS)
def test_calls_carry_the_trace_that_they_are_made_in(client_class: Any) -> None:
    calls: list[Mapping[str, str]] = []
    server = FakeServing({1: image_version(255)})
    with listening(server, on_call=calls.append) as address, client_class(address) as client:
        with in_a_span():
            client.status("m")
        client.status("m")
    assert [call.get("traceparent") for call in calls] == [TRACEPARENT, None]


def test_so_do_the_calls_of_a_stream() -> None:
    calls: list[Mapping[str, str]] = []
    server = FakeServing({1: image_version(255)})
    images = [np.zeros((1, 2, 2), np.uint8)] * 3
    with listening(server, on_call=calls.append) as address, Client(address) as client, in_a_span():
        assert len([*client.stream("m", images)]) == 3
    assert {call.get("traceparent") for call in calls} == {TRACEPARENT}


def test_importing_the_client_imports_no_opentelemetry() -> None:
    code = "import sys, ladle.client; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
