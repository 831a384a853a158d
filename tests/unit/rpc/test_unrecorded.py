"""Spans of a process without a collector: nothing is recorded, and yet every log line can be found by its trace."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from shared.telemetry.unrecorded import UnrecordedTracerProvider

TRACER = UnrecordedTracerProvider().get_tracer("test")


def test_span_without_parent_begins_a_trace_and_records_nothing() -> None:
    first, second = (TRACER.start_span("work") for _ in range(2))
    assert first.get_span_context().is_valid
    assert first.get_span_context().trace_id != second.get_span_context().trace_id
    assert not first.is_recording()
    assert not first.get_span_context().trace_flags.sampled


def test_span_below_a_callers_span_stays_in_the_callers_trace() -> None:
    remote = NonRecordingSpan(SpanContext(7, 8, True, TraceFlags(TraceFlags.SAMPLED)))
    with trace.use_span(remote), TRACER.start_as_current_span("outer") as outer:
        assert trace.get_current_span() is outer
        inner = TRACER.start_span("inner")
    assert [span.get_span_context().trace_id for span in (outer, inner)] == [7, 7]
    assert len({span.get_span_context().span_id for span in (remote, outer, inner)}) == 3


def test_span_can_be_shown() -> None:
    span = TRACER.start_span("call")
    assert f"{span.get_span_context().trace_id:032x}" in repr(span)
