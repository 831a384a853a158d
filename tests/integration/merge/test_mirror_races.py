"""MIRROR with two sessions at once: whichever commits first, the table is what the objects in the bucket hold."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import asyncpg
import pytest

from ingest_service.ledger import objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import LoadStart, LoadState, LoadTrigger, MergeResult, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from ingest_service.merge import mirror
from ingest_service.merge.staging import stage
from shared.errors import Aborted
from tests.integration.ingest.rig import until
from tests.integration.merge.lab import NEVER_BULK, Lab, Thing, chunks

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Action: TypeAlias = "Callable[[Connection], Awaitable[MergeResult | None]]"
# What lies in the bucket: of each object, newest last, the label by number.
Bucket: TypeAlias = "Mapping[str, Mapping[int, str]]"

A, B = "things/a.csv", "things/b.csv"
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%penstock.datasets%FOR UPDATE%'
"""

both_orders = pytest.mark.parametrize("turned", [False, True], ids=["as-named", "turned"])


def content(numbers: range, label: str) -> dict[int, str]:
    return dict.fromkeys(numbers, label)


def load(lab: Lab, rows: Mapping[int, str], version: ObjectVersion) -> Action:
    """Stages at once, then merges when it is its turn."""

    async def act(connection: Connection) -> MergeResult:
        started = await lab.start(connection, version, LoadTrigger.EVENT)
        source = chunks(lab.copy_bytes(Thing(owner="o", number=n, label=label) for n, label in rows.items()))
        async with stage(connection, lab.dataset, source) as staged:
            return await merging.merge(connection, lab.dataset, started, staged, ReadCounts(), NEVER_BULK)

    return act


def removal(lab: Lab, sequencer: str, key: str = B) -> Action:
    """Looks into the ledger at once, as before S3 is asked, and withdraws when it is its turn."""

    async def act(connection: Connection) -> MergeResult | None:
        seen = await objects.applied_object(connection, "things", "lab", key)
        gone = ObjectVersion(bucket="lab", key=key, sequencer=sequencer)
        start = LoadStart(id=uuid.uuid4(), dataset="things", object=gone, trigger=LoadTrigger.UNLOAD, owner="lab")
        return await mirror.remove(connection, lab.dataset, start, seen, LockTimes())

    return act


async def commit_in_order(lab: Lab, *actions: Action) -> list[Any]:
    """Results, or what was raised. All sessions wait for the dataset before the first one gets it, in that order."""
    async with AsyncExitStack() as stack:
        observer = await stack.enter_async_context(lab.connect("penstock"))
        tasks: list[asyncio.Task[MergeResult | None]] = []
        async with observer.transaction():
            await observer.execute("SELECT FROM penstock.datasets WHERE name = 'things' FOR UPDATE")
            for action in actions:
                connection = await stack.enter_async_context(lab.connect())
                tasks.append(asyncio.ensure_future(action(connection)))
                await until(lambda: _waiting(observer, len(tasks)))
        return await asyncio.gather(*tasks, return_exceptions=True)


async def _waiting(observer: Connection, sessions: int) -> bool:
    # Within a transaction the activity is what it was at the first look.
    await observer.execute("SELECT pg_stat_clear_snapshot()")
    return bool(await observer.fetchval(_WAITING) == sessions)


async def load_all(lab: Lab, bucket: Bucket) -> None:
    async with lab.connect() as connection:
        for key, rows in bucket.items():
            await load(lab, rows, lab.version_of(key, sequencer="01"))(connection)


async def assert_mirrors(lab: Lab, bucket: Bucket) -> None:
    """Of every key the newest object's row is shown, and each other one waits."""
    shown: dict[int, str] = {}
    for rows in bucket.values():
        shown |= rows
    async with lab.connect() as connection:
        held = {number: row.thing.label for (_, number), row in (await lab.rows(connection)).items()}
        waiting = await connection.fetchval("SELECT count(*) FROM data.things__shadow")
        counted = (await lab.version(connection))[1]
    assert held == shown
    assert waiting == sum(map(len, bucket.values())) - len(shown)
    assert counted == len(shown)


