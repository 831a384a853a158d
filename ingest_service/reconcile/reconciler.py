"""One reconcile: finds what bucket and ledger differ on and mends it, oldest objects first, through the way of events.

Never deletes by a listing alone: what is gone is followed up as its removal event would be.
"""

from __future__ import annotations

import datetime as dt
import heapq
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg

from ingest_service.ledger.decision import same_version
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, ObjectVersion
from ingest_service.load import Loader, LoadJob, version_of
from ingest_service.objects import ObjectGone, ObjectStore
from ingest_service.reconcile.comparison import Gap, GapKind, Place, Window, places
from ingest_service.reconcile.walk import Found, Walk
from ingest_service.removal import Removals
from ingest_service.routing import ObjectUri
from ingest_service.sources import Sources
from shared.contract.model import Dataset
from shared.errors import PenstockError

logger = logging.getLogger(__name__)

# Gaps held in memory, a kilobyte each, of which the oldest is mended next: rows are upserted in commit order, so that
# of two objects with the same key the newer must come last.
WAITING = 10_000
# What so many meet is no object's fault: the rest is left to the next run.
MOST_PROBLEMS = 20
# Objects listed between two signs of life.
SIGN_EVERY = 10_000
_MENDED = (LoadState.SUCCEEDED, LoadState.ALREADY_APPLIED, LoadState.SUPERSEDED)
_Age: TypeAlias = tuple[dt.datetime, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is reconciled: datasets, the objects `within` a bucket and prefix, and by Last-Modified. `dry_run` changes
    nothing. `patient`: every other load goes first, and what is in work is left to who is at it; after a failover the
    ledger may only say so."""

    datasets: tuple[str, ...]
    within: ObjectUri | None = None
    window: Window = field(default_factory=Window)
    dry_run: bool = False
    patient: bool = True


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one dataset: objects listed, gaps found by kind, and how many of them were mended, or are left."""

    dataset: str
    listed: int = 0
    found: dict[GapKind, int] = field(default_factory=lambda: dict.fromkeys(GapKind, 0))
    mended: int = 0
    left: int = 0


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run has come to so far. `problems`: what kept a place from being listed, or a gap from being mended."""

    tallies: dict[str, Tally]
    problems: list[PenstockError] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether the run is worth going on with."""
        return len(self.problems) < MOST_PROBLEMS

    @classmethod
    def of(cls, scope: Scope) -> Report:
        """An empty one."""
        return cls(tallies={name: Tally(dataset=name) for name in scope.datasets})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A gap, and what became of it: `load` where the object was loaded, or had FAILED before; `problem` where it is
    left to the next run."""

    gap: Gap
    load: Load | None = None
    problem: str = ""


class Reconciler:
    """Runs reconciles, each a sequence of steps: whoever iterates drives it, and closing the iterator ends it."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        store: ObjectStore,
        loader: Loader,
        removals: Removals,
        sources: Sources,
        datasets: Mapping[str, Dataset],
    ) -> None:
        self._pool = pool
        self._store = store
        self._loader = loader
        self._removals = removals
        self._sources = sources
        self._datasets = datasets

    async def run(self, scope: Scope, report: Report) -> AsyncGenerator[Step | None, None]:
        """Every gap as a step, None for a sign of life; counts in `report` on the way.

        What one place or object meets keeps no other from its turn: it stands in `report.problems`.
        """
        waiting: list[tuple[_Age, Gap]] = []  # a heap
        async with aclosing(self._found(scope, report)) as found:
            async for gap in found:
                if gap is None:
                    yield None
                elif scope.dry_run or gap.kind is GapKind.FAILED:
                    yield Step(gap=gap, load=gap.attempt)
                else:
                    heapq.heappush(waiting, (_age(gap), gap))
                if not report.goes_on:
                    break
                if len(waiting) == WAITING:
                    yield await self._mended(scope, heapq.heappop(waiting)[1], report)
        while waiting and report.goes_on:
            yield await self._mended(scope, heapq.heappop(waiting)[1], report)
        for _, gap in waiting:
            report.tallies[gap.source.dataset].left += 1

    async def _found(self, scope: Scope, report: Report) -> AsyncGenerator[Gap | None, None]:
        walk = Walk(
            pool=self._pool,
            store=self._store,
            sources=self._sources,
            datasets=self._datasets,
            window=scope.window,
            patient=scope.patient,
        )
        for place in places(self._sources, scope.datasets, scope.within):
            async with aclosing(self._in_place(walk, place, report)) as found:
                async for gap in found:
                    yield gap
        for gap in await walk.newest_snapshots():
            for counted in await self._counted(Found(dataset=gap.source.dataset, gaps=[gap]), report):
                yield counted

    async def _in_place(self, walk: Walk, place: Place, report: Report) -> AsyncGenerator[Gap | None, None]:
        listed = 0
        try:
            async with aclosing(walk.look(place)) as steps:
                async for found in steps:
                    for gap in await self._counted(found, report):
                        yield gap
                    before, listed = listed, listed + found.listed
                    if listed // SIGN_EVERY > before // SIGN_EVERY:
                        yield None
        except PenstockError as exc:
            logger.warning("s3://%s/%s is not reconciled to its end: %s", place.bucket, place.prefix, exc.message)
            report.problems.append(exc)

    async def _counted(self, found: Found, report: Report) -> list[Gap]:
        gaps = [gap for gap in found.gaps if gap.kind is not GapKind.OUTDATED or await self._is_outdated(gap)]
        tally = report.tallies[found.dataset]
        tally.listed += found.listed
        for gap in gaps:
            tally.found[gap.kind] += 1
        return gaps

    async def _is_outdated(self, gap: Gap) -> bool:
        """Some stores list another entity tag than HEAD and GET give: what is loaded is never what is listed there."""
        assert gap.held is not None
        try:
            head = await self._store.head(gap.uri.bucket, gap.uri.key)
        except ObjectGone:
            return False  # since it was listed: the next run finds it gone
        except PenstockError:
            return True  # the load meets that too, and ends with it in the ledger or is left to the next run
        return not same_version(version_of(head), gap.held.object)

    async def _mended(self, scope: Scope, gap: Gap, report: Report) -> Step:
        tally = report.tallies[gap.source.dataset]
        try:
            load = await self._mend(gap, patient=scope.patient)
        except PenstockError as exc:
            logger.warning("%s is left to the next reconcile: %s", gap.uri, exc.message)
            report.problems.append(exc)
            tally.left += 1
            return Step(gap=gap, problem=exc.message)
        if load is None or load.state in _MENDED:
            tally.mended += 1
        else:
            tally.left += 1
        return Step(gap=gap, load=load)

    async def _mend(self, gap: Gap, *, patient: bool) -> Load | None:
        dataset, uri = self._datasets[gap.source.dataset], gap.uri
        trigger = LoadTrigger.RECONCILE
        if gap.kind is GapKind.GONE:
            gone = ObjectVersion(bucket=uri.bucket, key=uri.key)
            return await self._removals.follow_up(dataset, gap.source, gone, trigger, patient=patient)
        job = LoadJob(
            dataset=dataset,
            bucket=uri.bucket,
            key=uri.key,
            trigger=trigger,
            source=gap.source,
            role=gap.source.role_of(uri),
            patient=patient,
        )
        return await self._loader.load(job)


def _age(gap: Gap) -> _Age:
    """What is gone comes first: where an object was moved, its rows are then free for it."""
    never = dt.datetime.min.replace(tzinfo=dt.UTC)
    modified = gap.listed.last_modified if gap.listed else never
    return modified, gap.uri.bucket, gap.uri.key, gap.source.dataset
