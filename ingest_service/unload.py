"""Takes back the rows that one object put into its dataset, with a ledger row like any load."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
from opentelemetry import trace

from ingest_service.heartbeat import kept_alive
from ingest_service.ledger import loads
from ingest_service.ledger.datasets import COMMIT_UNKNOWN
from ingest_service.ledger.records import Load, LoadPhase, LoadStart, LoadState, LoadTrigger, ObjectVersion, ReadCounts
from ingest_service.merge.merge import MergeLimits, unload
from ingest_service.routing import ObjectUri
from shared.contract.model import Dataset
from shared.errors import PenstockError, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadLimits:
    """`concurrency` unloads hold a connection while they wait for their dataset: loads need the rest of the pool.
    `farewell_s`: what one that is cancelled may still take for saying so in the ledger."""

    concurrency: int = 2
    heartbeat_s: float = 10.0
    farewell_s: float = 5.0
    merge: MergeLimits = field(default_factory=MergeLimits)


class Unloader:
    """Runs unloads. It needs no S3: the ledger knows which rows are the object's."""

    def __init__(self, *, pool: asyncpg.Pool[asyncpg.Record], owner: str, limits: UnloadLimits | None = None) -> None:
        self._pool = pool
        self._owner = owner
        self._limits = limits or UnloadLimits()
        self._slots = asyncio.Semaphore(self._limits.concurrency)

    async def unload(self, dataset: Dataset, uri: ObjectUri) -> Load:
        """The finished unload. Raises NotFound when the object was never loaded, leaving a FAILED row that says so."""
        async with self._slots:
            load = await self._start(dataset, uri)
            try:
                async with kept_alive(f"unload {load.id}", lambda: self._sign_of_life(load), self._limits.heartbeat_s):
                    return await self._run(dataset, load)
            except PenstockError as exc:
                await self._try_to_fail(load, exc.reason, exc.message)
                raise
            except asyncio.CancelledError:
                await self._try_to_fail(load, "CANCELLED", "the call ended before the unload could")
                raise
            except Exception as exc:
                await self._try_to_fail(load, "INTERNAL", f"{type(exc).__name__}; see the log")
                raise

    async def _start(self, dataset: Dataset, uri: ObjectUri) -> Load:
        context = trace.get_current_span().get_span_context()
        start = LoadStart(
            id=uuid4(),
            dataset=dataset.name,
            object=ObjectVersion(bucket=uri.bucket, key=uri.key),
            trigger=LoadTrigger.UNLOAD,
            owner=self._owner,
            trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else "",
        )
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.start_load(connection, start, LoadPhase.MERGING)

    async def _run(self, dataset: Dataset, load: Load) -> Load:
        with translated():
            try:
                async with self._pool.acquire() as connection:
                    await unload(connection, dataset, load, self._limits.merge)
            except Unavailable as exc:
                if exc.reason != COMMIT_UNKNOWN or not await self._was_committed(load):
                    raise
            async with self._pool.acquire() as connection:
                return await loads.get_load(connection, load.id)

    async def _was_committed(self, load: Load) -> bool:
        async with self._pool.acquire() as connection:
            return await loads.committed_load(connection, load) is not None

    async def _sign_of_life(self, load: Load) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.heartbeat(connection, load.id, LoadPhase.MERGING, ReadCounts())

    async def _try_to_fail(self, load: Load, reason: str, message: str) -> None:
        """While something worse is on its way up, which must not be replaced: the sweep ends the row otherwise."""
        try:
            async with asyncio.timeout(self._limits.farewell_s):
                with translated():
                    async with self._pool.acquire() as connection:
                        state, read = LoadState.FAILED, ReadCounts()
                        await loads.finish(connection, load.id, state, reason=reason, message=message, read=read)
        except Exception:
            logger.exception("unload %s stays RUNNING until it is swept", load.id)
