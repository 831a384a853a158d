"""Walks a listing and the ledger side by side, in the order of their keys, and finds where they differ.

Holds a page of each at a time, whatever the size of the bucket. Changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import asyncpg

from ingest_service.ledger import listing, objects
from ingest_service.ledger.decision import AppliedObject
from ingest_service.ledger.objects import KeyRange
from ingest_service.ledger.records import Load, LoadState
from ingest_service.objects import ListedObject, ObjectStore
from ingest_service.reconcile.comparison import (
    Gap,
    GapKind,
    Place,
    Window,
    end_of,
    judge,
    newest_snapshot,
    replaces,
)
from ingest_service.routing import ObjectUri, Role, is_folder_marker
from ingest_service.sources import Source, Sources
from shared.contract.model import Dataset, FilePolicy
from shared.errors import FailedPrecondition
from shared.postgres.errors import translated

LEDGER_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a step of the walk gave for one dataset: how many of its objects were looked at, and the gaps among them."""

    dataset: str
    listed: int = 0
    gaps: Sequence[Gap] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """An object that lies in the bucket for a dataset."""

    source: Source
    listed: ListedObject


class Walk:
    """One comparison of buckets and ledger. It remembers the newest snapshots that it comes by. Not `patient`: that
    the ledger has a load in work is no reason to leave its object alone."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        store: ObjectStore,
        sources: Sources,
        datasets: Mapping[str, Dataset],
        window: Window,
        patient: bool = True,
    ) -> None:
        self._pool = pool
        self._store = store
        self._sources = sources
        self._datasets = datasets
        self._window = window
        self._patient = patient
        self._snapshots: dict[str, _Offer] = {}

    async def look(self, place: Place) -> AsyncGenerator[Found, None]:
        """All of one place. Of SNAPSHOT datasets only what is gone: `newest_snapshots` has the rest.

        Raises what S3 and the database say, and FailedPrecondition where a bucket is not listed in order.
        """
        began = await self._clock()
        after: str | None = None
        async with aclosing(self._store.list_pages(place.bucket, place.prefix)) as pages:
            async for page in pages:
                _require_order(after, page)
                stretch = KeyRange(first=None if after else place.prefix, after=after, last=page[-1].key)
                async for found in self._stretch(place, stretch, page, began):
                    yield found
                after = page[-1].key
        rest = KeyRange(first=None if after else place.prefix, after=after, before=end_of(place.prefix))
        async for found in self._stretch(place, rest, [], began):
            yield found

    async def newest_snapshots(self) -> list[Gap]:
        """Of each SNAPSHOT dataset the newest object of all places, where it is not what was loaded."""
        gaps = []
        for name, offer in sorted(self._snapshots.items()):
            gap = await self._snapshot(self._datasets[name], offer)
            if gap is not None:
                gaps.append(gap)
        return gaps

    async def _stretch(
        self, place: Place, keys: KeyRange, page: Sequence[ListedObject], began: dt.datetime
    ) -> AsyncIterator[Found]:
        present = {listed.key for listed in page}
        offers = self._offers(page)
        for name in place.datasets:
            mine, known = offers.get(name, {}), dict[str, AppliedObject]()
            async for held in self._held(name, place.bucket, keys):
                known.update((one.object.key, one) for one in held if one.object.key in mine)
                unlisted = [one for one in held if not one.removed and one.object.key not in present]
                # What was loaded since the listing began may have been uploaded behind its back.
                gone = [self._gone(name, one) for one in unlisted if one.updated_at < began]
                yield Found(dataset=name, gaps=[gap for gap in gone if gap is not None])
            gaps = await self._gaps(self._datasets[name], place.bucket, mine, known)
            yield Found(dataset=name, listed=len(mine), gaps=gaps)

    async def _clock(self) -> dt.datetime:
        with translated():
            async with self._pool.acquire() as connection:
                return await objects.clock(connection)

    def _offers(self, page: Sequence[ListedObject]) -> dict[str, dict[str, _Offer]]:
        """By dataset and key what a page has for it: no folders and hidden objects, which are no data, and no parts, of
        which their marker tells."""
        offers: dict[str, dict[str, _Offer]] = {}
        for listed in page:
            uri = ObjectUri(bucket=listed.bucket, key=listed.key)
            for source in () if is_folder_marker(listed.key) else self._sources.of(uri):
                if source.role_of(uri) in (Role.DATA, Role.MARKER):
                    offers.setdefault(source.dataset, {})[listed.key] = _Offer(source=source, listed=listed)
        return offers

    async def _held(self, dataset: str, bucket: str, keys: KeyRange) -> AsyncIterator[list[AppliedObject]]:
        """What the ledger has of a stretch, a page at a time. Holds no connection between the pages."""
        while True:
            with translated():
                async with self._pool.acquire() as connection:
                    held = await objects.held_objects(connection, dataset, bucket, keys, limit=LEDGER_PAGE)
            yield held
            if len(held) < LEDGER_PAGE:
                return
            keys = replace(keys, first=None, after=held[-1].object.key)

    def _gone(self, dataset: str, held: AppliedObject) -> Gap | None:
        uri = ObjectUri(bucket=held.object.bucket, key=held.object.key)
        source = self._sources.of_dataset(uri, dataset)
        # What somebody loaded by hand from beside the sources is as little followed here as its events are.
        return None if source is None else Gap(kind=GapKind.GONE, source=source, uri=uri, held=held)

    async def _gaps(
        self, dataset: Dataset, bucket: str, offers: Mapping[str, _Offer], known: Mapping[str, AppliedObject]
    ) -> list[Gap]:
        if dataset.file_policy is FilePolicy.SNAPSHOT:
            self._remember(dataset, offers.values())
            return []
        wanted = {key: offer for key, offer in offers.items() if self._window.holds(offer.listed.last_modified)}
        unlike = [key for key, offer in wanted.items() if judge(offer.listed, known.get(key), None, "")]
        attempts = await self._attempts(dataset, bucket, unlike)
        judged = [_judged(dataset, wanted[key], known.get(key), attempts.get(key)) for key in unlike]
        return [gap for gap in judged if gap is not None]

    async def _attempts(self, dataset: Dataset, bucket: str, keys: Sequence[str]) -> dict[str, Load]:
        if not keys:
            return {}
        with translated():
            async with self._pool.acquire() as connection:
                attempts = await listing.last_attempts(connection, dataset.name, bucket, keys)
        return {key: load for key, load in attempts.items() if self._patient or load.state is not LoadState.RUNNING}

    def _remember(self, dataset: Dataset, offers: Iterable[_Offer]) -> None:
        best = self._snapshots.get(dataset.name)
        rivals = {offer.listed: offer for offer in [*([best] if best else []), *offers]}
        newest = newest_snapshot(rivals, dataset.snapshot_order)
        if newest is not None:
            self._snapshots[dataset.name] = rivals[newest]

    async def _snapshot(self, dataset: Dataset, offer: _Offer) -> Gap | None:
        listed = offer.listed
        if not self._window.holds(listed.last_modified):
            return None
        with translated():
            async with self._pool.acquire() as connection:
                truth = await objects.snapshot_object(connection, dataset.name)
                held = await objects.applied_object(connection, dataset.name, listed.bucket, listed.key)
        is_truth = truth is not None and held is not None and truth.id == held.id
        if not is_truth and not replaces(listed, truth, dataset.snapshot_order):
            return None
        attempts = await self._attempts(dataset, listed.bucket, [listed.key])
        shown = held if is_truth or (held is not None and held.removed) else None
        return _judged(dataset, offer, shown, attempts.get(listed.key))


def _judged(dataset: Dataset, offer: _Offer, held: AppliedObject | None, attempt: Load | None) -> Gap | None:
    kind = judge(offer.listed, held, attempt, dataset.fingerprint)
    if kind is None:
        return None
    uri = ObjectUri(bucket=offer.listed.bucket, key=offer.listed.key)
    failed = attempt if kind is GapKind.FAILED else None
    return Gap(kind=kind, source=offer.source, uri=uri, listed=offer.listed, held=held, attempt=failed)


def _require_order(after: str | None, page: Sequence[ListedObject]) -> None:
    """Out of order every second object would look gone. S3's directory buckets list so."""
    keys = [listed.key for listed in page]
    if keys != sorted(keys) or (after is not None and keys[0] <= after):
        raise FailedPrecondition(
            f"bucket {page[0].bucket!r} is not listed in the order of its keys and cannot be reconciled: leave it out",
            reason="LISTING_NOT_IN_ORDER",
        )
