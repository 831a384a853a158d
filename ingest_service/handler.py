"""What the consumer does with one S3 event: find its dataset, load or note the removal, say whether to try again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import asyncpg

from ingest_service.consumer.model import TERMINAL, Outcome, retry
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.ledger import objects
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
        dataset = self._route(event)
        if dataset is None:
            return TERMINAL
        try:
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
        """The dataset of the event; None for objects that belong to none, which is said in the log."""
        name = dataset_of(event.key)
        if event.bucket in self._buckets and name is not None and name in self._datasets:
            return self._datasets[name]
        logger.warning(
            "ignored s3://%s/%s: %s",
            event.bucket,
            event.key,
            "not a configured bucket (PENSTOCK_BUCKET)"
            if event.bucket not in self._buckets
            else f"no dataset {name!r} in the contracts; objects go under <dataset>/",
        )
        return None

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
