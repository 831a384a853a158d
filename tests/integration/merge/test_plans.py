"""A small file into a large table costs like a small file: EXPLAIN says how the statements run."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ingest_service.copy_format import tuples
from ingest_service.merge import plan
from ingest_service.merge.staging import stage, stage_rejected
from tests.integration.merge.explained import LARGE, explain, fill, nodes, seq_scans
from tests.integration.merge.lab import Lab, Thing, chunks


@pytest.mark.parametrize("rows", [1, 100])
async def test_small_stage_probes_the_primary_key_of_a_large_table(lab: Lab, rows: int) -> None:
    await fill(lab)
    things = [Thing(owner="o", number=n * 500 + 1) for n in range(rows)]
    async with lab.connect() as connection, stage(connection, lab.dataset, chunks(lab.copy_bytes(things))):
        root = await explain(connection, plan.write_changes(lab.dataset), 1, 2)
    indexes = {node["Index Name"] for node in nodes(root) if "Index Name" in node}
    assert (seq_scans(root), indexes) == ({plan.STAGE_NAME}, {"things_pkey"})


async def test_big_stage_is_compared_by_hash(lab: Lab) -> None:
    await fill(lab)
    things = [Thing(owner="o", number=n) for n in range(LARGE)]
    async with lab.connect() as connection, stage(connection, lab.dataset, chunks(lab.copy_bytes(things))):
        root = await explain(connection, plan.write_changes(lab.dataset), 1, 2)
    joins = {node["Node Type"] for node in nodes(root) if node.get("Join Type", "").endswith("Anti")}
    assert joins == {"Hash Join"}


async def test_unload_finds_its_rows_by_the_index_on_object(lab: Lab) -> None:
    await fill(lab)
    async with lab.connect() as connection:
        root = await explain(connection, plan.delete_object_rows(lab.dataset), 7, 2)
    assert seq_scans(root) == set()


@pytest.mark.parametrize("rows", [100, LARGE])
@pytest.mark.parametrize("but_rejected", [False, True])
async def test_rows_absent_from_a_snapshot_are_found_by_hash_in_one_scan(
    snapshots: Lab, rows: int, but_rejected: bool
) -> None:
    await fill(snapshots)
    rejected = tuples(pa.RecordBatch.from_pydict({"owner": ["o"] * 9, "number": pa.array(range(9), pa.uint64())}))
    source = chunks(snapshots.copy_bytes([Thing(owner="o", number=n) for n in range(rows)]))
    async with snapshots.connect() as connection, stage(connection, snapshots.dataset, source):
        assert await stage_rejected(connection, snapshots.dataset, [rejected])
        statement = plan.delete_absent_rows(snapshots.dataset, but_rejected=but_rejected)
        root = await explain(connection, statement, 2)
    joins = [node["Node Type"] for node in nodes(root) if "Join Type" in node]
    assert joins == ["Hash Join"]
    assert sum(node.get("Relation Name") == "things" for node in nodes(root) if node["Node Type"] == "Seq Scan") == 1


async def test_small_object_of_a_large_mirror_never_scans_the_table(mirrors: Lab) -> None:
    await fill(mirrors)
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
            assert "things" not in seq_scans(await explain(connection, statement, *values)), statement
