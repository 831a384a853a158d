"""Watching loads: every change is told, whenever it commits, whoever makes it, and whatever is lost in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ingest_service.ledger import changes, loads
from ingest_service.ledger.changes import Scope, horizon
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, MergeResult, ReadCounts
from ingest_service.watch import LoadWatch, News, Watched, WatchLimits
from shared.errors import InvalidRequest, ResourceExhausted, Unavailable
from tests.integration.ingest.rig import Rig, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
SUCCEEDED = MergeResult(state=LoadState.SUCCEEDED, dataset_version=7)
# Only the bell wakes: a test that needs a poll says so.
PATIENT = WatchLimits(poll_s=60, heartbeat_s=60)


@asynccontextmanager
async def watching(rig: Rig, limits: WatchLimits = PATIENT) -> AsyncIterator[LoadWatch]:
    watch = LoadWatch(pool=rig.pool, limits=limits)
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        watch.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Follower:
    """What one caller is told, one message after the other."""

    def __init__(self, events: AsyncIterator[News]) -> None:
        self._events = events

    async def next(self) -> News:
        async with asyncio.timeout(20):
            return await anext(self._events)

    async def states(self, count: int) -> list[LoadState]:
        return [news.load.state for news in [await self.next() for _ in range(count)] if news.load]

    async def rest(self) -> list[News]:
        async with asyncio.timeout(20):
            return [news async for news in self._events]


@asynccontextmanager
async def follower(watch: LoadWatch, wanted: Watched) -> AsyncIterator[Follower]:
    """After its first message, from which on nothing is missed."""
    async with aclosing(watch.watch(wanted)) as events:  # type: ignore[type-var]
        following = Follower(events)
        assert (await following.next()).load is None
        yield following


def of_key(rig: Rig, key: str = "things/a.csv", **more: Any) -> Watched:
    bucket = rig.lab.version_of().bucket
    return Watched(scope=Scope(bucket=bucket, key=key), **more)


OF_DATASET = Watched(scope=Scope(dataset="things"))


async def start(rig: Rig, connection: Any, **version: Any) -> Load:
    return await rig.lab.start(connection, rig.lab.version_of(**version))


async def finish(connection: Any, load: Load, state: LoadState = LoadState.SUCCEEDED, reason: str = "") -> None:
    await loads.finish(connection, load.id, state, reason=reason, message="", read=ReadCounts())


async def test_load_that_is_not_there_yet_is_told_from_its_start_to_its_end(rig: Rig) -> None:
    await rig.put([ONE])
    wanted = Watched(scope=Scope(bucket=rig.bucket, key="things/a.csv"), until_settled=True)
    async with watching(rig) as watch, follower(watch, wanted) as following:
        load = await rig.loader().load(rig.job())
        told = await following.rest()
    assert [news.load.state for news in told if news.load][-1] is LoadState.SUCCEEDED
    assert told[-1].settled
    assert told[-1].load == load


async def test_load_that_has_ended_is_told_at_once(rig: Rig) -> None:
    await rig.put([ONE])
    load = await rig.loader().load(rig.job())
    wanted = Watched(scope=Scope(bucket=rig.bucket, key="things/a.csv"), until_settled=True)
    async with watching(rig) as watch, follower(watch, wanted) as following:
        assert [news.load for news in await following.rest()] == [load]


async def test_loads_of_a_dataset_begin_with_those_in_work(rig: Rig) -> None:
    async with rig.lab.connect() as connection:
        await finish(connection, await start(rig, connection, key="things/old.csv"))
        running = await start(rig, connection)
        async with watching(rig) as watch, follower(watch, OF_DATASET) as following:
            assert (await following.next()).load == running
            await finish(connection, running)
            other = await start(rig, connection, key="things/b.csv")
            assert [(await following.next()).load for _ in range(2)] == [
                await loads.get_load(connection, running.id),
                other,
            ]


async def test_change_that_commits_later_than_one_that_happened_later_is_told(rig: Rig) -> None:
    """By their times the first would lie behind what the watcher has seen."""
    async with rig.lab.connect() as slow, rig.lab.connect() as quick:
        first, second = await start(rig, slow), await start(rig, slow, key="things/b.csv")
        async with watching(rig) as watch, follower(watch, OF_DATASET) as following:
            await following.states(2)
            async with slow.transaction():
                await loads.finish_merged(slow, first.id, SUCCEEDED, ReadCounts())
                await finish(quick, second)
                told = await following.next()
                assert told.load is not None
                assert told.load.id == second.id
            last = (await following.next()).load
            assert last == await loads.get_load(quick, first.id)
            # Another caller that goes on from there hears of the first one as well.
            resumed = Watched(scope=OF_DATASET.scope, position=told.position)
            async with follower(watch, resumed) as again:
                assert first.id in {news.load.id for news in [await again.next() for _ in range(2)] if news.load}


async def test_resumed_watch_tells_what_happened_in_between(rig: Rig) -> None:
    async with rig.lab.connect() as connection:
        load = await start(rig, connection)
        async with watching(rig) as watch:
            async with follower(watch, of_key(rig)) as following:
                position = (await following.next()).position
            await finish(connection, load)
        async with watching(rig) as elsewhere, follower_of(elsewhere, of_key(rig, position=position)) as following:
            told = await following.next()
            while told.load is None or told.load.state is LoadState.RUNNING:
                told = await following.next()
            assert told.load.state is LoadState.SUCCEEDED


async def test_load_that_ended_before_its_etag_was_known_ends_a_watch_that_waits_for_one(rig: Rig) -> None:
    wanted = of_key(rig, etag="mine", until_settled=True)
    async with rig.lab.connect() as connection, watching(rig) as watch:
        await finish(connection, await start(rig, connection, etag=None), LoadState.FAILED, "S3_ACCESS_DENIED")
        async with follower(watch, wanted) as following:
            await finish(connection, await start(rig, connection, etag="other"), LoadState.FAILED, "CORRUPT_GZIP")
            unload = await rig.lab.start(connection, rig.lab.version_of(etag=None), LoadTrigger.UNLOAD)
            await finish(connection, unload)
            load = await start(rig, connection, etag=None)
            await finish(connection, load, LoadState.SKIPPED, "HIDDEN_OBJECT")
            told = await following.rest()
    assert [(news.load.id, news.settled) for news in told if news.load] == [(load.id, True)]


async def test_changes_of_the_database_that_a_dump_was_restored_from_are_no_news(rig: Rig) -> None:
    """Their transactions lie ahead of this one's, and would be told at every look."""
    async with rig.lab.connect() as connection:
        restored = await start(rig, connection, key="things/old.csv")
        await finish(connection, restored)
        await rig.execute("UPDATE penstock.loads SET changed_xid = '1000000000000'")
        async with watching(rig) as watch, follower(watch, OF_DATASET) as following:
            load = await start(rig, connection)
            assert (await following.next()).load == load
            await finish(connection, load)
            told = (await following.next()).load
            assert told is not None
            assert told.id == load.id


