"""What is known of one RPC while it runs. Never holds request or response content."""

from __future__ import annotations

import time
import uuid

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span

from shared.telemetry.unrecorded import UnrecordedSpan

# Looked up once: Python 3.11 finds a member of an enum slowly.
_OK = grpc.StatusCode.OK


class Call:
    """One RPC. `code` is what the caller gets, set before it ends; `identity` is the caller's name.

    Without its task, whose frames would live as long: a call is kept until its line is in the log.
    A drain does not wait for `background` ones. `interrupted` tells a cancellation by the draining server from one by
    the client.
    """

    __slots__ = ("_made_up", "background", "code", "identity", "interrupted", "method", "span", "started")

    def __init__(self, method: str, identity: str, span: Span, *, background: bool) -> None:
        self.method = method
        self.identity = identity
        self.span = span
        self.background = background
        self.code = _OK
        self.interrupted = False
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
