"""Unload takes back what an object put there and nobody overwrote, once, and leaves tombstones for Watch."""

from __future__ import annotations

import asyncpg
import pytest

from ingest_service.ledger import loads, objects
from ingest_service.ledger.records import LoadState, LoadTrigger, MergeResult, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from shared.errors import NotFound
from tests.integration.merge.lab import Lab, Thing


def things(numbers: range, label: str = "") -> list[Thing]:
    return [Thing(owner="o", number=n, label=label) for n in numbers]


async def unload(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], key: str = "things/a.csv") -> MergeResult:
    load = await lab.start(connection, ObjectVersion(bucket="lab", key=key), LoadTrigger.UNLOAD)
    result = await merging.unload(connection, lab.dataset, load)
    ended = await loads.get_load(connection, load.id)
    assert (ended.state, ended.rows_deleted) == (LoadState.SUCCEEDED, result.rows_deleted)
    assert ended.dataset_version == result.dataset_version
    assert ended.read == ReadCounts()
    return result


async def tombstones(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[int, int]]:
    rows = await connection.fetch('SELECT number, _version FROM data."things__deleted" ORDER BY _version, number')
    return [(int(row["number"]), row["_version"]) for row in rows]


async def test_unload_takes_back_only_the_rows_still_owned_by_the_object(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(5)), lab.version_of("things/a.csv"))
        await lab.load(connection, things(range(3, 8), "b"), lab.version_of("things/b.csv"))
        result = await unload(lab, connection)
        held = await lab.rows(connection)
        assert (result.rows_deleted, result.dataset_version) == (3, 3)
        assert sorted(key[1] for key in held) == [3, 4, 5, 6, 7]
        assert await lab.version(connection) == (3, 5)
        assert await tombstones(connection) == [(0, 3), (1, 3), (2, 3)]


async def test_unload_without_rows_leaves_the_version_alone(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(2)))
        await unload(lab, connection)
        again = await unload(lab, connection)
        assert (again.rows_deleted, again.dataset_version) == (0, 2)
        assert await lab.version(connection) == (2, 0)


async def test_unloaded_version_can_be_populated_again(lab: Lab) -> None:
    version = lab.version_of()
    async with lab.connect() as connection:
        await lab.load(connection, things(range(2)), version)
        await unload(lab, connection)
        result = await lab.load(connection, things(range(2)), version)
        assert (result.state, result.rows_inserted) == (LoadState.SUCCEEDED, 2)


async def test_key_that_comes_back_has_a_row_newer_than_its_tombstone(lab: Lab) -> None:
    """Tombstones stay until retention prunes them: the newest version of a key, row or tombstone, is its state."""
    async with lab.connect() as connection:
        await lab.load(connection, things(range(1)))
        await unload(lab, connection)
        await lab.load(connection, things(range(1)))
        assert await tombstones(connection) == [(0, 2)]
        assert (await lab.rows(connection))["o", 0].version == 3
        await unload(lab, connection)
        assert await tombstones(connection) == [(0, 2), (0, 4)]


async def test_unloaded_object_is_told_from_one_that_is_gone_until_it_is_loaded_again(lab: Lab) -> None:
    version = lab.version_of(sequencer="0A")
    gone = ObjectVersion(bucket="lab", key=version.key, sequencer="0B")

    async def unloaded() -> bool:
        held = await objects.applied_object(connection, "things", "lab", version.key)
        assert held is not None
        return held.unloaded

    async with lab.connect() as connection:
        await lab.load(connection, things(range(2)), version)
        await unload(lab, connection)
        assert await unloaded()
        await lab.load(connection, things(range(2)), lab.version_of(sequencer="0B"))
        assert not await unloaded()
        await objects.remove_object(connection, lab.dataset, gone)
        await unload(lab, connection)
        assert not await unloaded(), "it is gone, whatever became of its rows"


async def test_object_that_was_never_loaded_is_not_found(lab: Lab) -> None:
    async with lab.connect() as connection:
        load = await lab.start(connection, ObjectVersion(bucket="lab", key="things/none.csv"), LoadTrigger.UNLOAD)
        with pytest.raises(NotFound) as missing:
            await merging.unload(connection, lab.dataset, load)
        assert missing.value.reason == "OBJECT_NOT_LOADED"
        assert (await loads.get_load(connection, load.id)).state is LoadState.RUNNING


async def test_late_event_of_an_unloaded_version_does_not_bring_it_back(lab: Lab) -> None:
    version = lab.version_of(sequencer="0A")
    async with lab.connect() as connection:
        await lab.load(connection, things(range(2)), version, trigger=LoadTrigger.EVENT)
        await unload(lab, connection)
        result = await lab.load(connection, things(range(2)), version, trigger=LoadTrigger.EVENT)
        assert (result.state, result.reason) == (LoadState.SUPERSEDED, "OBJECT_REMOVED")
        assert await lab.version(connection) == (2, 0)
