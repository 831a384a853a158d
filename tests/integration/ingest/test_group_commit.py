"""Small files that wait for the same dataset are committed together, and each of them fares as if it were alone."""

from __future__ import annotations

import asyncio
import functools
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from ingest_service.group_commit import GroupLimits
from ingest_service.ledger.cancel import cancel_load
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import Load, LoadState
from ingest_service.load import Loader, LoadLimits
from ingest_service.merge.merge import MergeLimits
from shared.errors import Unavailable
from tests.integration.ingest.rig import Rig, by_key, csv_of, many, until
from tests.integration.merge.lab import Thing

FILES = ["things/a.csv", "things/b.csv", "things/c.csv", "things/d.csv"]
LIMITS = LoadLimits(concurrency=len(FILES), heartbeat_s=0.05)
_TRANSACTIONS = "SELECT changed_xid::text AS id FROM penstock.loads WHERE state = 'SUCCEEDED' ORDER BY dataset_version"


def rows_of(key: str, count: int = 5) -> list[Thing]:
    return [Thing(owner=key, number=number, rank=number) for number in range(count)]


@asynccontextmanager
async def all_waiting(
    rig: Rig, loader: Loader, then: Callable[[list[asyncio.Task[Load]]], Awaitable[object]] | None = None
) -> AsyncIterator[list[asyncio.Task[Load]]]:
    """A load of each file: the first has its turn and waits for the dataset, the others for their turn."""
    async with rig.locked_dataset():
        tasks: list[asyncio.Task[Load]] = []
        for count, key in enumerate(FILES, 1):
            tasks.append(asyncio.create_task(loader.load(rig.job(key))))
            await until(functools.partial(_merging, rig, count))
        if then is not None:
            await then(tasks)
    yield tasks


async def _merging(rig: Rig, count: int) -> bool:
    async with rig.lab.connect() as connection:
        merging = await connection.fetchval("SELECT count(*) FROM penstock.loads WHERE phase = 'MERGING'")
    return merging == count and await _locks_awaited(rig, 1)


async def _known(rig: Rig, count: int) -> bool:
    """Whether so many objects are open."""
    async with rig.lab.connect() as connection:
        return bool(await connection.fetchval("SELECT count(etag) = $1 FROM penstock.loads", count))