async def resumed(watch: LoadWatch, scope: Scope, cut: News, count: int) -> list[Load]:
    """The first loads that a call tells which goes on behind a message."""
    wanted = Watched(scope=scope, position=cut.position, begun=cut.begun)
    async with follower(watch, wanted) as following:
        return [news.load for news in [await following.next() for _ in range(count)] if news.load]


async def test_watch_that_was_cut_off_before_all_standing_loads_begins_with_them_again(rig: Rig) -> None:
    async with rig.lab.connect() as connection, watching(rig) as watch:
        running = [await start(rig, connection, key=f"things/{name}.csv") for name in "ab"]
        async with follower_of(watch, OF_DATASET) as following:
            sign, first, last = [await following.next() for _ in range(3)]
        for cut in (sign, first):
            assert {load.id for load in await resumed(watch, OF_DATASET.scope, cut, 2)} == {one.id for one in running}
        other = await start(rig, connection, key="things/c.csv")
        assert await resumed(watch, OF_DATASET.scope, last, 1) == [other]


async def test_standing_load_that_ends_before_a_cut_off_watch_goes_on_is_told_as_ended(rig: Rig) -> None:
    """Not in work any more, it is not among the loads that such a watch begins with."""
    async with rig.lab.connect() as connection, watching(rig) as watch:
        for name in "ab":
            await start(rig, connection, key=f"things/{name}.csv")
        async with follower_of(watch, OF_DATASET) as following:
            cut = [await following.next() for _ in range(2)][-1]
        assert cut.load is not None
        await finish(connection, cut.load)
        told = await resumed(watch, OF_DATASET.scope, cut, 2)
    assert (cut.load.id, LoadState.SUCCEEDED) in {(load.id, load.state) for load in told}


