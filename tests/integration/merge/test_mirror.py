"""MIRROR: the table is what lies in the bucket, and of two objects that hold a key the newer one's row is shown."""

from __future__ import annotations

import uuid
from typing import TypeAlias

import asyncpg
import pyarrow as pa
import pytest

from ingest_service.copy_format import tuples
from ingest_service.ledger import loads, objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import LoadStart, LoadState, LoadTrigger, MergeResult, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from ingest_service.merge import mirror
from ingest_service.merge.staging import stage, stage_rejected
from shared.errors import Aborted
from tests.integration.merge.lab import DAY, NEVER_BULK, Lab, Thing, chunks

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
A, B = "things/a.csv", "things/b.csv"


def things(numbers: range, label: str = "") -> list[Thing]:
    return [Thing(owner="o", number=n, label=label) for n in numbers]


async def labels(lab: Lab, connection: Connection) -> dict[int, str]:
    return {number: held.thing.label for (_, number), held in (await lab.rows(connection)).items()}


def removal(key: str = A, sequencer: str | None = "0F") -> LoadStart:
    gone = ObjectVersion(bucket="lab", key=key, sequencer=sequencer)
    return LoadStart(id=uuid.uuid4(), dataset="things", object=gone, trigger=LoadTrigger.UNLOAD, owner="lab")


async def remove(lab: Lab, connection: Connection, start: LoadStart) -> MergeResult | None:
    seen = await objects.applied_object(connection, "things", start.object.bucket, start.object.key)
    return await mirror.remove(connection, lab.dataset, start, seen, LockTimes())


async def test_overwriting_an_object_replaces_exactly_its_rows(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(3), "a"), mirrors.version_of(A))
        await mirrors.load(connection, things(range(5, 7), "b"), mirrors.version_of(B))
        result = await mirrors.load(connection, things(range(2, 4), "a"), mirrors.version_of(A))
        assert (result.rows_inserted, result.rows_unchanged, result.rows_deleted) == (1, 1, 2)
        assert await labels(mirrors, connection) == {2: "a", 3: "a", 5: "b", 6: "b"}


async def test_older_object_waits_and_its_row_comes_back_with_the_removal_of_the_newer(mirrors: Lab) -> None:
    older, newer = mirrors.version_of(A), mirrors.version_of(B)
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(2, 4), "b"), newer)
        await mirrors.load(connection, things(range(3), "a"), older)
        assert await labels(mirrors, connection) == {0: "a", 1: "a", 2: "b", 3: "b"}
        start = removal(B)
        result = await remove(mirrors, connection, start)
        assert result is not None
        assert (result.rows_updated, result.rows_deleted, result.dataset_version) == (1, 1, 3)
        assert await labels(mirrors, connection) == {0: "a", 1: "a", 2: "a"}
        assert await mirrors.version(connection) == (3, 3)
        ended = await loads.get_load(connection, start.id)
        assert (ended.state, ended.rows_deleted, ended.dataset_version) == (LoadState.SUCCEEDED, 1, 3)
        gone = await connection.fetch("SELECT number, _version FROM data.things__deleted")
        assert [(int(row["number"]), row["_version"]) for row in gone] == [(3, 3)]


async def test_of_two_objects_of_one_second_the_later_key_is_shown(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(1), "b"), mirrors.version_of(B, last_modified=DAY))
        await mirrors.load(connection, things(range(1), "a"), mirrors.version_of(A, last_modified=DAY))
        assert await labels(mirrors, connection) == {0: "b"}


async def test_twin_under_a_newer_object_is_its_own_and_keeps_its_version(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(1)), mirrors.version_of(A))
        await mirrors.load(connection, things(range(1)), mirrors.version_of(B))
        assert [held.version for held in (await mirrors.rows(connection)).values()] == [1]
        result = await remove(mirrors, connection, removal(A))
        assert result is not None
        assert result.rows_deleted == 0
        assert await labels(mirrors, connection) == {0: ""}


async def test_removal_is_applied_once_and_a_late_one_never(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(2)), mirrors.version_of(A, sequencer="05"))
        assert await remove(mirrors, connection, removal(sequencer="04")) is None
        assert await mirrors.version(connection) == (1, 2)
        assert await remove(mirrors, connection, removal(sequencer="06")) is not None
        assert await remove(mirrors, connection, removal(sequencer="06")) is None
        assert await mirrors.version(connection) == (2, 0)


async def test_object_that_is_loaded_while_its_removal_is_looked_into_stays(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(2)), mirrors.version_of(A))
        with pytest.raises(Aborted, match="was loaded while its removal was looked into"):
            await mirror.remove(connection, mirrors.dataset, removal(), None, LockTimes())
        assert await mirrors.version(connection) == (1, 2)


async def test_unload_is_as_a_removal(mirrors: Lab) -> None:
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(2), "a"), mirrors.version_of(A))
        await mirrors.load(connection, things(range(1, 3), "b"), mirrors.version_of(B))
        load = await mirrors.start(connection, ObjectVersion(bucket="lab", key=B), LoadTrigger.UNLOAD)
        result = await merging.unload(connection, mirrors.dataset, load)
        assert (result.rows_updated, result.rows_deleted) == (1, 1)
        assert await labels(mirrors, connection) == {0: "a", 1: "a"}


@pytest.mark.parametrize("unreadable", [0, 1], ids=["its key is known", "its key is not known"])
async def test_rejected_row_keeps_what_its_object_held(mirrors: Lab, unreadable: int) -> None:
    bad = tuples(pa.RecordBatch.from_pydict({"owner": ["o"], "number": pa.array([1], pa.uint64())}))
    async with mirrors.connect() as connection:
        await mirrors.load(connection, things(range(3), "old"), mirrors.version_of(A))
        load = await mirrors.start(connection, mirrors.version_of(A))
        read = ReadCounts(rows_rejected=1, keys_unreadable=unreadable)
        async with stage(connection, mirrors.dataset, chunks(mirrors.copy_bytes(things(range(1), "new")))) as staged:
            known = await stage_rejected(connection, mirrors.dataset, [] if unreadable else [bad])
            result = await merging.merge(
                connection, mirrors.dataset, load, staged, read, NEVER_BULK, rejected_staged=known
            )
        kept = {0: "new", 1: "old"} | ({2: "old"} if unreadable else {})
        assert await labels(mirrors, connection) == kept
        assert result.message.startswith("nothing was deleted" if unreadable else "")
        assert bool(result.message) == bool(unreadable)
