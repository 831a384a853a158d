"""Takes back the rows that one object put into its dataset, with a ledger row like any load."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
from opentelemetry import trace

from ingest_service.ledger import loads
from ingest_service.ledger.records import Load, LoadPhase, LoadStart, LoadState, LoadTrigger, ObjectVersion, ReadCounts
from ingest_service.merge.merge import unload
from ingest_service.routing import ObjectUri
from shared.contract.model import Dataset
from shared.errors import PenstockError
from shared.postgres.errors import translated


class Unloader:
    """Runs unloads. It needs no S3: the ledger knows which rows are the object's."""

    def __init__(self, *, pool: asyncpg.Pool[asyncpg.Record], owner: str) -> None:
        self._pool = pool
        self._owner = owner

    async def unload(self, dataset: Dataset, uri: ObjectUri) -> Load:
        """The finished unload. Raises NotFound when the object was never loaded, leaving a FAILED row that says so."""
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
                load = await loads.start_load(connection, start, LoadPhase.MERGING)
                try:
                    await unload(connection, dataset, load)
                except PenstockError as exc:
                    state, read = LoadState.FAILED, ReadCounts()
                    await loads.finish(connection, load.id, state, reason=exc.reason, message=exc.message, read=read)
                    raise
                return await loads.get_load(connection, load.id)
