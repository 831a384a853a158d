"""Connections and statements of the query service: bounded waits, one span a database call, errors translated once.

Never runs SQL of its own making; plans come from `plan.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span

from query_service.connections import Connection, Connections
from query_service.labels import note_label
from query_service.settings import QueryLimits
from query_service.shares import Shares
from query_service.versions import Versions
from query_service.watches import Watches
from shared.contract.model import Dataset
from shared.errors import PenstockError, ResourceExhausted
from shared.postgres.errors import translated
from shared.rpc.identity import CALLER

# Every accepted query has an index in its order, so the planner may not trade it for a scan or a sort that looks
# cheaper: on a table without statistics, or with a generic plan, it would. Small parallel plans only cost workers.
PLANNER_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    # A limit that is a parameter makes a generic plan look dear, so Postgres would plan each page anew: 331 us instead
    # of 213 us. The index it would choose is the same.
    "plan_cache_mode": "force_generic_plan",
}
# glibc hands each freed block above its mmap threshold (128 KiB) back to the kernel, so a backend that joins pages of
# 512 KiB takes a page fault for every 4 KiB of each. Freeing one large block raises the threshold for the backend's
# life: 0.68 -> 0.39 s of its CPU for 1 M streamed rows. Elsewhere than on glibc it is a statement of 1 ms.
FIRST_STATEMENT = "SELECT length(repeat(' ', 8388608))"


class Database:
    """The database as handlers use it. Streams hold a connection for long, so they get slots of their own."""

    def __init__(
        self, connections: Connections, *, streams: Shares, versions: Versions, tracer: Tracer, limits: QueryLimits
    ) -> None:
        self._connections = connections
        self.versions = versions
        self.watches = Watches()
        self._tracer = tracer
        self.limits = limits
        self._streams = streams

    async def fetch_row(self, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """One statement on any connection, in a span of its own; the first row or None."""
        if not get_current_span().is_recording():  # then no span below it is, and to make one is a part of each call
            return await self._fetch_row(sql, arguments, timeout_s)
        with self.span(dataset, sql):
            return await self._fetch_row(sql, arguments, timeout_s)

    async def _fetch_row(self, sql: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        with translated():
            async with self._connections.take(timeout_s) as connection:
                row = await connection.fetchrow(sql, *arguments, timeout=timeout_s)
        note_label(row)
        return row

    @asynccontextmanager
    async def snapshot(self, timeout_s: float) -> AsyncIterator[Connection]:
        """A connection inside one REPEATABLE READ READ ONLY transaction, rolled back at the end."""
        async with self._stream_slot(timeout_s):
            with translated():
                async with (
                    self._connections.take(timeout_s) as connection,
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
        caller = CALLER.get()
        try:
            async with asyncio.timeout(min(timeout_s, self.limits.queue_s)):
                await self._streams.acquire(caller)
        except TimeoutError as exc:
            raise ResourceExhausted(
                f"as many streams are open as this server serves at once ({self._streams.size}), or serves one caller "
                f"({self._streams.per_caller}): ask again",
                reason="TOO_MANY_STREAMS",
                metadata={"identity": caller},
                retry_after_s=1.0,
            ) from exc
        try:
            yield
        finally:
            self._streams.release(caller)

    @contextmanager
    def span(self, dataset: Dataset, sql: str) -> Iterator[Span]:
        """A client span by the semantic conventions; the SQL text holds no values, and neither does its error."""
        attributes = {
            "db.system.name": "postgresql",
            "db.operation.name": "SELECT",
            "db.collection.name": f"data.{dataset.name}",
            "db.query.text": sql,
        }
        # Nothing below the database makes spans, so this one need not become the current one.
        span = self._tracer.start_span(f"SELECT data.{dataset.name}", kind=SpanKind.CLIENT, attributes=attributes)
        try:
            yield span
        except Exception as exc:
            span.set_attribute("error.type", exc.reason if isinstance(exc, PenstockError) else type(exc).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
