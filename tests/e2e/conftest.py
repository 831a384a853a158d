"""One whole stack for the end-to-end tests of a test process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from shared.local.stack import LocalStack
from tests.e2e.running_stack import RunningStack, SpanSink


@pytest.fixture(scope="session")
def sink() -> Iterator[tuple[SpanSink, str]]:
    """A span sink and its endpoint."""
    servicer = SpanSink()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="session")
def stack(sink: tuple[SpanSink, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`penstock up` with the repository's contracts."""
    servicer, endpoint = sink
    directory = tmp_path_factory.mktemp("stack")
    environ = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    }
    with LocalStack(directory, environ=environ) as running:
        yield RunningStack(directory=directory, environment=running.environment, sink=servicer)