async def test_watch_of_a_settled_load_that_was_cut_off_before_it_ends_when_it_goes_on(rig: Rig) -> None:
    async with rig.lab.connect() as connection, watching(rig) as watch:
        await finish(connection, await start(rig, connection))
        async with follower_of(watch, of_key(rig, until_settled=True)) as following:
            cut = await following.next()
        again = of_key(rig, until_settled=True, position=cut.position, begun=cut.begun)
        async with follower(watch, again) as following:
            assert [news.settled for news in await following.rest()] == [True]


async def test_position_of_another_database_is_refused(rig: Rig) -> None:
    async with watching(rig) as watch, follower_of(watch, of_key(rig, position=2**62)) as following:
        await following.next()
        with pytest.raises(InvalidRequest, match="of another database"):
            await following.next()


async def test_only_loads_of_the_version_asked_for_are_told(rig: Rig) -> None:
    async with rig.lab.connect() as connection:
        await finish(connection, await start(rig, connection, version_id="v1", etag="one"))
        wanted = of_key(rig, version_id="v2", until_settled=True)
        async with watching(rig) as watch, follower(watch, wanted) as following:
            for version in ("v3", "v2", "v1"):
                await finish(connection, await start(rig, connection, version_id=version))
            told = [news.load.object.version_id for news in await following.rest() if news.load]
    assert set(told) == {"v2"}


async def test_watch_until_settled_outlasts_attempts_that_another_one_follows(rig: Rig) -> None:
    wanted = of_key(rig, until_settled=True)
    async with rig.lab.connect() as connection, watching(rig) as watch, follower(watch, wanted) as following:
        for state, reason in (
            (LoadState.FAILED, "S3_UNAVAILABLE"),
            (LoadState.ABANDONED, "SHUTDOWN"),
            (LoadState.FAILED, "TOO_MANY_REJECTS"),
        ):
            await finish(connection, await start(rig, connection), state, reason)
        told = await following.rest()
    ends = [(news.load.reason, news.settled) for news in told if news.load and news.load.reason]
    assert ends[-1] == ("TOO_MANY_REJECTS", True)
    assert all(not settled for _, settled in ends[:-1])


async def test_other_objects_and_datasets_are_not_told(rig: Rig) -> None:
    async with (
        rig.lab.connect() as connection,
        watching(rig) as watch,
        follower(watch, of_key(rig, "things/mine.csv")) as following,
    ):
        await finish(connection, await start(rig, connection, key="things/other.csv"))
        mine = await start(rig, connection, key="things/mine.csv")
        assert (await following.next()).load == mine


async def test_many_watchers_share_one_connection(rig: Rig) -> None:
    async with AsyncExitStack() as stack, rig.lab.connect() as connection:
        watch = await stack.enter_async_context(watching(rig))
        followers = [await stack.enter_async_context(follower(watch, OF_DATASET)) for _ in range(50)]
        await until(lambda: len(_in_use(rig)) == 1)
        load = await start(rig, connection)
        assert [(await one.next()).load for one in followers] == [load] * 50
    async with watching(rig) as watch, rig.lab.connect() as connection:
        assert not _in_use(rig), "nobody watches, nobody listens"


