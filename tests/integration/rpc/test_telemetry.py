"""Telemetry of a process: what reaches a collector, and that a dead one neither floods the log nor holds the exit."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PROGRAM = """
import logging, os, sys
from opentelemetry import metrics, trace
from shared.telemetry import setup

with setup("penstock-test", os.environ, "1.2.3"):
    with trace.get_tracer("t").start_as_current_span("work"):
        logging.getLogger("penstock.test").info("inside", extra={"rows": 3})
    metrics.get_meter("m").create_counter("loads").add(1)
"""


class Collector:
    """A sink on the real OTLP stubs."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.port = 0

    async def traces(self, request: Any, _context: Any) -> Any:
        """TraceService.Export."""
        self.spans.extend(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def export_metrics(self, request: Any, _context: Any) -> Any:
        """MetricsService.Export."""
        self.metrics.extend(request.resource_metrics)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    sink, server = Collector(), grpc.aio.server()
    traces = type("Traces", (trace_service_pb2_grpc.TraceServiceServicer,), {"Export": staticmethod(sink.traces)})
    metrics = type(
        "Metrics", (metrics_service_pb2_grpc.MetricsServiceServicer,), {"Export": staticmethod(sink.export_metrics)}
    )
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics(), server)
    sink.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield sink
    await server.stop(None)


async def run(program: str = PROGRAM, **environ: str) -> tuple[list[Any], float]:
    """The JSON lines that the program logs, and how long it ran in seconds."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PENSTOCK_"))}
    began = asyncio.get_running_loop().time()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=PIPE, env=plain | environ)
    _, printed = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, printed.decode()
    return [json.loads(line) for line in printed.splitlines()], asyncio.get_running_loop().time() - began


def attributes(resource: Any) -> dict[str, str]:
    """Of an OTLP resource."""
    return {entry.key: entry.value.string_value for entry in resource.attributes}


async def test_spans_and_metrics_reach_the_collector_at_exit_with_the_resource_of_the_service(
    collector: Collector,
) -> None:
    (line,), _ = await run(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
        HOSTNAME="pod-7",
        OTEL_RESOURCE_ATTRIBUTES="a=b",
    )
    (spans,) = collector.spans
    resource = attributes(spans.resource)
    expected = {"service.name": "penstock-test", "service.version": "1.2.3", "service.instance.id": "pod-7", "a": "b"}
    assert expected.items() <= resource.items()
    assert spans.scope_spans[0].spans[0].trace_id.hex() == line["trace_id"]
    names = {
        metric.name for exported in collector.metrics for scope in exported.scope_metrics for metric in scope.metrics
    }
    assert "loads" in names


async def test_traces_only_endpoint_sends_no_metrics(collector: Collector) -> None:
    await run(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{collector.port}")
    assert collector.spans
    assert not collector.metrics


async def test_sampler_of_the_environment_is_honoured(collector: Collector) -> None:
    await run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}", OTEL_TRACES_SAMPLER="always_off")
    assert not collector.spans


async def test_without_a_collector_log_lines_still_have_a_trace_id() -> None:
    (line,), _ = await run()
    assert line["message"] == "inside"
    assert line["rows"] == 3
    assert len(line["trace_id"]) == 32


async def test_level_of_the_environment_is_honoured() -> None:
    lines, _ = await run(PENSTOCK_LOG_LEVEL="warning")
    assert lines == []


@pytest.mark.slow
async def test_collector_that_is_away_costs_few_lines_and_no_long_exit() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # never listens
        lines, seconds = await run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert len(lines) <= 8
    assert seconds < 15


@pytest.mark.slow
async def test_collector_that_never_answers_cannot_hold_the_exit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, seconds = await run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert seconds < 15


METER = """
import os
from opentelemetry import metrics
from shared.telemetry import setup
setup("test", dict(os.environ), "1")
print(type(metrics.get_meter("test")).__name__)
"""


@pytest.mark.parametrize(("named", "meter"), [("", "NoOpMeter"), ("sdk_meter_provider", "Meter")])
def test_without_a_collector_metrics_go_where_the_environment_says(named: str, meter: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {"OTEL_PYTHON_METER_PROVIDER": named} if named else {}
    ran = subprocess.run([sys.executable, "-c", METER], env=environment, capture_output=True, check=True, timeout=60)
    assert ran.stdout.decode().strip() == meter
