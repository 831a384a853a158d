"""What the consumer does with one S3 event: find its dataset, load or note the removal, say whether to try again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import asyncpg

from ingest_service.consumer.model import TERMINAL, Outcome, retry
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.failures import is_retryable
from ingest_service.ledger import datasets, objects
from ingest_service.ledger.records import LoadState, LoadTrigger, ObjectVersion
from ingest_service.load import Loader, LoadJob
from ingest_service.objects import ObjectGone, ObjectStore
from ingest_service.routing import dataset_of
from shared.contract.model import Dataset
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)


class EventHandler:
    """Callable as the consumer's `handle`. Terminal means: the ledger says what became of the event."""

    def __init__(
        self,
        *,
        datasets: Mapping[str, Dataset],
        buckets: Collection[str],
        loader: Loader,
        store: ObjectStore,
        pool: asyncpg.Pool[asyncpg.Record],
    ) -> None:
        self._datasets = datasets
        self._buckets = buckets
        self._loader = loader
        self._store = store
        self._pool = pool

    async def __call__(self, event: ObjectEvent) -> Outcome:
        """Handles one event to its end; asks for another attempt on transient failures."""
        try:
            dataset = self._route(event)
            if dataset is None:
                return await self._nobodys(event)
            if event.kind is EventKind.REMOVED:
                await self._removed(dataset, event)
            else:
                await self._created(dataset, event)
        except PenstockError as exc:
            # What ends a load for good is in the ledger and not raised: without a ledger row no event may go.
            logger.warning("s3://%s/%s, to be tried again: %s", event.bucket, event.key, exc.message)
            return retry(exc.retry_after_s or 0.0, reason=exc.reason)
        return TERMINAL

    def _route(self, event: ObjectEvent) -> Dataset | None:
        name = dataset_of(event.key)
        return self._datasets.get(name) if name is not None and event.bucket in self._buckets else None

    async def _nobodys(self, event: ObjectEvent) -> Outcome:
        """Says in the log why nothing is done. While a contract rolls out its events are left to the processes that
        have it already: the database knows its dataset before they do."""
        name = dataset_of(event.key)
        if event.bucket not in self._buckets:
            why = "not a configured bucket (PENSTOCK_BUCKET)"
        elif name is not None and await self._is_migrated(name):
            logger.warning("s3://%s/%s: this process has no contract of %r", event.bucket, event.key, name)
            return Outcome(terminal=False, give_back=True, reason="DATASET_NOT_SERVED")
        else:
            why = f"no dataset {name!r} in the contracts; objects go under <dataset>/"
        logger.warning("ignored s3://%s/%s: %s", event.bucket, event.key, why)
        return TERMINAL

    async def _is_migrated(self, name: str) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await datasets.is_migrated(connection, name)

    async def _created(self, dataset: Dataset, event: ObjectEvent) -> None:
        job = LoadJob(
            dataset=dataset,
            bucket=event.bucket,
            key=event.key,
            trigger=LoadTrigger.EVENT,
            version_id=event.version_id,
            sequencer=event.sequencer,
        )
        load = await self._loader.load(job)
        level = logging.ERROR if load.state is LoadState.FAILED else logging.INFO
        detail = f" {load.reason}: {load.message}" if load.reason else ""
        logger.log(level, "%s %s at version %d%s", load.object.uri, load.state, load.dataset_version, detail)

    async def _removed(self, dataset: Dataset, event: ObjectEvent) -> None:
        """A removal is no proof of absence: removing a delete marker, or an old version, leaves an object to load."""
        try:
            await self._store.head(event.bucket, event.key)
        except ObjectGone:
            gone = ObjectVersion(
                bucket=event.bucket, key=event.key, version_id=event.version_id, sequencer=event.sequencer
            )
            await self._note_removal(dataset, gone)
            return
        except PenstockError as exc:
            if is_retryable(exc):
                raise
            # S3 will never say (403, also of a missing key without s3:ListBucket): the load meets that too, and ends
            # with it in the ledger.
        # With the event's place in the order: an old version that a deletion brings back has an old Last-Modified.
        current = LoadJob(
            dataset=dataset,
            bucket=event.bucket,
            key=event.key,
            trigger=LoadTrigger.EVENT,
            sequencer=event.sequencer,
        )
        await self._loader.load(current)

    async def _note_removal(self, dataset: Dataset, gone: ObjectVersion) -> None:
        with translated():
            async with self._pool.acquire() as connection:
                await objects.remove_object(connection, dataset, gone)
