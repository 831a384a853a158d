"""Loads that are merged as a group end as if they had been merged one by one, or not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import asyncpg
import pytest

from ingest_service.copy_format import TRAILER, header
from ingest_service.decode import PLACES
from ingest_service.ledger import cancel, loads
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, ReadCounts
from ingest_service.merge import plan
from ingest_service.merge.group import Member, NotGrouped, merge_group
from shared.errors import Aborted, FailedPrecondition, Unavailable
from tests.integration.merge.explained import explain, fill, nodes, seq_scans
from tests.integration.merge.lab import NEVER_BULK, Lab, Thing, kill_after


def member(lab: Lab, load: Load, things: Sequence[Thing], number: int) -> Member:
    copied = lab.copy_bytes(things, number * PLACES + 1)
    return Member(
        load=load,
        read=ReadCounts(rows_read=len(things)),
        number=number,
        rows=len(things),
        tuples=copied[len(header()) : -len(TRAILER)],
    )


async def group(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], *files: Sequence[Thing]) -> list[Member]:
    """A RUNNING load of an object of its own for each of these."""
    numbers = range(7, 7 + len(files))
    started = [await lab.start(connection, lab.version_of(f"things/{number}.csv")) for number in numbers]
    return [member(lab, *one) for one in zip(started, files, numbers, strict=True)]


async def merged(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], members: Sequence[Member]) -> list[Load]:
    return await merge_group(connection, lab.dataset, plan.group_stage(lab.dataset), members, NEVER_BULK)


def some(owner: str, count: int = 10) -> list[Thing]:
    return [Thing(owner=owner, number=number, label="x" * 200) for number in range(count)]


async def test_each_load_has_its_own_version_counts_and_row_in_the_ledger(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, some("a"), lab.version_of("things/before.csv"))
        changed = [replace(thing, rank=1) for thing in some("a", 4)]
        members = await group(lab, connection, some("a"), changed, [*changed[:2], *some("b")], [])
        ended = await merged(lab, connection, members)
        assert ended == [await loads.get_load(connection, one.load.id) for one in members]
        counts = [(load.rows_inserted, load.rows_updated, load.rows_unchanged) for load in ended]
        assert counts == [(0, 0, 10), (0, 4, 0), (10, 0, 2), (0, 0, 0)]
        assert [(load.state, load.dataset_version) for load in ended] == [(LoadState.SUCCEEDED, n) for n in range(2, 6)]
        assert await lab.version(connection) == (5, 20)
        rows = await lab.rows(connection)
        assert {key: held.version for key, held in rows.items() if key[0] == "a"} == {
            ("a", number): 3 if number < 4 else 1 for number in range(10)
        }
        noted = await connection.fetch("SELECT key, dataset_version, overwrote_rows FROM penstock.objects ORDER BY id")
    assert [tuple(row) for row in noted] == [
        ("things/before.csv", 1, 0),
        ("things/7.csv", 2, 0),
        ("things/8.csv", 3, 4),
        ("things/9.csv", 4, 0),
        ("things/10.csv", 5, 0),
    ]


@pytest.mark.parametrize("seed", range(5))
async def test_group_ends_as_the_same_loads_one_by_one(lab: Lab, seed: int) -> None:
    """Overlapping files: what one of them writes, those behind it find."""
    chance = random.Random(seed)
    expected: dict[tuple[str, int], tuple[int, int]] = {}
    version = 0
    async with lab.connect() as connection:
        for _ in range(4):
            files = [
                [Thing(owner="o", number=n, rank=chance.randrange(3)) for n in chance.sample(range(8), 4)]
                for _ in range(chance.randrange(1, 5))
            ]
            members = await group(lab, connection, *files)
            ended = await merged(lab, connection, members)
            for things, load in zip(files, ended, strict=True):
                version += 1
                new = [thing for thing in things if thing.key not in expected]
                same = [thing for thing in things if expected.get(thing.key, (None, 0))[0] == thing.rank]
                expected |= {thing.key: (thing.rank, version) for thing in things if thing not in same}
                counts = (load.rows_inserted, load.rows_unchanged, load.dataset_version)
                assert counts == (len(new), len(same), version)
        held = await lab.rows(connection)
        assert {key: (row.thing.rank, row.version) for key, row in held.items()} == expected
        assert await lab.version(connection) == (version, len(expected))


async def test_load_with_nothing_to_apply_leaves_all_of_its_group_to_be_merged_one_by_one(lab: Lab) -> None:
    async with lab.connect() as connection:
        applied = lab.version_of("things/again.csv")
        await lab.load(connection, some("a"), applied)
        members = await group(lab, connection, some("b"))
        again = await lab.start(connection, applied, LoadTrigger.EVENT)
        with pytest.raises(NotGrouped):
            await merged(lab, connection, [*members, member(lab, again, some("a"), 1)])
        await _assert_untouched(lab, connection, (1, 10), members)


async def test_load_that_was_cancelled_or_swept_never_commits_with_its_group(lab: Lab) -> None:
    async with lab.connect() as connection:
        members = await group(lab, connection, some("a"), some("b"), some("c"))
        await cancel.cancel_load(connection, members[1].load.id, "somebody")
        with pytest.raises(Aborted) as aborted:
            await merged(lab, connection, members)
        assert aborted.value.reason == "LOAD_NOT_RUNNING"
        await _assert_untouched(lab, connection, (0, 0), [members[0], members[2]])
        ended = await merged(lab, connection, [members[0], members[2]])
        assert [load.dataset_version for load in ended] == [1, 2]


async def test_row_that_the_table_refuses_takes_no_other_load_with_it(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("ALTER TABLE data.things ADD CONSTRAINT few CHECK (rank < 100)")
    async with lab.connect() as connection:
        members = await group(lab, connection, some("a"), [Thing(owner="b", number=1, rank=100)])
        with pytest.raises(asyncpg.CheckViolationError):
            await merged(lab, connection, members)
        await _assert_untouched(lab, connection, (0, 0), members)
        ended = await merged(lab, connection, members[:1])
        assert [load.rows_inserted for load in ended] == [10], "nothing of the group before was left in the stage"


async def _assert_untouched(
    lab: Lab, connection: asyncpg.Connection[asyncpg.Record], version: tuple[int, int], members: Sequence[Member]
) -> None:
    assert await lab.version(connection) == version
    assert len(await lab.rows(connection)) == version[1]
    for one in members:
        assert await loads.get_load(connection, one.load.id) == one.load


async def test_contract_that_differs_from_the_database_is_refused(lab: Lab) -> None:
    async with lab.connect() as connection:
        members = await group(lab, connection, some("a"))
        other = replace(lab, dataset=replace(lab.dataset, fingerprint="other"))
        with pytest.raises(FailedPrecondition) as refused:
            await merged(other, connection, members)
        assert refused.value.reason == "CONTRACT_MISMATCH"


async def test_session_keeps_one_stage_and_nothing_in_it(lab: Lab) -> None:
    name = plan.group_stage(lab.dataset).name
    tables = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
    async with lab.connect() as connection:
        relations = []
        for owner in "abc":
            members = await group(lab, connection, some(owner), some(owner + "2"))
            await merged(lab, connection, members)
            assert await connection.fetchval(f"SELECT count(*) FROM pg_temp.{name}") == 0
            assert await connection.fetchval("SELECT pg_relation_size(to_regclass($1))", f"pg_temp.{name}") == 0
            relations.append(await connection.fetchval("SELECT to_regclass($1)::oid", f"pg_temp.{name}"))
        assert len(set(relations)) == await connection.fetchval(tables) == 1


async def test_contract_with_other_columns_has_another_stage(lab: Lab) -> None:
    narrower = replace(lab.dataset, columns=lab.dataset.columns[:-1])
    assert plan.group_stage(narrower).name != plan.group_stage(lab.dataset).name


async def test_last_version_of_a_group_is_announced(lab: Lab) -> None:
    heard: list[str] = []
    async with lab.connect() as listener, lab.connect() as connection:
        await listener.add_listener("penstock_version", lambda *notice: heard.append(str(notice[3])))
        await merged(lab, connection, await group(lab, connection, some("a"), some("b")))
        epoch = await connection.fetchval("SELECT epoch FROM penstock.datasets WHERE name = 'things'")
        await listener.fetchval("SELECT 1")  # what was notified before is there with the answer
        await listener.reset()
    assert heard == [f"things {epoch} 2"]


async def test_group_probes_the_primary_key_of_a_large_table(lab: Lab) -> None:
    await fill(lab)
    async with lab.connect() as connection, connection.transaction():
        await connection.execute(plan.group_stage(lab.dataset).create)
        root = await explain(connection, plan.group_stage(lab.dataset).write_changes, 1, 2, 0, PLACES)
    indexes = {node["Index Name"] for node in nodes(root) if "Index Name" in node}
    assert (seq_scans(root), indexes) == ({plan.group_stage(lab.dataset).name}, {"things_pkey"})


_KEPT = """
SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND starts_with(relname, 'penstock_group_')
ORDER BY oid
"""


async def test_session_keeps_the_stages_of_the_last_few_kinds_of_rows(lab: Lab) -> None:
    columns = lab.dataset.columns
    stages = [plan.group_stage(replace(lab.dataset, columns=columns[: 1 + n])) for n in range(len(columns))]
    async with lab.connect() as connection:
        for stage in (stages[0], stages[0], *stages):
            async with connection.transaction():
                await connection.execute(stage.create)
        kept = [row["relname"] for row in await connection.fetch(_KEPT)]
    assert len(stages) > 4
    assert kept == [stage.name for stage in stages[-4:]]


@pytest.mark.slow
async def test_backend_killed_after_any_statement_leaves_all_or_nothing(lab: Lab) -> None:
    statements = 0
    while not await _survives_kill_after(lab, statements):
        statements += 1
    assert statements > 8, "the kill never struck inside the merge"


async def _survives_kill_after(lab: Lab, statements: int) -> bool:
    """Kills the loading backend when it has run that many statements, checks the outcome. True: it was done before."""
    async with lab.connect() as observer:
        before = await lab.version(observer)
        connection = await asyncpg.connect(lab.url, server_settings={"role": "penstock_ingest"})
        members = await group(lab, observer, *([replace(one, rank=statements) for one in some(o)] for o in "abc"))
        kill_after(lab.url, connection, statements)
        died = False
        try:
            await merged(lab, connection, members)
        except Unavailable:
            died = True
        finally:
            connection.terminate()
        committed = [await loads.committed_load(observer, one.load) for one in members]
        assert len({load is None for load in committed}) == 1
        done = committed[0] is not None
        assert died or done
        assert await lab.version(observer) == ((before[0] + 3, 30) if done else before)
        assert len(await lab.rows(observer)) == (30 if done else before[1])
    return not died
