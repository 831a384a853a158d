"""Connections and statements of the query service: bounded waits, one span a database call, errors translated once.

Never runs SQL of its own making; plans come from `plan.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span

from query_service.connections import Connection
from query_service.labels import note_label
from query_service.replicas import Replica, Replicas, Server
from query_service.rows import version_not_reached
from query_service.settings import QueryLimits
from query_service.shares import Shares
from query_service.versions import Versions
from query_service.watch_limits import Watches
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition, PenstockError, ResourceExhausted, Unavailable
from shared.postgres.errors import translated
from shared.rpc.identity import CALLER
from shared.telemetry.unrecorded import UnrecordedTracer

# Every accepted query has an index in its order, so the planner may not trade it for a scan or a sort that looks
# cheaper: on a table without statistics, or with a generic plan, it would. Small parallel plans only cost workers.
# Bitmap scans stay on: what they find has no order, so they serve the trigram indexes and nothing that is walked.
PLANNER_SETTINGS = {
    "enable_seqscan": "off",
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
# life: 0.68 -> 0.39 s of its CPU for 1 M streamed rows. The block is made of large pieces and its characters are not
# counted: of single spaces, by length(), it took each new connection 38 ms of CPU instead of 2.
FIRST_STATEMENT = "SELECT octet_length(repeat(repeat(' ', 8192), 1024))"


# A replica whose snapshots may hold up replication for less than this streams nothing.
_SHORTEST_STREAM_S = 1.0
# What a replica may answer that the primary might not: it was restarted, gave way to replication, lacks a migration.
_ELSEWHERE = (Unavailable, FailedPrecondition)

# Where a dataset stands in the snapshot that a stream is about to read. Index: datasets_pkey.
_STANDING = "SELECT epoch, version FROM penstock.datasets WHERE name = $1"


@asynccontextmanager
async def bounded(max_age_s: float) -> AsyncIterator[None]:
    """Cuts a stream that lives too long, also one whose client takes nothing: Unavailable with RetryInfo."""
    limit = asyncio.timeout(max_age_s)
    try:
        async with limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise Unavailable(
            f"a stream lasts at most {max_age_s:g} s: resume with the last resume_token",
            reason="STREAM_MAX_AGE",
            retry_after_s=0.1,
        ) from exc


class Database:
    """The database as handlers use it: the primary, and replicas for who says from which version on they will do."""

    def __init__(
        self, primary: Server, *, replicas: Replicas, versions: Versions, tracer: Tracer, limits: QueryLimits
    ) -> None:
        self._primary = primary
        self._replicas = replicas
        self.versions = versions
        self.watches = Watches()
        self.open_streams = 0
        self._tracer = tracer
        self._unrecorded = isinstance(tracer, UnrecordedTracer)
        self.limits = limits

    def fetch_row(
        self, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float, *, at_least: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """One statement on any connection, in a span of its own; the first row or None.

        On the primary, or with `at_least` also on a replica: there a row that carries another epoch or an older version
        is not taken, and neither is a failure. Raises Unavailable where the primary itself is older.
        """
        # Where the call's span is not recorded none below it is, and to make one is a part of each call.
        if self._unrecorded or not get_current_span().is_recording():
            return self._fetch_row(dataset, sql, arguments, timeout_s, at_least)
        return self._fetch_row_observed(dataset, sql, arguments, timeout_s, at_least)

    async def _fetch_row_observed(
        self, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float, at_least: int | None
    ) -> Any:
        with self.span(dataset, sql):
            return await self._fetch_row(dataset, sql, arguments, timeout_s, at_least)

    async def _fetch_row(
        self, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float, at_least: int | None
    ) -> Any:
        replica = None if at_least is None else self._replicas.choose(dataset.name)
        row = None
        if replica is not None and at_least is not None:
            until = asyncio.get_running_loop().time() + timeout_s
            row = await self._from_replica(replica, dataset, sql, arguments, timeout_s / 2, at_least)
            timeout_s = until - asyncio.get_running_loop().time()
        if row is None:
            with translated():
                row = await self._primary.connections.fetchrow(sql, arguments, timeout_s)
            if at_least and row is not None and row.get("version", at_least) < at_least:
                raise version_not_reached(dataset, at_least, row["version"])
        note_label(row)
        return row

    async def _from_replica(
        self, replica: Replica, dataset: Dataset, sql: str, arguments: Sequence[Any], timeout_s: float, at_least: int
    ) -> Any:
        """A replica's row; None where the primary has to be asked."""
        try:
            with translated():
                row = await replica.server.connections.fetchrow(sql, arguments, timeout_s)
        except _ELSEWHERE as exc:
            _gave_up(replica, exc)
            return None
        return row if row is None or "epoch" not in row or self._may_serve(dataset, row, at_least) else None

    def _may_serve(self, dataset: Dataset, row: Any, at_least: int) -> bool:
        primary = self.versions.last_heard(dataset.name)
        return row["version"] >= at_least and (primary is None or row["epoch"] == primary.epoch)

    @asynccontextmanager
    async def snapshot(self, dataset: Dataset, timeout_s: float, *, at_least: int) -> AsyncIterator[Connection]:
        """A connection inside one REPEATABLE READ READ ONLY transaction, rolled back at the end.

        On a replica that has the version, for as long as it may hold up replication; else on the primary.
        """
        replica = self._replicas.choose(dataset.name)
        async with AsyncExitStack() as stack:
            connection = None
            if replica is not None and replica.stream_age_s >= _SHORTEST_STREAM_S:
                connection = await self._opened(stack, replica, dataset, timeout_s, at_least)
            if connection is None:
                connection = await stack.enter_async_context(self._snapshot_on(self._primary, timeout_s))
            yield connection

    async def _opened(
        self, stack: AsyncExitStack, replica: Replica, dataset: Dataset, timeout_s: float, at_least: int
    ) -> Connection | None:
        """A replica's snapshot, which `stack` ends; None where it is not to be had, or too old."""
        try:
            async with AsyncExitStack() as opening:
                await opening.enter_async_context(bounded(replica.stream_age_s))
                connection = await opening.enter_async_context(self._snapshot_on(replica.server, timeout_s))
                with translated():
                    row = await connection.fetchrow(_STANDING, dataset.name)
                if row is not None and self._may_serve(dataset, row, at_least):
                    stack.push_async_exit(opening.pop_all())
                    return connection
        except _ELSEWHERE as exc:
            _gave_up(replica, exc)
        return None

    @asynccontextmanager
    async def _snapshot_on(self, server: Server, timeout_s: float) -> AsyncIterator[Connection]:
        async with self._stream_slot(server.streams, timeout_s):
            with translated():
                async with (
                    server.connections.take(timeout_s) as connection,
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
    async def _stream_slot(self, streams: Shares, timeout_s: float) -> AsyncIterator[None]:
        caller = CALLER.get()
        try:
            await streams.acquire(caller, min(timeout_s, self.limits.queue_s))
        except TimeoutError as exc:
            raise ResourceExhausted(
                f"as many streams are open as this server serves at once ({streams.size}), or serves one caller "
                f"({streams.per_caller}): ask again",
                reason="TOO_MANY_STREAMS",
                metadata={"identity": caller},
                retry_after_s=1.0,
            ) from exc
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1
            streams.release(caller)

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


def _gave_up(replica: Replica, exc: PenstockError) -> None:
    """A replica that gave way to replication is well, whatever else it did is looked into first."""
    if exc.reason != "REPLICA_CONFLICT":
        replica.leave_out(exc.message)
