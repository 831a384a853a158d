"""What the consumer does with one S3 event: find its datasets, load or note the removal, say whether to try again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

import asyncpg
from opentelemetry import trace

from ingest_service.consumer.model import TERMINAL, Outcome, retry
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.failures import is_retryable
from ingest_service.ledger import datasets, objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.decision import AppliedObject
from ingest_service.ledger.records import LoadStart, LoadState, LoadTrigger, ObjectVersion
from ingest_service.load import Loader, LoadJob
from ingest_service.merge import mirror
from ingest_service.objects import ObjectGone, ObjectStore
from ingest_service.routing import ObjectUri, Role
from ingest_service.sources import Source, Sources, unknown_dataset
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
        sources: Sources,
        loader: Loader,
        store: ObjectStore,
        pool: asyncpg.Pool[asyncpg.Record],
        owner: str,
    ) -> None:
        self._datasets = datasets
        self._sources = sources
        self._loader = loader
        self._store = store
        self._pool = pool
        self._owner = owner

    async def __call__(self, event: ObjectEvent) -> Outcome:
        """Handles one event to its end; asks for another attempt on transient failures."""
        try:
            sources = self._sources.of(_uri(event))
            return await self._each(event, sources) if sources else await self._nobodys(event)
        except PenstockError as exc:
            return _again(event, exc)

    async def _each(self, event: ObjectEvent, sources: Sequence[Source]) -> Outcome:
        """For every dataset that the object feeds, whatever became of it in another; the next attempt does the rest."""
        outcome, left, bugs = TERMINAL, [], []
        for source in sources:
            try:
                await self._one(self._datasets[source.dataset], source, event)
            except PenstockError as exc:
                # What ends a load for good is in the ledger and not raised: without a ledger row no event may go.
                outcome = _again(event, exc)
                left.append(source)
            except Exception as exc:  # noqa: BLE001 - raised when the others had their turn
                bugs.append(exc)
        if bugs:
            raise bugs[0]
        return replace(outcome, rest=functools.partial(self._each, sources=left)) if left else outcome

    async def _one(self, dataset: Dataset, source: Source, event: ObjectEvent) -> None:
        if event.kind is EventKind.REMOVED:
            await self._removed(dataset, source, event)
        else:
            await self._created(dataset, source, event)

    async def _nobodys(self, event: ObjectEvent) -> Outcome:
        """Says in the log why nothing is done. While a contract rolls out its events are left to the processes that
        have it already: the database knows its dataset before they do."""
        uri = _uri(event)
        name = unknown_dataset(self._sources, uri)
        if uri.bucket not in self._sources.buckets:
            why = "not a configured bucket (PENSTOCK_BUCKET, PENSTOCK_SOURCES)"
        elif name is not None and await self._is_migrated(name):
            logger.warning("%s: this process has no contract of %r", uri, name)
            return Outcome(terminal=False, give_back=True, reason="DATASET_NOT_SERVED")
        elif self._sources.by_name:
            why = f"no dataset {name!r} in the contracts; objects go under <dataset>/"
        else:
            why = "in none of the sources (PENSTOCK_SOURCES)"
        logger.warning("ignored %s: %s", uri, why)
        return TERMINAL

    async def _is_migrated(self, name: str) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await datasets.is_migrated(connection, name)

    async def _created(self, dataset: Dataset, source: Source, event: ObjectEvent) -> None:
        job = LoadJob(
            dataset=dataset,
            bucket=event.bucket,
            key=event.key,
            trigger=LoadTrigger.EVENT,
            version_id=event.version_id,
            sequencer=event.sequencer,
            source=source,
            role=source.role_of(_uri(event)),
        )
        load = await self._loader.load(job)
        level = logging.ERROR if load.state is LoadState.FAILED else logging.INFO
        detail = f" {load.reason}: {load.message}" if load.reason else ""
        logger.log(level, "%s %s at version %d%s", load.object.uri, load.state, load.dataset_version, detail)

    async def _removed(self, dataset: Dataset, source: Source, event: ObjectEvent) -> None:
        """A removal is no proof of absence: removing a delete marker, or an old version, leaves an object to load."""
        if source.role_of(_uri(event)) is Role.PART:
            logger.info("%s removed: a part of a snapshot, of which only its marker tells", _uri(event))
            return
        seen = await self._known(dataset, event)
        try:
            await self._store.head(event.bucket, event.key)
        except ObjectGone:
            gone = ObjectVersion(
                bucket=event.bucket, key=event.key, version_id=event.version_id, sequencer=event.sequencer
            )
            await self._remove(dataset, gone, seen)
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
            source=source,
            role=source.role_of(_uri(event)),
        )
        await self._loader.load(current)

    async def _known(self, dataset: Dataset, event: ObjectEvent) -> AppliedObject | None:
        """Before S3 is asked, so that what is loaded after its answer is not taken for what is gone."""
        with translated():
            async with self._pool.acquire() as connection:
                return await objects.applied_object(connection, dataset.name, event.bucket, event.key)

    async def _remove(self, dataset: Dataset, gone: ObjectVersion, seen: AppliedObject | None) -> None:
        """The rows of a removed object go with it only where the table mirrors the bucket."""
        with translated():
            async with self._pool.acquire() as connection:
                if not dataset.mirrors:
                    await objects.remove_object(connection, dataset, gone)
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


def _uri(event: ObjectEvent) -> ObjectUri:
    return ObjectUri(bucket=event.bucket, key=event.key)


def _again(event: ObjectEvent, exc: PenstockError) -> Outcome:
    logger.warning("%s, to be tried again: %s", _uri(event), exc.message)
    return retry(exc.retry_after_s or 0.0, reason=exc.reason)
