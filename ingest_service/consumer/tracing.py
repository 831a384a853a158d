"""The spans of a message, after the OpenTelemetry conventions for messaging and SQS.

The span of a message is the root of all that its load does: S3, COPY and commit are below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ingest_service.consumer.model import Message
from ingest_service.consumer.queue import Queue

_XRAY_ROOT = re.compile(r"(?:^|;)Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?:;|$)")
_XRAY_PARENT = re.compile(r"(?:^|;)Parent=([0-9a-f]{16})(?:;|$)")


@contextmanager
def message_span(tracer: Tracer, queue: Queue, message: Message) -> Iterator[Span]:
    """The current span while the message is worked on, with the receive that brought it as its first child.

    The producer's context is linked, not inherited: an unsampled upload must not hide its load.
    """
    with tracer.start_as_current_span(
        f"process {queue.name}",
        context=Context(),
        kind=SpanKind.CONSUMER,
        attributes={
            **_attributes(queue, "process"),
            "messaging.message.id": message.id,
            "messaging.message.body.size": len(message.body),
            "penstock.receive_count": message.receive_count,
        },
        links=_links(message.trace_headers),
        start_time=message.received_ns,
    ) as span:
        tracer.start_span(
            f"receive {queue.name}",
            kind=SpanKind.CLIENT,
            attributes=_attributes(queue, "receive"),
            start_time=message.asked_ns,
        ).end(message.received_ns)
        yield span


@contextmanager
def settle_span(tracer: Tracer, queue: Queue, operation: str) -> Iterator[Span]:
    """Around the delete or the hand-back of a message."""
    attributes = {**_attributes(queue, "settle"), "messaging.operation.name": operation}
    with tracer.start_as_current_span(f"{operation} {queue.name}", kind=SpanKind.CLIENT, attributes=attributes) as span:
        yield span


def _attributes(queue: Queue, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": queue.name,
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "aws.sqs.queue.url": queue.url,
    }


def _links(headers: Mapping[str, str]) -> list[Link]:
    w3c = trace.get_current_span(TraceContextTextMapPropagator().extract(dict(headers), Context())).get_span_context()
    contexts = [w3c, _xray_context(headers.get("AWSTraceHeader", ""))]
    return [Link(context) for context in contexts if context is not None and context.is_valid]


def _xray_context(header: str) -> SpanContext | None:
    """docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader"""
    root, parent = _XRAY_ROOT.search(header), _XRAY_PARENT.search(header)
    if not root or not parent:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if "Sampled=1" in header else TraceFlags.DEFAULT)
    return SpanContext(int("".join(root.groups()), 16), int(parent.group(1), 16), is_remote=True, trace_flags=flags)
