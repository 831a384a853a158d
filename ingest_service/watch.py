"""WatchLoads: whoever waits for loads sleeps until a bell rings, then looks for changes of its own.

One connection listens for all watchers of the process, and only while there are any. The bell is never the news: it may
ring in vain, and a poll makes up for one that did not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import asyncpg

from ingest_service.backoff import Backoff
from ingest_service.failures import is_settled
from ingest_service.ledger import listing
from ingest_service.ledger.changes import CHANNEL, Changes, Scope, horizon
from ingest_service.ledger.connection import Connection
from ingest_service.ledger.listing import LoadFilter
from ingest_service.ledger.records import Load, LoadState, LoadTrigger
from shared.errors import PenstockError, ResourceExhausted, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

_NEWEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """`poll_s` between two looks without a bell; `heartbeat_s` between two signs of life to a caller; `longest_s` of
    one call; `queries` of watchers at once, so that loads keep their connections."""

    poll_s: float = 1.0
    heartbeat_s: float = 10.0
    longest_s: float = 3600.0
    watchers: int = 1000
    queries: int = 2
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=15))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A checked request. `position` is where an earlier call stopped; not `begun`: before it had told all the loads
    that were there already."""

    scope: Scope
    version_id: str | None = None
    etag: str | None = None
    until_settled: bool = False
    position: int | None = None
    begun: bool = True

    def wants(self, load: Load) -> bool:
        """Whether the load, which is in scope, is of the version asked for."""
        version = load.object
        return self.version_id in (None, version.version_id) and self.etag in (None, version.etag)

    def wants_news(self, load: Load) -> bool:
        """The same of a load whose end is news: it may have ended before anyone knew its etag, and no more comes."""
        ended_unknown = load.state is not LoadState.RUNNING and load.object.etag is None
        is_candidate = ended_unknown and load.trigger is not LoadTrigger.UNLOAD
        return self.wants(load) or (is_candidate and self.version_id in (None, load.object.version_id))

    def ends_with(self, load: Load) -> bool:
        """Whether that was what is waited for. Not the rejects of an object: it was loaded, or failed, before them."""
        return self.until_settled and load.rejects_of is None and is_settled(load)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A load in a new state, or None for a sign of life; `position` and `begun` to go on from."""

    load: Load | None
    settled: bool = False
    position: int
    begun: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bell:
    """Rung for what is in scope."""

    scope: Scope
    rung: asyncio.Event = field(default_factory=asyncio.Event)

    def ring_for(self, load: Load) -> None:
        mine, version = self.scope, load.object
        pairs = ((mine.dataset, load.dataset), (mine.bucket, version.bucket), (mine.key, version.key))
        if all(wanted in (None, found) for wanted, found in pairs):
            self.rung.set()


class LoadWatch:
    """Serves watchers. `run()` must run beside them; after `stop()` every watcher is sent to another server."""

    def __init__(self, *, pool: asyncpg.Pool[asyncpg.Record], limits: WatchLimits | None = None) -> None:
        self._pool = pool
        self._limits = limits or WatchLimits()
        self._queries = asyncio.Semaphore(self._limits.queries)
        self._bells: set[_Bell] = set()
        self._wanted = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Ends every watch with Unavailable, and run()."""
        self._stopping = True
        self._wanted.set()
        self._ring_all()

    async def watch(self, wanted: Watched) -> AsyncIterator[News]:
        """A sign of life, what is in scope now, and every change from then on; ends only after the first settled load,
        where that was asked for. Raises Unavailable at `longest_s` and at a stop, ResourceExhausted, InvalidRequest."""
        clock = asyncio.get_running_loop().time
        until, silent_since = clock() + self._limits.longest_s, clock()
        with self._subscribed(wanted.scope) as bell:
            changes, standing = await self._begin(wanted)
            yield News(load=None, position=changes.position, begun=not standing)
            for left, load in zip(reversed(range(len(standing))), standing, strict=True):
                yield News(load=load, settled=is_settled(load), position=changes.position, begun=not left)
                if wanted.ends_with(load):
                    return
            while not self._stopping and clock() < until:
                async for change in changes.news(self._connection):
                    if not wanted.wants_news(change.load):
                        continue
                    settled, silent_since = is_settled(change.load), clock()
                    yield News(load=change.load, settled=settled, position=change.position)
                    if wanted.ends_with(change.load):
                        return
                await _wait(bell.rung, silent_since + self._limits.heartbeat_s - clock())
                bell.rung.clear()
                if clock() >= silent_since + self._limits.heartbeat_s:
                    silent_since = clock()
                    yield News(load=None, position=changes.position)
        raise Unavailable(
            "the watch ends here: call again with the last resume_token", reason="WATCH_ENDED", retry_after_s=0.1
        )

    async def run(self) -> None:
        """Listens while there are watchers, until stop() or cancelled. Both, because a cancellation that meets the loss
        of a connection may be replaced by that."""
        failures = 0
        while not self._stopping:
            await self._wanted.wait()
            try:
                with translated():
                    await self._listen()
                failures = 0
            except PenstockError as exc:
                failures += 1
                delay_s = self._limits.backoff.delay_s(failures, random.random)
                logger.warning("changes of loads are not heard, next try in %.1f s: %s", delay_s, exc.message)
                await asyncio.sleep(delay_s)

    async def _listen(self) -> None:
        """Rings the bells of what changes, until nobody watches any more."""
        heard = asyncio.Event()

        def hear(*_: object) -> None:
            heard.set()

        async with self._pool.acquire() as connection:
            await connection.add_listener(CHANNEL, hear)
            try:
                changes = Changes(Scope(), await horizon(connection))
                self._ring_all()  # for what came while nobody listened
                while self._bells and not self._stopping:
                    async for change in changes.news(lambda: _lent(connection)):
                        for bell in self._bells:
                            bell.ring_for(change.load)
                    await _wait(heard, self._limits.poll_s)
                    heard.clear()
            finally:
                # Not back into the pool, which resets nothing: whoever had it next would hear the bell. A connection
                # that was lost has left the pool by itself, and says so.
                with contextlib.suppress(asyncpg.InterfaceError):
                    connection.terminate()

    async def _begin(self, wanted: Watched) -> tuple[Changes, list[Load]]:
        """Where to look from, and the loads that are there already.

        A call that was cut off amid those begins with them again, and keeps its position: one may have ended since.
        """
        if wanted.position is not None:
            changes = Changes(wanted.scope, wanted.position)
            return changes, [] if wanted.begun else await self._standing(wanted, changes)
        with translated():
            async with self._connection() as connection:
                changes = Changes(wanted.scope, await horizon(connection))
        async for _ in changes.news(self._connection):
            pass  # how things came to be is no news, only where they stand
        return changes, await self._standing(wanted, changes)

    async def _standing(self, wanted: Watched, changes: Changes) -> list[Load]:
        """The loads that are there already, noted as told."""
        scope = wanted.scope
        by_object = LoadFilter(dataset=scope.dataset, bucket=scope.bucket, key=scope.key)
        in_work = LoadFilter(dataset=scope.dataset, states=(LoadState.RUNNING,))
        async with self._connection() as connection:
            found = await listing.list_loads(
                connection, by_object if scope.key else in_work, after=None, limit=_NEWEST if scope.key else 1000
            )
        newest: dict[object, Load] = {}
        for load in filter(wanted.wants, found):
            if not (scope.key and load.rejects_of):
                newest.setdefault(load.dataset if scope.key else load.id, load)
            changes.tell(load)
        return list(newest.values())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._queries, self._pool.acquire() as connection:
            yield connection

    @contextmanager
    def _subscribed(self, scope: Scope) -> Iterator[_Bell]:
        if len(self._bells) >= self._limits.watchers:
            message = f"{self._limits.watchers} calls watch loads here already: try another server"
            raise ResourceExhausted(message, reason="TOO_MANY_WATCHERS", retry_after_s=5.0)
        bell = _Bell(scope=scope)
        self._bells.add(bell)
        self._wanted.set()
        try:
            yield bell
        finally:
            self._bells.discard(bell)
            if not self._bells and not self._stopping:
                self._wanted.clear()

    def _ring_all(self) -> None:
        for bell in self._bells:
            bell.rung.set()


@asynccontextmanager
async def _lent(connection: Connection) -> AsyncIterator[Connection]:
    """A connection that is kept."""
    yield connection


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
