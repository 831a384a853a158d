"""The service around the handlers: traces, readiness, reflection of its own contracts, refusal to serve other ones."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.errors import ConfigError
from shared.local.postgres import EmbeddedPostgres
from shared.postgres.applied import check_applied
from tests.integration.query.lab import Client, Lab, readings, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_call_is_one_trace_from_rpc_to_sql(lab: Lab) -> None:
    await lab.insert(readings(lab, 1000, payload=b"secret"))
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with serving(lab, tracers=provider) as client:
        await client.call("ListReadings", label=["l1"])
        await client.stream(label="l1")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    for method in ("ListReadings", "StreamReadings"):
        rpc = spans[f"lab.v1.ReadingService/{method}"]
        (query,) = [s for s in exporter.get_finished_spans() if s.parent and s.parent.span_id == rpc.context.span_id]
        assert query.name == "SELECT data.readings"
        assert query.attributes is not None
        assert query.attributes["db.system.name"] == "postgresql"
        assert "$1" in str(query.attributes["db.query.text"])
        assert "l1" not in str(query.attributes["db.query.text"])


async def health(client: Client, service: str) -> Any:
    check = client.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


async def until_health(client: Client, status: int) -> None:
    async with asyncio.timeout(20):
        while await health(client, "lab.v1.ReadingService") != status:  # noqa: ASYNC110  as a load balancer asks
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_readiness_follows_the_database_and_liveness_does_not(
    lab: Lab, client: Client, postgres: EmbeddedPostgres
) -> None:
    await until_health(client, SERVING)
    name = lab.url.rpartition("/")[2]
    with psycopg.connect(postgres.url(), autocommit=True) as outside:
        outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        await until_health(client, NOT_SERVING)
        assert await health(client, "liveness") == SERVING
        outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    await until_health(client, SERVING)
    assert (await client.call("ListReadings")).dataset_version == 0


async def test_reflection_shows_the_served_contract(client: Client) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="lab.v1.Reading")
    info = client.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = info(iter([request]))
    answer: Any = await call.read()
    assert answer.file_descriptor_response.file_descriptor_proto


async def test_a_contract_that_was_not_applied_is_refused(lab: Lab) -> None:
    async with asyncpg.create_pool(lab.url, min_size=1, max_size=1) as pool:
        await check_applied(pool, lab.contracts)
        await lab.execute("UPDATE penstock.datasets SET fingerprint = 'other'")
        with pytest.raises(ConfigError, match="dataset readings"):
            await check_applied(pool, lab.contracts)
