"""The bulk path: only into a dataset that never held a row, with every index as it was before, or not at all."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import LoadState, ReadCounts
from ingest_service.merge.merge import MergeLimits, merge
from ingest_service.merge.staging import stage
from tests.integration.merge.lab import NEVER_BULK, Lab, Thing, chunks

ROWS = [Thing(owner=f"o{n % 7}", number=n, label=f"label {n}", weight=n / 3) for n in range(500, 0, -1)]
BULK = MergeLimits(bulk_rows=1, bulk_lock_timeout_s=0.2)

_INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition, indisprimary, indisvalid,
       indexrelid::oid::bigint AS oid
FROM pg_index WHERE indrelid = 'data.things'::regclass ORDER BY name
"""


async def _indexes(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[object, ...]]:
    return [tuple(row)[:4] for row in await connection.fetch(_INDEXES)]


async def _index_oids(connection: asyncpg.Connection[asyncpg.Record]) -> set[int]:
    return {row["oid"] for row in await connection.fetch(_INDEXES)}


async def test_bulk_load_leaves_rows_in_key_order_and_every_index_as_it_was(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("CREATE INDEX by_hand ON data.things (lower(label)) WHERE rank > 3")
        await owner.execute("ALTER TABLE data.things ADD CONSTRAINT one_number UNIQUE (number)")
    async with lab.connect() as connection:
        before, oids = await _indexes(connection), await _index_oids(connection)
        result = await lab.load(connection, ROWS, limits=BULK)
        assert not oids & await _index_oids(connection), "the plain path ran"
        assert await _indexes(connection) == before
        assert (await lab.version(connection), result.rows_inserted) == ((1, 500), 500)
        heap = await connection.fetch('SELECT owner, number FROM data."things" ORDER BY ctid')
        assert [tuple(row) for row in heap] == sorted((row.owner, row.number) for row in ROWS)
        assert await connection.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'data.things'::regclass") == 500
        assert {key: held.thing for key, held in (await lab.rows(connection)).items()} == {r.key: r for r in ROWS}


async def test_bulk_load_counts_duplicates_once_and_keeps_the_last(lab: Lab) -> None:
    again = [replace(row, label="again") for row in ROWS[:9]]
    async with lab.connect() as connection:
        oids = await _index_oids(connection)
        result = await lab.load(connection, [*ROWS, *again], limits=BULK)
        assert not oids & await _index_oids(connection), "the plain path ran"
        assert (result.rows_inserted, result.rows_unchanged) == (500, 0)
        assert await lab.version(connection) == (1, 500)
        table = {key: held.thing for key, held in (await lab.rows(connection)).items()}
        assert table == {row.key: row for row in [*ROWS, *again]}
        assert [load["rows_duplicate"] for load in await connection.fetch("SELECT * FROM penstock.loads")] == [9]


async def test_duplicates_are_dropped_where_another_load_was_first(lab: Lab) -> None:
    again = [replace(row, label="again") for row in ROWS[:9]]
    async with lab.connect() as connection, lab.connect() as other:
        load = await lab.start(connection, lab.version_of())
        source = chunks(lab.copy_bytes([*ROWS, *again]))
        async with stage(connection, lab.dataset, source, bulk_rows=BULK.bulk_rows) as staged:
            assert not staged.distinct
            await lab.load(other, ROWS, lab.version_of("things/b.csv"))
            result = await merge(connection, lab.dataset, load, staged, ReadCounts(), BULK)
        assert (result.rows_inserted, result.rows_updated, result.rows_unchanged) == (0, 9, 491)
        assert await lab.version(connection) == (2, 500)


@pytest.mark.parametrize("limits", [BULK, NEVER_BULK])
async def test_rows_in_key_order_are_not_sorted_in_bulk_and_never_looked_at_for_duplicates(
    lab: Lab, limits: MergeLimits
) -> None:
    ordered = sorted(ROWS, key=lambda row: row.key)
    async with lab.connect() as connection:
        seen: list[str] = []
        connection.add_query_logger(lambda query: seen.append(query.query))
        load = await lab.start(connection, lab.version_of())
        source = chunks(lab.copy_bytes(ordered))
        staging = stage(connection, lab.dataset, source, bulk_rows=limits.bulk_rows, in_key_order=lambda: True)
        async with staging as staged:
            result = await merge(connection, lab.dataset, load, staged, ReadCounts(), limits)
        heap = await connection.fetch('SELECT owner, number FROM data."things" ORDER BY ctid')
    assert result.rows_inserted == 500
    assert [tuple(row) for row in heap] == [row.key for row in ordered]
    assert not any('max("_line")' in query for query in seen)
    assert any("ORDER BY staged" in query for query in seen) == (limits is NEVER_BULK)


@pytest.mark.parametrize("threshold", [501, 1])
async def test_plain_path_is_taken_below_the_threshold_and_after_the_first_load(lab: Lab, threshold: int) -> None:
    async with lab.connect() as connection:
        if threshold == 1:
            await lab.load(connection, ROWS[:1])
        oids = await _index_oids(connection)
        await lab.load(connection, ROWS, limits=MergeLimits(bulk_rows=threshold))
        assert await _index_oids(connection) == oids


async def test_table_that_is_empty_again_is_not_loaded_in_bulk(lab: Lab) -> None:
    """A reader's snapshot may still hold the rows that are gone."""
    async with lab.connect() as connection:
        await lab.load(connection, ROWS)
        await connection.execute("DELETE FROM data.things")
        oids = await _index_oids(connection)
        await lab.load(connection, ROWS, limits=BULK)
        assert await _index_oids(connection) == oids


async def test_rows_that_nobody_announced_are_not_loaded_over_in_bulk(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("INSERT INTO data.things VALUES ('a', 1, '', NULL, 0, '{}', '', 0, 0)")
    async with lab.connect() as connection:
        oids = await _index_oids(connection)
        await lab.load(connection, ROWS, limits=BULK)
        assert await _index_oids(connection) == oids


async def test_reader_that_holds_the_table_makes_the_load_take_the_plain_path(lab: Lab) -> None:
    async with lab.connect("penstock_query") as reader, lab.connect() as connection:
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            assert await reader.fetchval("SELECT count(*) FROM data.things") == 0
            oids = await _index_oids(connection)
            result = await lab.load(connection, ROWS, limits=BULK)
            assert await reader.fetchval("SELECT count(*) FROM data.things") == 0
        assert (result.state, result.rows_inserted) == (LoadState.SUCCEEDED, 500)
        assert await _index_oids(connection) == oids
        assert await reader.fetchval("SELECT count(*) FROM data.things") == 500


async def test_index_that_replication_relies_on_is_never_dropped(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("ALTER TABLE data.things REPLICA IDENTITY USING INDEX things_pkey")
    async with lab.connect() as connection:
        oids = await _index_oids(connection)
        await lab.load(connection, ROWS, limits=BULK)
        assert await _index_oids(connection) == oids


async def test_primary_key_that_others_refer_to_is_never_dropped(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute(
            'CREATE TABLE notes (owner text COLLATE "C", number numeric(20), FOREIGN KEY (owner, number) '
            "REFERENCES data.things)"
        )
    async with lab.connect() as connection:
        oids = await _index_oids(connection)
        result = await lab.load(connection, ROWS, limits=BULK)
        assert (result.rows_inserted, await _index_oids(connection)) == (500, oids)


async def test_lock_timeout_of_the_bulk_path_does_not_outlive_it(lab: Lab) -> None:
    limits = MergeLimits(bulk_rows=1, bulk_lock_timeout_s=0.2, lock=LockTimes(lock_timeout_s=7))
    async with lab.connect("penstock_query") as reader, lab.connect() as connection:
        async with reader.transaction():
            await reader.fetchval("SELECT count(*) FROM data.things")
            seen: list[str] = []
            connection.add_query_logger(lambda query: seen.append(query.query))
            await lab.load(connection, ROWS, limits=limits)
        assert any("LOCK TABLE" in query for query in seen)
        assert await connection.fetchval("SHOW lock_timeout") == "0"
