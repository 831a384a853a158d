"""What the consumer does with one S3 event: find its datasets, load or note the removal, say whether to try again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import asyncpg

from ingest_service.consumer.model import TERMINAL, Outcome, retry
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.ledger import datasets
from ingest_service.ledger.records import LoadState, LoadTrigger, ObjectVersion
from ingest_service.load import Loader, LoadJob
from ingest_service.objects import ObjectStore
from ingest_service.removal import Removals
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
        self._removals = Removals(pool=pool, store=store, loader=loader, owner=owner)
        self._pool = pool

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
        if source.role_of(_uri(event)) is Role.PART:
            logger.info("%s removed: a part of a snapshot, of which only its marker tells", _uri(event))
            return
        gone = ObjectVersion(bucket=event.bucket, key=event.key, version_id=event.version_id, sequencer=event.sequencer)
        await self._removals.follow_up(dataset, source, gone, LoadTrigger.EVENT)


def _uri(event: ObjectEvent) -> ObjectUri:
    return ObjectUri(bucket=event.bucket, key=event.key)


def _again(event: ObjectEvent, exc: PenstockError) -> Outcome:
    logger.warning("%s, to be tried again: %s", _uri(event), exc.message)
    return retry(exc.retry_after_s or 0.0, reason=exc.reason)