async def test_change_that_no_bell_announced_is_found_by_the_poll(rig: Rig) -> None:
    async with (
        rig.lab.connect() as connection,
        watching(rig, WatchLimits(poll_s=0.05)) as watch,
        follower(watch, OF_DATASET) as following,
    ):
        await rig.execute("ALTER TABLE penstock.loads DISABLE TRIGGER note_change")
        load = await start(rig, connection)
        await rig.execute("UPDATE penstock.loads SET changed_xid = pg_current_xact_id() WHERE id = $1", load.id)
        assert (await following.next()).load == load


async def test_watch_goes_on_when_the_listening_connection_was_lost(rig: Rig) -> None:
    async with watching(rig) as watch, follower(watch, OF_DATASET) as following:
        await until(lambda: len(_in_use(rig)) == 1)
        await rig.execute("SELECT pg_terminate_backend($1)", *_in_use(rig))
        async with rig.lab.connect() as connection:
            load = await start(rig, connection)
        assert (await following.next()).load == load


async def test_quiet_watch_gives_signs_of_life_that_can_be_resumed_from(rig: Rig) -> None:
    async with watching(rig, WatchLimits(heartbeat_s=0.05)) as watch, follower(watch, OF_DATASET) as following:
        signs = [await following.next() for _ in range(3)]
        async with rig.lab.connect() as connection:
            now = await horizon(connection)
    assert [sign.load for sign in signs] == [None] * 3
    assert all(sign.position <= now for sign in signs)


async def test_watch_ends_when_the_process_stops_or_it_lasts_too_long(rig: Rig) -> None:
    async with watching(rig) as watch, follower(watch, OF_DATASET) as following:
        watch.stop()
        with pytest.raises(Unavailable) as ended:
            await following.next()
        assert ended.value.reason == "WATCH_ENDED"
    brief = WatchLimits(longest_s=0.1, heartbeat_s=0.05)
    async with watching(rig, brief) as watch, follower(watch, OF_DATASET) as following:
        with pytest.raises(Unavailable):
            await following.rest()


async def test_watchers_are_bounded(rig: Rig) -> None:
    async with watching(rig, WatchLimits(watchers=1)) as watch, follower(watch, OF_DATASET):
        with pytest.raises(ResourceExhausted):
            await anext(aiter(watch.watch(OF_DATASET)))


async def test_backlog_of_several_pages_is_told_whole(rig: Rig) -> None:
    async with rig.lab.connect() as connection:
        position = await horizon(connection)
        await connection.execute(
            """
            INSERT INTO penstock.loads (id, dataset, bucket, key, trigger, state, phase)
            SELECT gen_random_uuid(), 'things', 'lab', n::text, 'EVENT', 'SUCCEEDED', 'DONE'
            FROM generate_series(1, 1200) AS n
            """
        )
    wanted = Watched(scope=OF_DATASET.scope, position=position)
    async with watching(rig) as watch, follower_of(watch, wanted) as following:
        told = [await following.next() for _ in range(1201)]
    assert len({news.load.object.key for news in told if news.load}) == 1200


async def test_looking_for_changes_uses_the_index_of_changes(rig: Rig) -> None:
    connection = await asyncpg.connect(rig.lab.url, timeout=10)
    try:
        await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        values = ("1", changes._NO_ID, None, None, None, 10)
        plan = await connection.fetch(f"EXPLAIN {changes._LOOK}", *values)
    finally:
        await connection.close(timeout=10)
    assert any("loads_by_change" in row[0] for row in plan)


@asynccontextmanager
async def follower_of(watch: LoadWatch, wanted: Watched) -> AsyncIterator[Follower]:
    """Before its first message."""
    async with aclosing(watch.watch(wanted)) as events:  # type: ignore[type-var]
        yield Follower(events)


def _in_use(rig: Rig) -> list[int]:
    """The backends of the connections that somebody holds."""
    return [holder._con.get_server_pid() for holder in rig.pool._holders if holder._in_use]  # type: ignore[attr-defined]
