"""Unload takes back what an object put there and nobody overwrote, once, and leaves tombstones for Watch."""

from __future__ import annotations

import asyncpg
import pytest

from ingest_service.ledger import loads, objects
from ingest_service.ledger.objects import MOST_OVERWRITTEN
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, Lost, MergeResult, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from shared.errors import NotFound
from tests.integration.merge.lab import Lab, Thing


def things(numbers: range, label: str = "") -> list[Thing]:
    return [Thing(owner="o", number=n, label=label) for n in numbers]


A, B, C = (f"things/{name}.csv" for name in "abc")


async def unloaded(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], key: str) -> Load:
    load = await lab.start(connection, ObjectVersion(bucket="lab", key=key), LoadTrigger.UNLOAD)
    await merging.unload(connection, lab.dataset, load)
    return await loads.get_load(connection, load.id)


async def unload(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], key: str = A) -> MergeResult:
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


async def test_unload_says_how_many_rows_of_which_objects_it_could_not_restore(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(4), "a"), lab.version_of(A))
        await lab.load(connection, things(range(4, 6), "c"), lab.version_of(C))
        await lab.load(connection, things(range(3, 9), "b"), lab.version_of(B))
        load = await unloaded(lab, connection, B)
        assert (load.rows_deleted, load.lost) == (6, Lost(rows=3, uris=(f"s3://lab/{C}", f"s3://lab/{A}")))
        assert f"up to 3 of the rows had replaced rows of s3://lab/{C}, s3://lab/{A}" in load.message
        again = await unloaded(lab, connection, B)
        assert (again.lost, again.message) == (Lost(), "")


async def test_load_of_what_an_unload_named_restores_the_rows(lab: Lab) -> None:
    async with lab.connect() as connection:
        first = lab.version_of(A)
        await lab.load(connection, things(range(4), "a"), first)
        before = await lab.rows(connection)
        await lab.load(connection, things(range(2, 9), "b"), lab.version_of(B))
        (uri,) = (await unloaded(lab, connection, B)).lost.uris
        assert uri == first.uri
        await lab.load(connection, things(range(4), "a"), first, force=True)
        after = await lab.rows(connection)
        assert {key: held.thing for key, held in after.items()} == {key: held.thing for key, held in before.items()}


async def test_own_rows_and_twins_replace_nothing_of_others(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(4)), lab.version_of(A))
        await lab.load(connection, things(range(2, 6)), lab.version_of(B))
        await lab.load(connection, things(range(4, 6), "new"), lab.version_of(B))
        assert (await unloaded(lab, connection, B)).lost == Lost()


async def test_rows_that_were_overwritten_again_since_are_no_loss_of_the_unload(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(4), "a"), lab.version_of(A))
        await lab.load(connection, things(range(4), "b"), lab.version_of(B))
        await lab.load(connection, things(range(3), "c"), lab.version_of(C))
        load = await unloaded(lab, connection, B)
        assert (load.rows_deleted, load.lost) == (1, Lost(rows=1, uris=(f"s3://lab/{A}",)))
        assert (await unloaded(lab, connection, C)).lost == Lost(rows=3, uris=(f"s3://lab/{B}",))


async def test_of_very_many_overwritten_objects_the_newest_are_named(lab: Lab) -> None:
    keys = [f"things/{number}.csv" for number in range(MOST_OVERWRITTEN + 5)]
    async with lab.connect() as connection:
        for number, key in enumerate(keys):
            await lab.load(connection, things(range(number, number + 1)), lab.version_of(key))
        half = len(keys) // 2
        for numbers in (range(half), range(half, len(keys))):
            await lab.load(connection, things(numbers, "over"), lab.version_of(A))
        lost = (await unloaded(lab, connection, A)).lost
        assert lost.rows == len(keys)
        assert lost.uris == tuple(f"s3://lab/{key}" for key in reversed(keys[5:]))