@both_orders
async def test_two_new_objects_that_claim_the_same_keys(mirrors: Lab, turned: bool) -> None:
    bucket = {A: content(range(6), "a"), B: content(range(4, 9), "b")}
    loads = [load(mirrors, rows, mirrors.version_of(key)) for key, rows in bucket.items()]
    results = await commit_in_order(mirrors, *(reversed(loads) if turned else loads))
    assert [result.dataset_version for result in results] == [1, 2]
    await assert_mirrors(mirrors, bucket)


@both_orders
async def test_two_overwrites_that_trade_keys(mirrors: Lab, turned: bool) -> None:
    """Each gives up keys that the other claims, takes ones that the other gives up, and keeps one that both claim."""
    await load_all(mirrors, {A: content(range(6), "a"), B: content(range(4, 9), "b")})
    bucket = {A: content(range(3, 8), "a2"), B: {**content(range(3), "b2"), 5: "b2", 10: "b2"}}
    loads = [load(mirrors, rows, mirrors.version_of(key, sequencer="02")) for key, rows in bucket.items()]
    await commit_in_order(mirrors, *(reversed(loads) if turned else loads))
    await assert_mirrors(mirrors, bucket)


@both_orders
async def test_removal_of_one_claimant_and_overwrite_of_the_other(mirrors: Lab, turned: bool) -> None:
    await load_all(mirrors, {A: content(range(6), "a"), B: content(range(3, 9), "b")})
    bucket = {A: content(range(5, 8), "a2")}
    actions = [removal(mirrors, "02"), load(mirrors, bucket[A], mirrors.version_of(A, sequencer="02"))]
    await commit_in_order(mirrors, *(reversed(actions) if turned else actions))
    await assert_mirrors(mirrors, bucket)


async def test_removal_before_the_object_is_written_again(mirrors: Lab) -> None:
    bucket = {A: content(range(6), "a"), B: content(range(4, 6), "b2")}
    await load_all(mirrors, {**bucket, B: content(range(3, 9), "b")})
    written = load(mirrors, bucket[B], mirrors.version_of(B, sequencer="03"))
    await commit_in_order(mirrors, removal(mirrors, "02"), written)
    await assert_mirrors(mirrors, bucket)


async def test_removal_that_commits_after_the_object_was_written_again_takes_nothing(mirrors: Lab) -> None:
    """The object that it saw gone is there again: by the sequencers the removal is older, and it is done."""
    bucket = {A: content(range(6), "a"), B: content(range(4, 6), "b2")}
    await load_all(mirrors, {**bucket, B: content(range(3, 9), "b")})
    written = load(mirrors, bucket[B], mirrors.version_of(B, sequencer="03"))
    results = await commit_in_order(mirrors, written, removal(mirrors, "02"))
    assert results[1] is None
    await assert_mirrors(mirrors, bucket)


async def test_overwrite_that_commits_after_the_object_was_removed_is_superseded(mirrors: Lab) -> None:
    bucket = {A: content(range(6), "a")}
    await load_all(mirrors, {**bucket, B: content(range(3, 9), "b")})
    late = load(mirrors, content(range(4, 6), "b2"), mirrors.version_of(B, sequencer="02"))
    results = await commit_in_order(mirrors, removal(mirrors, "03"), late)
    assert results[1].state is LoadState.SUPERSEDED
    await assert_mirrors(mirrors, bucket)


async def test_removal_that_waited_for_an_overwrite_looks_again_before_it_takes_rows(mirrors: Lab) -> None:
    """What it knew when it asked S3 is not what is loaded now; the event comes again and finds the object gone."""
    bucket = {A: content(range(6), "a")}
    await load_all(mirrors, {**bucket, B: content(range(3, 9), "b")})
    late = load(mirrors, content(range(4, 6), "b2"), mirrors.version_of(B, sequencer="02"))
    results = await commit_in_order(mirrors, late, removal(mirrors, "03"))
    assert isinstance(results[1], Aborted)
    async with mirrors.connect() as connection:
        await removal(mirrors, "03")(connection)
    await assert_mirrors(mirrors, bucket)