async def _locks_awaited(rig: Rig, count: int, statement_like: str = "FOR UPDATE") -> bool:
    statement = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ILIKE '%' || $1 || '%'
    """
    async with rig.lab.connect("penstock") as owner:
        return bool(await owner.fetchval(statement, statement_like) == count)


async def _put_all(rig: Rig) -> None:
    for key in FILES:
        await rig.put(rows_of(key), key)


async def _transactions(rig: Rig) -> list[str]:
    async with rig.lab.connect() as connection:
        return [row["id"] for row in await connection.fetch(_TRANSACTIONS)]


async def test_loads_that_wait_for_the_same_dataset_are_committed_together(rig: Rig) -> None:
    await _put_all(rig)
    async with all_waiting(rig, rig.loader(limits=LIMITS)) as tasks:
        ended = await asyncio.gather(*tasks)
    assert [(load.state, load.dataset_version) for load in ended] == [(LoadState.SUCCEEDED, n) for n in range(1, 5)]
    assert ended == [load for key in FILES for load in await rig.ledger(key)]
    first, *others = await _transactions(rig)
    assert first not in others
    assert len(set(others)) == 1
    assert await rig.table() == by_key(thing for key in FILES for thing in rows_of(key))


async def test_load_that_is_cancelled_in_the_ledger_leaves_its_group_without_harm(rig: Rig) -> None:
    """Without a sign of life in between, the group finds out when it ends its loads."""
    await _put_all(rig)
    async with rig.locked_dataset(), rig.lab.connect() as connection:
        loader = rig.loader(limits=LoadLimits(concurrency=len(FILES), heartbeat_s=60))
        tasks = [asyncio.create_task(loader.load(rig.job(key))) for key in FILES]
        await until(lambda: _known(rig, len(FILES)))
        await until(lambda: _locks_awaited(rig, 1))
        (load,) = await rig.ledger(FILES[2])
        await cancel_load(connection, load.id, "somebody")
    ended = await asyncio.gather(*tasks)
    assert ended.pop(2).state is LoadState.CANCELLED
    assert sorted((load.state, load.dataset_version) for load in ended) == [(LoadState.SUCCEEDED, n) for n in (1, 2, 3)]
    assert await rig.table() == by_key(thing for key in FILES if key != FILES[2] for thing in rows_of(key))


@pytest.mark.parametrize("number", range(4))
async def test_load_that_is_stopped_takes_none_of_the_others_with_it(rig: Rig, number: int) -> None:
    """The first holds the turn, the second leads the next group, the others are in it."""

    async def stop(tasks: list[asyncio.Task[Load]]) -> None:
        tasks[number].cancel()
        await asyncio.wait([tasks[number]])

    await _put_all(rig)
    async with all_waiting(rig, rig.loader(limits=LIMITS), stop) as tasks:
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ended.pop(number), asyncio.CancelledError)
    assert sorted(load.dataset_version for load in ended if isinstance(load, Load)) == [1, 2, 3]
    left = [key for key in FILES if key != FILES[number]]
    assert await rig.table() == by_key(thing for key in left for thing in rows_of(key))
    assert [load.state for load in await rig.ledger(FILES[number])] == [LoadState.ABANDONED]


async def test_load_that_is_stopped_while_it_writes_for_its_group_leaves_the_others_to_themselves(rig: Rig) -> None:
    await rig.put([Thing(owner="held", number=1)], "things/before.csv")
    await rig.loader().load(rig.job("things/before.csv"))
    await _put_all(rig)
    await rig.put([Thing(owner="held", number=1, rank=1)], FILES[1])
    async with rig.lab.connect("penstock") as connection, connection.transaction():
        await connection.execute("SELECT FROM data.things WHERE owner = 'held' FOR UPDATE")
        async with all_waiting(rig, rig.loader(limits=LIMITS)) as tasks:
            await until(functools.partial(_locks_awaited, rig, 1, "WITH written"))
            tasks[1].cancel()
            ended = await asyncio.gather(tasks[0], *tasks[2:])
    assert sorted(load.dataset_version for load in ended) == [2, 3, 4]
    left = [thing for key in FILES if key != FILES[1] for thing in rows_of(key)]
    assert await rig.table() == by_key([Thing(owner="held", number=1), *left])
    assert [load.state for load in await rig.ledger(FILES[1])] == [LoadState.ABANDONED]


async def test_file_that_the_table_refuses_fails_alone(rig: Rig) -> None:
    await rig.execute("ALTER TABLE data.things ADD CONSTRAINT few CHECK (rank < 100)")
    await _put_all(rig)
    await rig.put([Thing(owner="bad", number=1, rank=100)], FILES[2])
    async with all_waiting(rig, rig.loader(limits=LIMITS)) as tasks:
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert not isinstance(ended.pop(2), Load)
    assert sorted(load.dataset_version for load in ended if isinstance(load, Load)) == [1, 2, 3]
    assert [load.reason for load in await rig.ledger(FILES[2])] == ["INTERNAL"]


async def test_file_whose_row_somebody_holds_fails_alone(rig: Rig) -> None:
    await rig.put([Thing(owner="held", number=1)], "things/before.csv")
    await rig.loader().load(rig.job("things/before.csv"))
    await _put_all(rig)
    await rig.put([Thing(owner="held", number=1, rank=1)], FILES[1])
    impatient = LoadLimits(concurrency=4, heartbeat_s=0.05, merge=MergeLimits(lock=LockTimes(lock_timeout_s=3)))
    async with rig.lab.connect("penstock") as connection, connection.transaction():
        await connection.execute("SELECT FROM data.things WHERE owner = 'held' FOR UPDATE")
        async with all_waiting(rig, rig.loader(limits=impatient)) as tasks:
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    refused = ended.pop(1)
    assert isinstance(refused, Unavailable)
    assert refused.reason == "LOCK_TIMEOUT"
    assert sorted(load.dataset_version for load in ended if isinstance(load, Load)) == [2, 3, 4]


async def test_bad_rows_are_kept_and_told_of_each_file(rig: Rig) -> None:
    await _put_all(rig)
    await rig.put_text("owner,number\nx,1\nx,many\n", FILES[1])
    async with all_waiting_but(rig, FILES[1]) as tasks:
        ended = await asyncio.gather(*tasks)
    assert [load.state for load in ended].count(LoadState.SUCCEEDED) == 3
    assert (ended[1].state, ended[1].reason) == (LoadState.FAILED, "TOO_MANY_REJECTS")


@asynccontextmanager
async def all_waiting_but(rig: Rig, failing: str) -> AsyncIterator[list[asyncio.Task[Load]]]:
    """The same, where the load of one file does not come so far."""
    loader = rig.loader(limits=LIMITS)
    async with rig.locked_dataset():
        tasks = [asyncio.create_task(loader.load(rig.job(key))) for key in FILES]
        await until(lambda: _merging(rig, len(FILES) - 1))
        await asyncio.wait([tasks[FILES.index(failing)]])
    yield tasks


async def test_lost_turn_of_the_database_is_transient_for_all_who_waited(rig: Rig) -> None:
    """Nobody waits a second time by himself for a lock that did not come free."""
    await _put_all(rig)
    impatient = LoadLimits(concurrency=4, merge=MergeLimits(lock=LockTimes(lock_timeout_s=0.2)))
    async with rig.locked_dataset():
        loader = rig.loader(limits=impatient)
        ended = await asyncio.gather(*(loader.load(rig.job(key)) for key in FILES), return_exceptions=True)
    assert [type(one) for one in ended] == [Unavailable] * 4
    again = await asyncio.gather(*(rig.loader().load(rig.job(key)) for key in FILES))
    assert sorted(load.dataset_version for load in again) == [1, 2, 3, 4]


_AT_COMMIT = """
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON penstock.datasets DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.version > 1) EXECUTE FUNCTION at_commit()
"""


async def test_group_whose_commit_got_lost_is_tried_again_as_a_whole(rig: Rig) -> None:
    await rig.execute(_AT_COMMIT)
    await _put_all(rig)
    async with all_waiting(rig, rig.loader(limits=LIMITS)) as tasks:
        first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Load)
    assert [one.reason for one in others if isinstance(one, Unavailable)] == ["COMMIT_UNKNOWN"] * 3
    assert await rig.table() == by_key(rows_of(FILES[0]))
    await rig.execute("DROP TRIGGER at_commit ON penstock.datasets")
    again = [await rig.loader().load(rig.job(key)) for key in FILES]
    assert [load.state for load in again] == [LoadState.ALREADY_APPLIED, *[LoadState.SUCCEEDED] * 3]
    assert await rig.version() == 4


async def test_file_that_is_not_small_or_has_a_key_twice_is_merged_by_itself(rig: Rig) -> None:
    twice = [*rows_of("twice"), Thing(owner="twice", number=0, rank=9)]
    large = many(5_000, "x" * 100)
    await rig.put(twice, FILES[0])
    await rig.put(large, FILES[1])
    loader = rig.loader(limits=LIMITS)
    first, second = [await loader.load(rig.job(key)) for key in FILES[:2]]
    assert (first.read.rows_duplicate, first.rows_inserted, second.rows_inserted) == (1, 5, 5_000)
    table = await rig.table()
    assert table == by_key([*large, *twice])
    assert table["twice", 0].rank == 9


async def test_small_object_that_decompresses_to_a_large_file_is_loaded_whole(rig: Rig) -> None:
    large = many(9_000, "x" * 100)
    await rig.s3.put_object(Bucket=rig.bucket, Key="things/a.csv.gz", Body=gzip.compress(csv_of(large).encode()))
    load = await rig.loader().load(rig.job("things/a.csv.gz"))
    assert load.object.size_bytes < GroupLimits().load_bytes < load.read.rows_read * 100
    assert await rig.table() == by_key(large)
