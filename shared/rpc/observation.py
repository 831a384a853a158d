"""One span, one metric point and one log line per RPC, by the OpenTelemetry conventions for RPC servers.

Our own, because the contrib interceptor for asyncio detaches its context in the wrong task on streams and loses
cancellations. Never holds request or response content.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, Tracer

from shared.rpc.identity import Identity
from shared.telemetry.logs import AccessLog
from shared.telemetry.unrecorded import UnrecordedSpan

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
_OK = grpc.StatusCode.OK
_NO_PARENT = otel_context.Context()


class Observation:
    """What is known of one RPC; `code` is what the caller gets, set before the RPC ends."""

    __slots__ = ("_made_up", "code", "identity", "method", "span", "started")

    def __init__(self, method: str, identity: str, span: Span) -> None:
        self.code = _OK
        self.method = method
        self.identity = identity
        self.span = span
        self.started = time.perf_counter()
        self._made_up = ""

    @property
    def trace_id(self) -> str:
        """The span's; without an SDK spans have none, and a caller still needs an id that finds the log line."""
        if isinstance(self.span, UnrecordedSpan):
            return trace.format_trace_id(self.span.trace_id)
        context = self.span.get_span_context()
        if context.is_valid:
            return trace.format_trace_id(context.trace_id)
        self._made_up = self._made_up or uuid.uuid4().hex
        return self._made_up


class Observer:
    """What all RPCs of a server are observed with."""

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self.log = AccessLog(ACCESS_LOG)
        self._trace_headers = frozenset(propagate.get_global_textmap().fields)
        self.tracer: Tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)
        meter = metrics.get_meter(__name__, meter_provider=meter_provider)
        self.duration = meter.create_histogram(
            "rpc.server.call.duration",
            unit="s",
            description="Duration of an incoming RPC, streams until their end",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )
        self.active = meter.create_up_down_counter(
            "rpc.server.active_calls", unit="{call}", description="RPCs that are running"
        )

    def names_parent(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
        """Whether the metadata of a call name a span of the caller's; most do not."""
        return not self._trace_headers.isdisjoint(dict(metadata or ()))


class MethodObserver:
    """Opens the span of each RPC of one method and records its end. No context manager: every call passes through."""

    def __init__(self, method: str, observer: Observer) -> None:
        self.method = method
        self._observer = observer
        self._level = logging.DEBUG if method.startswith(_QUIET) else logging.INFO
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._good = self._outcome(_OK)
        # Callers are few and call often, over connections that they keep.
        self._good_line = lru_cache(maxsize=1024)(partial(self._line, _OK))

    def begin(
        self, identity: Identity, context: grpc.aio.ServicerContext[Any, Any], *, has_parent: bool
    ) -> Observation:
        """The span of the RPC is current for the rest of its task; its parent is the caller's traceparent, never ours.

        `has_parent`: whether the caller sent one, as `names_parent` says. `end` must follow.
        """
        observer, principal = self._observer, identity.principal
        parent = _parent(context) if has_parent else _NO_PARENT
        span = observer.tracer.start_span(
            self.method,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={**self._attributes, "penstock.peer.identity": principal},
        )
        otel_context.attach(trace.set_span_in_context(span, parent))
        observer.active.add(1, self._attributes)
        return Observation(self.method, principal, span)

    def end(self, seen: Observation, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """The span ends, the duration is recorded, and there is a line in the log."""
        observer, duration_s = self._observer, time.perf_counter() - seen.started
        outcome = self._good if seen.code is _OK else self._outcome(seen.code)
        observer.active.add(-1, self._attributes)
        observer.duration.record(duration_s, outcome)
        if seen.span.is_recording():
            _record(seen.span, outcome)
        if observer.log.shows(self._level):
            caller = (seen.identity, context.peer())
            line = self._good_line(*caller) if seen.code is _OK else self._line(seen.code, *caller)
            observer.log.write(f'{line},"duration_ms":{duration_s * 1000:.3f},"trace_id":"{seen.trace_id}"')

    def _outcome(self, code: grpc.StatusCode) -> Mapping[str, str]:
        outcome = {**self._attributes, "rpc.response.status_code": code.name}
        return {**outcome, "error.type": code.name} if code in _SERVER_ERRORS else outcome

    def _line(self, code: grpc.StatusCode, identity: str, peer: str) -> str:
        fields = {"method": self.method, "identity": identity, "peer": peer, "code": code.name}
        return self._observer.log.fields(self._level, f"{self.method} {code.name}", **fields)


def _parent(context: grpc.aio.ServicerContext[Any, Any]) -> otel_context.Context:
    carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return propagate.extract(carrier, context=_NO_PARENT)


def _record(span: Span, outcome: Mapping[str, str]) -> None:
    span.set_attribute("rpc.response.status_code", outcome["rpc.response.status_code"])
    if "error.type" in outcome:
        span.set_attribute("error.type", outcome["error.type"])
        span.set_status(Status(trace.StatusCode.ERROR))
    span.end()
