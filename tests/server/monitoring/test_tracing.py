from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, FakeServable
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from server.monitoring.conftest import PREDICT, predict_request, wait_until
from transports import MakeTransport

from ladle.client import Client
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import Cancelled
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Run
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.tracing import Tracing, TracingError, configure_from_environment
from ladle.server.rpc.services import methods

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A server of the model `m`, version 1, and the spans of it."""

    def __init__(self, make_transport: MakeTransport, **provider: Any) -> None:
        self.spans = InMemorySpanExporter()
        made = TracerProvider(**provider)
        made.add_span_processor(SimpleSpanProcessor(self.spans))
        tracing = Tracing(made.get_tracer("ladle"))
        self.model = FakeServable()
        self.batching = BatchingServable(
            self.model, BatchOptions(), observer=tracing, servable_id=ServableId("m", 1)
        )
        manager = Manager(lambda _id, _path: self.batching)
        manager.aspire("m", {1: Path("/m/1")})
        assert manager.wait_until_settled(["m"], TIMEOUT_S)
        self.tracer = made.get_tracer("a caller")
        served = methods(manager, tensor_content=True, observer=tracing)
        self.transport = make_transport(served, max_threads=2)
        self.address = f"127.0.0.1:{self.transport.listen('127.0.0.1:0')}"
        self.transport.start()
        self.channel = grpc.insecure_channel(self.address)

    def begin(self, message: bytes, traceparent: str | None = None) -> Any:
        call: Any = self.channel.unary_unary(PREDICT, None, None)
        metadata = [("traceparent", traceparent)] if traceparent else None
        return call.future(message, metadata=metadata, timeout=TIMEOUT_S)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name == name]

    def stop(self) -> None:
        self.model.release()
        self.channel.close()
        self.transport.stop(TIMEOUT_S)


@pytest.fixture
def traced(make_transport: MakeTransport) -> Iterator[Traced]:
    traced = Traced(make_transport)
    yield traced
    traced.stop()


def test_a_request_is_a_span_in_its_callers_trace_with_a_part_for_each_step(
    traced: Traced,
) -> None:
    traced.begin(predict_request(rows=2), TRACEPARENT).result()

    (request,) = traced.named("Predict")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert (request.parent.trace_id, request.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert request.attributes is not None
    assert request.attributes["ladle.model"] == "m"
    assert request.attributes["ladle.version"] == 1
    assert request.attributes["ladle.rows"] == 2
    parts = [
        span
        for span in traced.spans.get_finished_spans()
        if span.parent is not None and span.parent.span_id == request.context.span_id
    ]
    assert [part.name for part in parts] == ["receive", "queue", "batch", "compute", "encode"]
    for part in parts:
        assert part.context.trace_id == TRACE_ID
        assert request.start_time is not None
        assert part.start_time is not None
        assert part.end_time is not None
        assert request.end_time is not None
        assert request.start_time <= part.start_time <= part.end_time <= request.end_time


def test_ladles_own_client_and_server_are_in_one_trace(traced: Traced) -> None:
    with (
        traced.tracer.start_as_current_span("caller") as caller,
        Client(traced.address) as client,
    ):
        client.status("m")

    (request,) = traced.named("GetModelStatus")
    assert request.parent is not None
    assert request.parent.span_id == caller.get_span_context().span_id


def test_a_batch_is_a_span_linked_to_all_its_requests_and_they_to_it(traced: Traced) -> None:
    traced.model.hold()
    first = traced.begin(predict_request())
    traced.model.wait_until_running()
    others = [traced.begin(predict_request(), TRACEPARENT) for _ in range(3)]
    wait_until(lambda: traced.batching.depth.requests == 3)
    traced.model.release()
    for call in (first, *others):
        call.result()

    requests = {span.context.span_id for span in traced.named("Predict")}
    batches = [
        span
        for span in traced.named("batch")
        if span.attributes is not None and "ladle.rows" in span.attributes
    ]
    assert sorted(len(batch.links) for batch in batches) == [1, 3]
    assert {link.context.span_id for batch in batches for link in batch.links} == requests
    assert all(batch.parent is None for batch in batches)
    own_parts = [span for span in traced.named("batch") if span not in batches]
    assert {link.context.span_id for part in own_parts for link in part.links} == {
        batch.context.span_id for batch in batches
    }


def test_a_refused_request_is_a_span_with_its_error(traced: Traced) -> None:
    with pytest.raises(grpc.RpcError):
        traced.begin(predict_request(model="nobody")).result()

    (request,) = traced.spans.get_finished_spans()
    assert request.status.status_code is StatusCode.ERROR
    assert "Servable not found" in (request.status.description or "")
    assert request.parent is None


def test_a_request_that_runs_twice_is_one_span(traced: Traced) -> None:
    """A batch that failed is run again in parts."""
    traced.model.hold()
    first = traced.begin(predict_request())
    traced.model.wait_until_running()
    bad, good = (traced.begin(predict_request(fill=fill)) for fill in (float("nan"), 1.0))
    wait_until(lambda: traced.batching.depth.requests == 2)
    traced.model.release()
    first.result()
    good.result()
    with pytest.raises(grpc.RpcError):
        bad.result()

    assert len(traced.named("Predict")) == 3


def test_a_request_that_ended_during_its_run_is_one_span() -> None:
    """Its caller went away while the model ran."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing = Tracing(provider.get_tracer("ladle"))
    gone, stayed = (Observation("Predict", "GRPC", b"") for _ in range(2))
    run = Run(ServableId("m", 1), ("s",), [gone, stayed], 2, 0, gone.began)
    gone.end(Cancelled("the caller went away"), tracing)
    run.end(gone.began, tracing)

    assert gone.span is None
    stayed.end(b"", tracing)
    batch, *requests = sorted(spans.get_finished_spans(), key=lambda span: span.name != "batch")
    known = {span.context.span_id for span in requests}
    assert [link.context.span_id in known for link in batch.links] == [True]


def test_what_is_not_sampled_leaves_no_spans(make_transport: MakeTransport) -> None:
    traced = Traced(make_transport, sampler=ParentBased(ALWAYS_OFF))
    traced.begin(predict_request()).result()
    traced.begin(predict_request(), TRACEPARENT).result()

    assert {span.context.trace_id for span in traced.named("Predict")} == {TRACE_ID}
    traced.stop()


def test_nothing_is_imported_or_made_where_nobody_traces() -> None:
    program = (
        "import ladle.server.server, ladle.server.monitoring.tracing as t, sys;"
        "assert t.configured_tracer() is None;"
        "print(*[m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == ""


def test_an_exporter_of_the_environment_is_used() -> None:
    program = (
        "import ladle.server.monitoring.tracing as t;"
        "t.configure_from_environment({'OTEL_TRACES_EXPORTER': 'console'});"
        "t.configured_tracer().start_span('seen').end();"
        "from opentelemetry import trace; trace.get_tracer_provider().shutdown()"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert '"name": "seen"' in told.stdout


def test_an_exporter_that_is_not_there_is_told_in_one_line() -> None:
    configure_from_environment({})
    configure_from_environment({"OTEL_TRACES_EXPORTER": "none"})
    with pytest.raises(TracingError, match="no such exporter is installed"):
        configure_from_environment({"OTEL_TRACES_EXPORTER": "carrier-pigeon"})
