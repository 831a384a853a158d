"""One span, one metric point and one log line per RPC, by the OpenTelemetry conventions for RPC servers.

Our own, because the contrib interceptor for asyncio detaches its context in the wrong task on streams and loses
cancellations. Never holds request or response content.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, Tracer

from shared.rpc.identity import Identity
from shared.telemetry.logs import AccessLog

ACCESS_LOG = "penstock.access"

# https://opentelemetry.io/docs/specs/semconv/rpc/grpc/: only these are the server's fault.
_SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
# Load balancers check health every few seconds: those lines are for debugging.
_QUIET = "grpc.health."


class Observation:
    """What is known of one RPC while it runs; `code` is what the caller gets, set before the block ends."""

    __slots__ = ("_made_up", "code", "method", "span")

    def __init__(self, method: str, span: Span) -> None:
        self.code = grpc.StatusCode.OK
        self.method = method
        self.span = span
        self._made_up = ""

    @property
    def trace_id(self) -> str:
        """The span's; without an SDK spans have none, and a caller still needs an id that finds the log line."""
        context = self.span.get_span_context()
        if context.is_valid:
            return trace.format_trace_id(context.trace_id)
        self._made_up = self._made_up or uuid.uuid4().hex
        return self._made_up


class Observer:
    """Opens the span of each RPC and records its end."""

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._log = AccessLog(ACCESS_LOG)
        self._trace_headers = propagate.get_global_textmap().fields
        self._tracer: Tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)
        meter = metrics.get_meter(__name__, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "rpc.server.call.duration",
            unit="s",
            description="Duration of an incoming RPC, streams until their end",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )
        self._active = meter.create_up_down_counter(
            "rpc.server.active_calls", unit="{call}", description="RPCs that are running"
        )

    @contextmanager
    def observe(
        self, method: str, identity: Identity, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Iterator[Observation]:
        """The span of the RPC is current inside the block; its parent is the caller's traceparent, never ours."""
        started = time.perf_counter()
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        parent = self._parent(context)
        span = self._tracer.start_span(
            method,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={**attributes, "penstock.peer.identity": identity.principal},
        )
        token = otel_context.attach(trace.set_span_in_context(span, parent))
        self._active.add(1, attributes)
        seen = Observation(method, span)
        try:
            yield seen
        finally:
            self._active.add(-1, attributes)
            self._finish(seen, attributes, time.perf_counter() - started, identity, context)
            otel_context.detach(token)

    def _finish(
        self,
        seen: Observation,
        attributes: dict[str, str],
        duration_s: float,
        identity: Identity,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        code = seen.code.name
        seen.span.set_attribute("rpc.response.status_code", code)
        outcome = {**attributes, "rpc.response.status_code": code}
        if seen.code in _SERVER_ERRORS:
            seen.span.set_attribute("error.type", code)
            seen.span.set_status(Status(trace.StatusCode.ERROR))
            outcome["error.type"] = code
        self._duration.record(duration_s, outcome)
        level = logging.DEBUG if seen.method.startswith(_QUIET) else logging.INFO
        if self._log.shows(level):
            fields = {
                "method": seen.method,
                "identity": identity.principal,
                "peer": context.peer(),
                "code": code,
                "duration_ms": round(duration_s * 1000, 3),
                "trace_id": seen.trace_id,
            }
            self._log.write(level, f"{seen.method} {code}", fields)
        seen.span.end()

    def _parent(self, context: grpc.aio.ServicerContext[Any, Any]) -> otel_context.Context:
        carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        if self._trace_headers.isdisjoint(carrier):  # most callers send none, and to look costs 3 %
            return otel_context.Context()
        return propagate.extract(carrier, context=otel_context.Context())
