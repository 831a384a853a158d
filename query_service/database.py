"""Connections and statements of the query service: bounded waits, one span a database call, errors translated once.

Never runs SQL of its own making; plans come from `plan.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import Span, SpanKind, Tracer

from query_service.settings import QueryLimits
from shared.contract.model import Dataset
from shared.errors import ResourceExhausted
from shared.postgres.errors import translated

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"  # generic in its stubs only

# Every accepted query has an index in its order, so the planner may not trade it for a scan or a sort that looks
# cheaper: on a table without statistics, or with a generic plan, it would. Small parallel plans only cost workers.
PLANNER_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


class Database:
    """The pool as handlers use it. Streams hold a connection for long, so they may take three quarters of the pool."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, tracer: Tracer, limits: QueryLimits) -> None:
        self._pool = pool
        self._tracer = tracer
        self.limits = limits
        size = pool.get_max_size()
        self._streams = asyncio.Semaphore(max(1, size - max(1, size // 4)))

    async def fetch_row(self, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """One statement on any connection, in a span of its own; the first row or None."""
        with self.span(dataset, sql), translated():
            async with self._pool.acquire(timeout=timeout_s) as connection:
                return await connection.fetchrow(sql, *arguments, timeout=timeout_s)

    @asynccontextmanager
    async def snapshot(self, timeout_s: float) -> AsyncIterator[Connection]:
        """A connection inside one REPEATABLE READ READ ONLY transaction, rolled back at the end."""
        async with self._stream_slot(timeout_s):
            with translated():
                async with (
                    self._pool.acquire(timeout=timeout_s) as connection,
                    connection.transaction(isolation="repeatable_read", readonly=True),
                ):
                    milliseconds = max(1, int(timeout_s * 1000))
                    # A pod that vanishes must not hold a snapshot, and with it vacuum, for longer than a stream lasts.
                    await connection.execute(
                        f"SET LOCAL statement_timeout = {milliseconds};"
                        f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
                    )
                    yield connection

    @asynccontextmanager
    async def _stream_slot(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(min(timeout_s, self.limits.stream_queue_s)):
                await self._streams.acquire()
        except TimeoutError as exc:
            raise ResourceExhausted(
                "as many streams are open as this server serves at once", reason="TOO_MANY_STREAMS", retry_after_s=1.0
            ) from exc
        try:
            yield
        finally:
            self._streams.release()

    @contextmanager
    def span(self, dataset: Dataset, sql: str) -> Iterator[Span]:
        """A client span by the semantic conventions; the SQL text holds no values."""
        attributes = {
            "db.system.name": "postgresql",
            "db.operation.name": "SELECT",
            "db.collection.name": f"data.{dataset.name}",
            "db.query.text": sql,
        }
        name = f"SELECT data.{dataset.name}"
        with self._tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes) as span:
            yield span
