"""OpenTelemetry: a span for each request, in its caller's trace, and one for each batch.

Spans are made afterwards, of the times that were noted on the way, so a server that traces nothing
pays nothing. opentelemetry is imported only where somebody has configured it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from ladle.server.core.observation import Observation, Run, Unobserved
from ladle.server.monitoring.metrics import signature_label

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

_EXPORTER = "OTEL_TRACES_EXPORTER"
_Metadata = Callable[[str], "str | None"]


class TracingError(Exception):
    """Traces can't be exported as the environment wants it; the message says why, in one line."""


def configure_from_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Export traces as OTEL_TRACES_EXPORTER says (`otlp`, `console`); without it do nothing.

    Whatever else OpenTelemetry's SDK reads from the environment has its effect too.

    Raises:
        TracingError: The SDK or the exporter is not installed.
    """
    name = environment.get(_EXPORTER, "")
    if name in ("", "none"):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise TracingError(
            f"{_EXPORTER}={name} needs OpenTelemetry's SDK: pip install opentelemetry-sdk"
        ) from None
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise TracingError(
            f"{_EXPORTER}={name}: no such exporter is installed; "
            "opentelemetry-exporter-otlp brings otlp"
        )
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    trace.set_tracer_provider(provider)


def configured_tracer() -> Tracer | None:
    """Return the tracer that this process is set up with; None if it is not."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    return provider.get_tracer("ladle") if isinstance(provider, TracerProvider) else None


def flush(timeout_s: float) -> None:
    """Send what spans there are, if this process is set up to; blocks for so long at most."""
    if configured_tracer() is not None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.force_flush(int(timeout_s * 1000))


class _Spans(NamedTuple):
    """What is kept with a request between its run and its end."""

    request: Span
    batch: SpanContext | None
    offset: int
    """With which the request's span began: no part of it may begin before that."""


class Tracing(Unobserved):
    """An Observer that makes spans. Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.context import Context
        from opentelemetry.propagators.textmap import Getter

        class FromMetadata(Getter[_Metadata]):
            def get(self, carrier: _Metadata, key: str) -> list[str] | None:
                value = carrier(key.lower())
                return None if value is None else [value]

            def keys(self, carrier: _Metadata) -> list[str]:
                return []

        self._tracer = tracer
        self._trace = trace
        self._nowhere = Context()
        self._extract: Any = propagate.extract
        self._getter = FromMetadata()

    def request_ended(self, request: Observation) -> None:
        """Make the spans of a request and of its parts."""
        spans = request.span if isinstance(request.span, _Spans) else None
        offset = spans.offset if spans else _offset()
        span = spans.request if spans else self._start(request, offset)
        if span.is_recording():
            self._describe(span, request)
            self._add_parts(span, request, spans.batch if spans else None, offset)
        span.end(_ns(request.ended, offset))

    def run_ended(self, run: Run) -> None:
        """Make the span of a batch: in no caller's trace, with a link to each request in it."""
        offset = _offset()
        started = []
        for request in run.requests:
            if request.ended is not None:
                continue  # its caller has left, and its span is complete
            # One whose batch has failed runs again, and has its span already.
            known = request.span if isinstance(request.span, _Spans) else None
            begun = known or _Spans(self._start(request, offset), None, offset)
            started.append((request, begun))
        links = [
            self._trace.Link(begun.request.get_span_context())
            for _, begun in started
            if begun.request.is_recording()
        ]
        batch = None
        if links:
            span = self._tracer.start_span(
                "batch",
                context=self._nowhere,
                links=links,
                attributes={
                    "ladle.model": run.servable_id.name,
                    "ladle.version": run.servable_id.version,
                    "ladle.signature": signature_label(run.signatures),
                    "ladle.rows": run.rows,
                    "ladle.padding": run.padding,
                    "ladle.requests": run.batched,
                },
                start_time=_ns(run.started, offset),
            )
            if run.failed:
                span.set_status(self._trace.StatusCode.ERROR)
            span.end(_ns(run.ended, offset))
            batch = span.get_span_context()
        for request, begun in started:
            request.span = begun._replace(batch=batch)

    def _start(self, request: Observation, offset: int) -> Span:
        context = self._nowhere
        if request.metadata is not None:
            context = self._extract(request.metadata, context, getter=self._getter)
        return self._tracer.start_span(
            request.api or "refused",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            start_time=_ns(request.began, offset),
        )

    def _describe(self, span: Span, request: Observation) -> None:
        attributes: dict[str, str | int] = {
            "rpc.system": request.entrypoint.lower(),
            "rpc.method": request.api,
            "ladle.model": request.model,
            "ladle.signature": signature_label(request.signatures),
            "ladle.rows": request.rows,
            "ladle.request_id": request.request_id,
            "rpc.grpc.status_code": int(request.code),
        }
        if request.version is not None:
            attributes["ladle.version"] = request.version
        span.set_attributes(attributes)
        if request.error is not None:
            span.set_status(self._trace.StatusCode.ERROR, request.error.message)

    def _add_parts(
        self, parent: Span, request: Observation, batch: SpanContext | None, offset: int
    ) -> None:
        run = request.run
        started = run.started if run else None
        # One that has left the queue waited in it until its end.
        parts = [
            ("receive", request.began, request.queued),
            ("queue", request.queued, started if run else request.ended),
            ("batch", started, run.assembled if run else None),
            ("compute", run.assembled if run else None, run.computed if run else None),
            ("encode", request.encoding, request.ended),
        ]
        context = self._trace.set_span_in_context(parent, self._nowhere)
        for name, start, end in parts:
            if start is None or end is None:
                continue
            links = [self._trace.Link(batch)] if batch and name == "batch" else None
            part = self._tracer.start_span(
                name, context=context, links=links, start_time=_ns(start, offset)
            )
            part.end(_ns(end, offset))


def _offset() -> int:
    """Return what turns a monotonic time in nanoseconds into one of the wall clock."""
    return time.time_ns() - time.monotonic_ns()


def _ns(seconds: float | None, offset: int) -> int | None:
    return None if seconds is None else int(seconds * 1e9) + offset
