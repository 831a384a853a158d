"""Calls that end at any moment leave no trace on the connection that the next call gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace

from query_service.app import query_pool, versions_pool
from query_service.connections import Connections
from query_service.database import Database
from query_service.replicas import Replicas, Server
from query_service.settings import QueryLimits, QuerySettings
from query_service.shares import Shares
from query_service.versions import Versions
from shared.settings import DatabaseSettings, RpcSettings
from tests.integration.query.lab import Lab

# A stream's transaction is REPEATABLE READ; a statement by itself is not.
ALONE = "SELECT current_setting('transaction_isolation') = 'read committed' AS alone"


@pytest.fixture
async def database(lab: Lab) -> AsyncIterator[Database]:
    """A database with one connection for calls."""
    settings = QuerySettings(
        contracts=None, rpc=RpcSettings(), database=DatabaseSettings(url=lab.url, pool_size=2), limits=QueryLimits()
    )
    async with query_pool(settings) as pool, versions_pool(settings) as listening:
        connections = Connections(pool, queue_s=5.0, told_apart=False)
        primary = Server(connections=connections, streams=Shares(1))
        tracer, versions = trace.get_tracer(__name__), Versions(listening)
        yield Database(primary, replicas=Replicas([]), versions=versions, tracer=tracer, limits=settings.limits)
        await connections.close()


def moments() -> Iterator[int]:
    """Turns of the event loop: every one at first, then ever longer."""
    turns = 1
    while turns < 5000:
        yield turns
        turns += 1 + turns // 15


async def cancel_after(turns: int, task: asyncio.Task[None]) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_a_stream_cancelled_at_any_moment_leaves_a_clean_connection(lab: Lab, database: Database) -> None:
    async def stream() -> None:
        async with database.snapshot(lab.dataset, 10, at_least=0) as connection:
            await connection.fetchrow(ALONE)

    for turns in moments():
        await cancel_after(turns, asyncio.create_task(stream()))
        assert (await database.fetch_row(lab.dataset, ALONE, (), 10))["alone"], f"inside a transaction, {turns} turns"
        await stream()


async def test_a_page_cancelled_at_any_moment_leaves_a_clean_connection(lab: Lab, database: Database) -> None:
    async def page() -> None:
        await database.fetch_row(lab.dataset, "SELECT count(*) FROM generate_series(1, 1000)", (), 10)

    for turns in moments():
        await cancel_after(turns, asyncio.create_task(page()))
        assert (await database.fetch_row(lab.dataset, ALONE, (), 10))["alone"]


async def test_a_new_connection_joins_pages_without_a_page_fault_for_every_4_kib(lab: Lab, database: Database) -> None:
    """On glibc, whose heap grows once then: 576 faults; without the first statement 5,300."""
    pages, page = 10, "SELECT string_agg(repeat('x', 160)::bytea, '') FROM generate_series(1, 3277)"
    async with database.snapshot(lab.dataset, 10, at_least=0) as connection:
        before = page_faults(connection.get_server_pid())
        for _ in range(pages):
            assert len(await connection.fetchval(page)) >= 512 * 1024
        assert page_faults(connection.get_server_pid()) - before < pages * 150


async def test_a_statement_goes_on_after_a_column_has_changed_its_type(lab: Lab, database: Database) -> None:
    async with lab.session() as session:
        await session.execute("CREATE TABLE public.changing AS SELECT 1::integer AS number")
        for kind, number in (("integer", 1), ("text", "1"), ("bigint", 1)):
            await session.execute(f"ALTER TABLE public.changing ALTER number TYPE {kind} USING number::{kind}")
            for _ in range(2):
                row = await database.fetch_row(lab.dataset, "SELECT * FROM public.changing", (), 10)
                assert row["number"] == number
        await session.execute("DROP TABLE public.changing")


def page_faults(pid: int) -> int:
    """Minor faults of a process: the tenth field of its stat (proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
