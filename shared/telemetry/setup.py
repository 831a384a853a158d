"""Traces, metrics and logs of a process, set up once by its `__main__`. Never blocks a stop for longer than 5 s.

Without a collector nothing is recorded (that cost 12 % of a List), but spans still have ids, so that every log line and
INTERNAL error has one. The OpenTelemetry SDK reads its own variables: sampler, headers, TLS, batch sizes,
OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared.settings import EnvironReader
from shared.telemetry.logs import log_to_stderr
from shared.telemetry.unrecorded import UnrecordedTracerProvider

_LOG = logging.getLogger(__name__)
_FLUSH_S = 5.0
LEVELS = ("debug", "info", "warning", "error", "critical")


class Telemetry:
    """What `setup` opened; a context manager. `close` flushes and gives up after 5 s."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer_provider = tracer_provider
        self.meter_provider = meter_provider

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Send what is left. Blocking: call it after the event loop has ended."""
        flushes = [opened.shutdown for opened in (self.tracer_provider, self.meter_provider) if opened is not None]
        # The SDK's own time limits do not cover an export that is under way; a daemon thread cannot hold up the exit.
        threads = [threading.Thread(target=_flush, args=(flush,), daemon=True) for flush in flushes]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + _FLUSH_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            _LOG.warning("the last spans or metrics could not be sent within %s s", _FLUSH_S)


def setup(service_name: str, environ: Mapping[str, str], version: str) -> Telemetry:
    """Install JSON logs and the global tracer and meter providers; raises ConfigError for a wrong PENSTOCK_LOG_LEVEL.

    Traces go to OTLP over gRPC when OTEL_EXPORTER_OTLP_ENDPOINT or its _TRACES_ form is set, metrics likewise. Where no
    metrics go there, OTEL_PYTHON_METER_PROVIDER may name a provider; one that is set later in code is not heard.
    """
    reader = EnvironReader(environ)
    level = reader.choice("PENSTOCK_LOG_LEVEL", LEVELS, "info")
    reader.done()
    log_to_stderr(level)
    resource = _resource(service_name, environ, version)
    telemetry = Telemetry(_tracers(resource, environ), _meters(resource, environ))
    trace.set_tracer_provider(telemetry.tracer_provider or UnrecordedTracerProvider())
    if telemetry.meter_provider is not None or not environ.get("OTEL_PYTHON_METER_PROVIDER"):
        metrics.set_meter_provider(telemetry.meter_provider or metrics.NoOpMeterProvider())
    return telemetry


def _resource(service_name: str, environ: Mapping[str, str], version: str) -> Resource:
    instance = environ.get("HOSTNAME") or uuid.uuid4().hex  # a pod's name
    defaults = {"service.name": service_name, "service.version": version, "service.instance.id": instance}
    named = Resource.create(defaults)
    override = environ.get("OTEL_SERVICE_NAME")
    return named.merge(Resource({"service.name": override})) if override else named


def _tracers(resource: Resource, environ: Mapping[str, str]) -> TracerProvider | None:
    if not _exports(environ, "TRACES"):
        return None
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _meters(resource: Resource, environ: Mapping[str, str]) -> MeterProvider | None:
    if not _exports(environ, "METRICS"):
        return None
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)


def _exports(environ: Mapping[str, str], signal: str) -> bool:
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    wanted = environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"
    return wanted and any(environ.get(name, "").strip() for name in endpoints)


def _flush(shutdown: Callable[[], None]) -> None:
    try:
        shutdown()
    except Exception:  # noqa: BLE001 - an exporter may raise what it likes; the process is ending
        _LOG.exception("telemetry could not be flushed")
