"""SNAPSHOT: the newest object is the whole truth, and nothing less than a whole object replaces it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from ingest_service.ledger import loads, objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import LoadState, LoadTrigger, MergeResult, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from ingest_service.merge.merge import MergeLimits
from ingest_service.merge.staging import stage
from shared.contract.model import FilePolicy, SnapshotOrder
from shared.errors import FailedPrecondition
from tests.integration.merge.lab import DAY, NEVER_BULK, Lab, Thing, chunks

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def things(numbers: range, label: str = "") -> list[Thing]:
    return [Thing(owner="o", number=n, label=label) for n in numbers]


async def numbers(lab: Lab, connection: Connection) -> list[int]:
    return sorted(number for _, number in await lab.rows(connection))


async def unload(lab: Lab, connection: Connection, key: str) -> MergeResult:
    load = await lab.start(connection, ObjectVersion(bucket="lab", key=key), LoadTrigger.UNLOAD)
    return await merging.unload(connection, lab.dataset, load)


def tolerant(lab: Lab) -> Lab:
    return replace(lab, dataset=replace(lab.dataset, min_rows_percent=0.0))


async def test_rows_absent_from_the_snapshot_are_deleted_with_tombstones_in_its_version(snapshots: Lab) -> None:
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(6)))
        result = await snapshots.load(connection, [*things(range(2, 5)), *things(range(5, 7), "new")])
        counts = (result.rows_inserted, result.rows_updated, result.rows_unchanged, result.rows_deleted)
        assert counts == (1, 1, 3, 2)
        assert await numbers(snapshots, connection) == [2, 3, 4, 5, 6]
        assert await snapshots.version(connection) == (2, 5)
        gone = await connection.fetch('SELECT number, _version FROM data."things__deleted" ORDER BY number')
        assert [(int(row["number"]), row["_version"]) for row in gone] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("limits", [NEVER_BULK, MergeLimits(bulk_rows=1)], ids=["plain", "bulk"])
async def test_first_snapshot_deletes_nothing(snapshots: Lab, limits: MergeLimits) -> None:
    """The bulk path is taken for it too: `limits` says so, and duplicates are told by the primary key there."""
    async with snapshots.connect() as connection:
        result = await snapshots.load(connection, [*things(range(5)), *things(range(1))], limits=limits)
        assert (result.rows_inserted, result.rows_deleted) == (5, 0)
        result = await snapshots.load(connection, things(range(4)), limits=limits)
        assert (result.rows_unchanged, result.rows_deleted) == (4, 1)


async def test_older_snapshot_is_superseded_by_the_one_applied(snapshots: Lab) -> None:
    monday, tuesday = snapshots.version_of("things/monday.csv"), snapshots.version_of("things/tuesday.csv")
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(3)), tuesday)
        result = await snapshots.load(connection, things(range(9)), monday, force=True)
        assert (result.state, result.reason) == (LoadState.SUPERSEDED, "NEWER_SNAPSHOT_APPLIED")
        assert "things/tuesday.csv" in result.message
        assert await snapshots.version(connection) == (1, 3)


async def test_snapshots_of_one_second_are_ordered_by_bucket_and_key_in_any_order_of_arrival(snapshots: Lab) -> None:
    one, other = (snapshots.version_of(f"things/{name}.csv", last_modified=DAY) for name in "ab")
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(3)), other)
        result = await snapshots.load(connection, things(range(4)), one)
        assert result.state is LoadState.SUPERSEDED
        assert await numbers(snapshots, connection) == [0, 1, 2]


async def test_snapshots_may_be_ordered_by_key(snapshots: Lab) -> None:
    by_key = replace(snapshots, dataset=replace(snapshots.dataset, snapshot_order=SnapshotOrder.KEY))
    late, early = by_key.version_of("things/2024-05-02.csv"), by_key.version_of("things/2024-05-01.csv")
    assert early.last_modified is not None
    assert late.last_modified is not None
    assert early.last_modified > late.last_modified
    async with by_key.connect() as connection:
        await by_key.load(connection, things(range(3)), late)
        assert (await by_key.load(connection, things(range(4)), early)).reason == "NEWER_SNAPSHOT_APPLIED"


async def test_old_version_that_a_deletion_brings_back_is_the_truth_again(snapshots: Lab) -> None:
    """Events order the versions of one object, and Last-Modified goes back."""
    old, new = snapshots.version_of(sequencer="01"), snapshots.version_of(sequencer="02")
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(4)), new)
        result = await snapshots.load(connection, things(range(3)), replace(old, sequencer="03"))
        assert result.state is LoadState.SUCCEEDED
        assert await numbers(snapshots, connection) == [0, 1, 2]


async def test_removed_snapshot_stays_the_truth(snapshots: Lab) -> None:
    old, new = snapshots.version_of("things/old.csv"), snapshots.version_of("things/new.csv", sequencer="01")
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(3)), new)
        removal = ObjectVersion(bucket="lab", key="things/new.csv", sequencer="02")
        assert await objects.remove_object(connection, snapshots.dataset, removal, LockTimes())
        assert (await snapshots.load(connection, things(range(3)), old)).reason == "NEWER_SNAPSHOT_APPLIED"
        assert await snapshots.version(connection) == (1, 3)


@pytest.mark.parametrize("rows", [0, 4])
async def test_snapshot_that_lost_most_rows_changes_nothing_by_default(snapshots: Lab, rows: int) -> None:
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(10)))
        with pytest.raises(FailedPrecondition) as refused:
            await snapshots.load(connection, things(range(rows)))
        assert refused.value.reason == "SNAPSHOT_TOO_SMALL"
        for part in (f"has {rows} good rows", "has 10", "50 %", "min_rows_percent"):
            assert part in refused.value.message
        assert await snapshots.version(connection) == (1, 10)
        assert (await snapshots.load(connection, things(range(5)))).rows_deleted == 5


async def test_duplicate_keys_do_not_count_as_rows_that_are_left(snapshots: Lab) -> None:
    """A stage that took the dataset for a new one was not looked through for duplicates."""
    async with snapshots.connect() as connection, snapshots.connect() as other:
        load = await snapshots.start(connection, snapshots.version_of("things/b.csv"))
        source = chunks(snapshots.copy_bytes(things(range(2)) * 5))
        async with stage(connection, snapshots.dataset, source, bulk_rows=1) as staged:
            assert not staged.distinct
            early = snapshots.version_of("things/a.csv", last_modified=DAY)
            await snapshots.load(other, things(range(10)), early)
            with pytest.raises(FailedPrecondition, match="has 2 good rows"):
                await merging.merge(connection, snapshots.dataset, load, staged, ReadCounts(), NEVER_BULK)


async def test_contract_may_allow_an_empty_snapshot(snapshots: Lab) -> None:
    lab = tolerant(snapshots)
    async with lab.connect() as connection:
        await lab.load(connection, things(range(3)))
        assert (await lab.load(connection, [])).rows_deleted == 3
        assert await lab.version(connection) == (2, 0)


async def test_unread_key_keeps_every_absent_row_and_the_load_says_so(snapshots: Lab) -> None:
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(4)))
        load = await snapshots.start(connection, snapshots.version_of())
        async with stage(connection, snapshots.dataset, chunks(snapshots.copy_bytes(things(range(2))))) as staged:
            read = ReadCounts(rows_read=3, rows_rejected=1, keys_unreadable=1)
            await merging.merge(connection, snapshots.dataset, load, staged, read)
        ended = await loads.get_load(connection, load.id)
        assert (ended.state, ended.rows_deleted) == (LoadState.SUCCEEDED, 0)
        assert ended.message.startswith("nothing was deleted: the key of 1 rejected row is not known")
        assert await numbers(snapshots, connection) == [0, 1, 2, 3]


async def test_unload_of_the_truth_empties_the_dataset_and_opens_the_way_back(snapshots: Lab) -> None:
    monday, tuesday = snapshots.version_of("things/monday.csv"), snapshots.version_of("things/tuesday.csv")
    async with snapshots.connect() as connection:
        await snapshots.load(connection, things(range(3)), monday)
        await snapshots.load(connection, things(range(2, 5)), tuesday)
        assert (await unload(snapshots, connection, "things/monday.csv")).rows_deleted == 0
        assert (await unload(snapshots, connection, "things/tuesday.csv")).rows_deleted == 3
        assert await snapshots.version(connection) == (3, 0)
        result = await snapshots.load(connection, things(range(3)), monday)
        assert (result.state, result.rows_inserted) == (LoadState.SUCCEEDED, 3)
        again = await snapshots.load(connection, things(range(3)), monday)
        assert again.state is LoadState.ALREADY_APPLIED


async def test_process_with_another_policy_than_the_database_loads_nothing(snapshots: Lab) -> None:
    """While the policy changes, one of before would keep rows that a snapshot lacks."""
    before = replace(snapshots, dataset=replace(snapshots.dataset, file_policy=FilePolicy.MERGE))
    async with before.connect() as connection:
        with pytest.raises(FailedPrecondition) as refused:
            await before.load(connection, things(range(3)))
        assert refused.value.reason == "CONTRACT_MISMATCH"
