"""Traces, metrics and JSON logs. Modules take their tracer from `opentelemetry.trace.get_tracer(__name__)`."""

from shared.telemetry.setup import Telemetry, setup

__all__ = ["Telemetry", "setup"]
