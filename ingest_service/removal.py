"""What becomes of an object that is said to be gone, by an event or because a listing lacks it.

A removal is no proof of absence: removing a delete marker, or an old version, leaves an object to load. So S3 is asked.
"""

from __future__ import annotations

import logging
from uuid import uuid4

import asyncpg
from opentelemetry import trace

from ingest_service.failures import is_retryable
from ingest_service.ledger import objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.decision import AppliedObject
from ingest_service.ledger.records import Load, LoadStart, LoadTrigger, ObjectVersion
from ingest_service.load import Loader, LoadJob
from ingest_service.merge import mirror
from ingest_service.objects import ObjectGone, ObjectStore
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source
from shared.contract.model import Dataset
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)


class Removals:
    """Follows up removals: the object is loaded where it is there, and noted in the ledger as gone where it is not."""

    def __init__(self, *, pool: asyncpg.Pool[asyncpg.Record], store: ObjectStore, loader: Loader, owner: str) -> None:
        self._pool = pool
        self._store = store
        self._loader = loader
        self._owner = owner

    async def follow_up(
        self,
        dataset: Dataset,
        source: Source,
        gone: ObjectVersion,
        trigger: LoadTrigger,
        *,
        patient: bool = False,
    ) -> Load | None:
        """The load of what is there, None where nothing is. `gone` has the sequencer of its event, where there is one;
        `trigger` and `patient` are the load's. Raises what is to be tried again."""
        seen = await self._known(dataset, gone)
        try:
            await self._store.head(gone.bucket, gone.key)
        except ObjectGone:
            await self._remove(dataset, gone, seen)
            return None
        except PenstockError as exc:
            if is_retryable(exc):
                raise
            # S3 will never say (403, also of a missing key without s3:ListBucket): the load meets that too, and ends
            # with it in the ledger.
        # With the event's place in the order: an old version that a deletion brings back has an old Last-Modified.
        current = LoadJob(
            dataset=dataset,
            bucket=gone.bucket,
            key=gone.key,
            trigger=trigger,
            sequencer=gone.sequencer,
            source=source,
            role=source.role_of(ObjectUri(bucket=gone.bucket, key=gone.key)),
            patient=patient,
        )
        return await self._loader.load(current)

    async def _known(self, dataset: Dataset, gone: ObjectVersion) -> AppliedObject | None:
        """Before S3 is asked, so that what is loaded after its answer is not taken for what is gone."""
        with translated():
            async with self._pool.acquire() as connection:
                return await objects.applied_object(connection, dataset.name, gone.bucket, gone.key)

    async def _remove(self, dataset: Dataset, gone: ObjectVersion, seen: AppliedObject | None) -> None:
        """The rows of a removed object go with it only where the table mirrors the bucket."""
        with translated():
            async with self._pool.acquire() as connection:
                if not dataset.mirrors:
                    await objects.remove_object(connection, dataset, gone, seen=seen)
                    return
                start = self._removal_of(dataset, gone)
                result = await mirror.remove(connection, dataset, start, seen, LockTimes())
        if result is not None:
            logger.info("%s removed, %d rows, at version %d", gone.uri, result.rows_deleted, result.dataset_version)

    def _removal_of(self, dataset: Dataset, gone: ObjectVersion) -> LoadStart:
        context = trace.get_current_span().get_span_context()
        return LoadStart(
            id=uuid4(),
            dataset=dataset.name,
            object=gone,
            trigger=LoadTrigger.UNLOAD,
            owner=self._owner,
            trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else "",
        )
