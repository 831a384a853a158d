"""The delta merge writes what changed, counts it exactly, and leaves everything else alone."""

from __future__ import annotations

from ingest_service.ledger.records import LoadState
from ingest_service.merge import plan
from tests.integration.merge.lab import Lab, Thing, chunks


def things(count: int, label: str = "x", owner: str = "o") -> list[Thing]:
    return [Thing(owner=owner, number=n, label=label, tags=("t", str(n))) for n in range(count)]


async def test_first_load_inserts_every_row_with_its_columns_bytes_and_version(lab: Lab) -> None:
    rows = [
        Thing(owner="é", number=2**64 - 1, label="a'b", weight=-0.0, rank=-1, tags=("", "ü")),
        Thing(owner="", number=0),
    ]
    async with lab.connect() as connection:
        result = await lab.load(connection, rows)
        held = await lab.rows(connection)
        assert await lab.version(connection) == (1, 2)
    assert (result.state, result.dataset_version, result.rows_inserted) == (LoadState.SUCCEEDED, 1, 2)
    assert {row.key: row for row in rows} == {key: row.thing for key, row in held.items()}
    assert all(row.wire == lab.wire(row.thing) and row.version == 1 for row in held.values())


async def test_second_load_touches_only_what_changed(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(100), lab.version_of("things/a.csv"))
        before = await lab.rows(connection)
        changed = [*things(90), *things(95, label="new")[90:], Thing(owner="z", number=1)]
        result = await lab.load(connection, changed, lab.version_of("things/b.csv"))
        after = await lab.rows(connection)
        assert await lab.version(connection) == (2, 101)
    counts = (result.rows_inserted, result.rows_updated, result.rows_unchanged, result.rows_deleted)
    assert counts == (1, 5, 90, 0)
    assert {key for key, row in after.items() if row.version == 2} == {
        *(("o", n) for n in range(90, 95)),
        ("z", 1),
    }
    assert all(after[key] == before[key] for key in after if after[key].version == 1)


async def test_unchanged_row_keeps_its_first_object(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(2), lab.version_of("things/a.csv"))
        await lab.load(connection, [*things(1), *things(2, "new")[1:]], lab.version_of("things/b.csv"))
        owners = await connection.fetch(
            'SELECT number, o.key FROM data."things" JOIN penstock.objects AS o ON o.id = _object ORDER BY number'
        )
    assert [row["key"] for row in owners] == ["things/a.csv", "things/b.csv"]


async def test_last_line_of_a_key_wins_and_the_others_are_counted(lab: Lab) -> None:
    rows = [*things(3, "first"), *things(2, "second"), *things(1, "third")]
    async with lab.connect() as connection:
        result = await lab.load(connection, rows)
        held = await lab.rows(connection)
        duplicates = await connection.fetchval("SELECT rows_duplicate FROM penstock.loads")
    assert [row.thing.label for _, row in sorted(held.items())] == ["third", "second", "first"]
    assert (result.rows_inserted, duplicates) == (3, 3)


async def test_line_decides_between_duplicates_whatever_order_blocks_arrive_in(lab: Lab) -> None:
    async with lab.connect() as connection:
        await connection.execute(plan.create_stage(lab.dataset))
        for line, label in ((9, "late"), (2, "early")):
            await connection.copy_to_table(
                plan.STAGE_NAME,
                schema_name="pg_temp",
                columns=plan.stage_columns(lab.dataset),
                source=chunks(lab.copy_bytes(things(1, label), first_line=line)),
                format="binary",
            )
        await connection.execute(plan.drop_duplicates(lab.dataset))
        assert await connection.fetchval(f"SELECT label FROM pg_temp.{plan.STAGE_NAME}") == "late"


async def test_object_without_rows_succeeds_and_bumps_the_version(lab: Lab) -> None:
    async with lab.connect() as connection:
        result = await lab.load(connection, [])
        assert await lab.version(connection) == (1, 0)
    assert (result.state, result.dataset_version, result.rows_inserted) == (LoadState.SUCCEEDED, 1, 0)


async def test_stage_leaves_nothing_on_the_connection(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(5))
        assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relpersistence = 't'") == 0
        for name in ("lock_timeout", "work_mem", "idle_in_transaction_session_timeout", "tcp_user_timeout"):
            reset = await connection.fetchval("SELECT setting = reset_val FROM pg_settings WHERE name = $1", name)
            assert reset, name
