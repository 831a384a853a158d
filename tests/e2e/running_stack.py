"""A whole stack as the end-to-end tests see it, and a sink that keeps the spans its services export."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
import grpc
from botocore.config import Config
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.client.channel import ClientTls, open_channel

T = TypeVar("T")

PATIENCE_S = 60.0


class SpanSink(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps everything in memory."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def Export(  # noqa: N802  named by the proto
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self._spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace that have arrived."""
        with self._lock:
            return [span for span in self._spans if span.trace_id.hex() == trace_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """A stack that is up, and where its spans go."""

    directory: Path
    environment: Mapping[str, str]
    sink: SpanSink

    def channel(self, service: str) -> grpc.Channel:
        """An mTLS channel to `QUERY` or `INGEST`."""
        return open_channel(
            self.environment[f"PENSTOCK_{service}_ADDRESS"], ClientTls.from_environment(self.environment)
        )

    def s3(self) -> Any:
        """A client of the emulator."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
            config=Config(proxies={}),
        )

    def upload(self, key: str, body: bytes) -> ingest_pb2.Load:
        """Drops a file and waits for the final state of its load."""
        bucket = self.environment["PENSTOCK_BUCKET"]
        version = self.s3().put_object(Bucket=bucket, Key=key, Body=body).get("VersionId", "")
        return self.wait_for_load(f"s3://{bucket}/{key}", version)

    def wait_for_load(self, uri: str, version: str) -> ingest_pb2.Load:
        """The load of that version, once it has ended."""
        with self.channel("INGEST") as channel:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)

            def ended() -> ingest_pb2.Load | None:
                loads = stub.ListLoads(ingest_pb2.ListLoadsRequest(uri=uri), timeout=10).loads
                done = (one for one in loads if one.state != ingest_pb2.LOAD_STATE_RUNNING)
                return next((one for one in done if one.object_version_id == version), None)

            return eventually(ended)


def eventually(look: Callable[[], T | None], patience_s: float = PATIENCE_S, *, every_s: float = 0.05) -> T:
    """The first thing that `look` finds, asked every so often; AssertionError after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(every_s)
    raise AssertionError(f"{look} found nothing within {patience_s} s")
