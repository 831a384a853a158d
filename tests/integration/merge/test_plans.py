"""A small file into a large table costs like a small file: EXPLAIN says how the statements run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from ingest_service.copy_format import tuples
from ingest_service.merge import plan
from ingest_service.merge.staging import stage, stage_rejected
from tests.integration.merge.lab import Lab, Thing, chunks

LARGE = 60_000

_FILL = f"""
INSERT INTO data.things (owner, number, label, rank, tags, _wire, _object, _version)
SELECT 'o', n, 'label', n % 100, '{{}}', convert_to(repeat(md5(n::text), 6), 'UTF8'), 1 + n % 500, 1
FROM generate_series(1, {LARGE}) AS n
"""


async def _fill(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'data.things'::regclass"
        for name in [row[0] for row in await owner.fetch(f"{indexes} AND NOT indisprimary")]:
            if "__object_" not in name:
                await owner.execute(f"DROP INDEX {name}")
        await owner.execute(_FILL)
        await owner.execute("ANALYZE data.things")


async def _explain(connection: asyncpg.Connection[asyncpg.Record], statement: str, *values: int) -> dict[str, Any]:
    """The plan, without running it."""
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
    root: dict[str, Any] = json.loads(found)[0]["Plan"]
    return root


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def _seq_scans(root: dict[str, Any]) -> set[str]:
    return {node["Relation Name"] for node in _nodes(root) if node["Node Type"] == "Seq Scan"}


@pytest.mark.parametrize("rows", [1, 100])
async def test_small_stage_probes_the_primary_key_of_a_large_table(lab: Lab, rows: int) -> None:
    await _fill(lab)
    things = [Thing(owner="o", number=n * 500 + 1) for n in range(rows)]
    async with lab.connect() as connection, stage(connection, lab.dataset, chunks(lab.copy_bytes(things))):
        root = await _explain(connection, plan.write_changes(lab.dataset), 1, 2)
    indexes = {node["Index Name"] for node in _nodes(root) if "Index Name" in node}
    assert (_seq_scans(root), indexes) == ({plan.STAGE_NAME}, {"things_pkey"})


async def test_big_stage_is_compared_by_hash(lab: Lab) -> None:
    await _fill(lab)
    things = [Thing(owner="o", number=n) for n in range(LARGE)]
    async with lab.connect() as connection, stage(connection, lab.dataset, chunks(lab.copy_bytes(things))):
        root = await _explain(connection, plan.write_changes(lab.dataset), 1, 2)
    joins = {node["Node Type"] for node in _nodes(root) if node.get("Join Type", "").endswith("Anti")}
    assert joins == {"Hash Join"}


async def test_unload_finds_its_rows_by_the_index_on_object(lab: Lab) -> None:
    await _fill(lab)
    async with lab.connect() as connection:
        root = await _explain(connection, plan.delete_object_rows(lab.dataset), 7, 2)
    assert _seq_scans(root) == set()


@pytest.mark.parametrize("rows", [100, LARGE])
@pytest.mark.parametrize("but_rejected", [False, True])
async def test_rows_absent_from_a_snapshot_are_found_by_hash_in_one_scan(
    snapshots: Lab, rows: int, but_rejected: bool
) -> None:
    await _fill(snapshots)
    rejected = tuples(pa.RecordBatch.from_pydict({"owner": ["o"] * 9, "number": pa.array(range(9), pa.uint64())}))
    source = chunks(snapshots.copy_bytes([Thing(owner="o", number=n) for n in range(rows)]))
    async with snapshots.connect() as connection, stage(connection, snapshots.dataset, source):
        assert await stage_rejected(connection, snapshots.dataset, [rejected])
        statement = plan.delete_absent_rows(snapshots.dataset, but_rejected=but_rejected)
        root = await _explain(connection, statement, 2)
    joins = [node["Node Type"] for node in _nodes(root) if "Join Type" in node]
    assert joins == ["Hash Join"]
    assert sum(node.get("Relation Name") == "things" for node in _nodes(root) if node["Node Type"] == "Seq Scan") == 1


async def test_small_object_of_a_large_mirror_never_scans_the_table(mirrors: Lab) -> None:
    await _fill(mirrors)
    things = [Thing(owner="o", number=n * 500 + 1) for n in range(100)]
    source = chunks(mirrors.copy_bytes(things))
    async with mirrors.connect() as connection, stage(connection, mirrors.dataset, source):
        statements = {
            plan.yield_rows(mirrors.dataset): [2],
            plan.displace_rows(mirrors.dataset): [2],
            plan.own_twins(mirrors.dataset): [2],
            plan.promote_rows(mirrors.dataset, but_staged=True): [2, 2],
            plan.delete_given_up_rows(mirrors.dataset): [2, 2],
        }
        for statement, values in statements.items():
            assert "things" not in _seq_scans(await _explain(connection, statement, *values)), statement
