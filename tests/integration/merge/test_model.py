"""Any sequence of loads and unloads equals the same sequence over a dict."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.ledger.records import LoadState, LoadTrigger, MergeResult, ObjectVersion
from ingest_service.merge import merge as merging
from ingest_service.merge.merge import MergeLimits
from tests.integration.merge.lab import Lab, Thing

_KEYS = st.tuples(st.sampled_from(["", "a", "A", "é", "a b"]), st.sampled_from([0, 1, 10, 2**63, 2**64 - 1]))
_THINGS = st.builds(
    lambda key, label, weight: Thing(owner=key[0], number=key[1], label=label, weight=weight),
    _KEYS,
    st.sampled_from(["", "x", "y"]),
    st.sampled_from([None, 0.0, -0.0, float("nan")]),
)
_FILES = st.lists(_THINGS, max_size=12)
_OBJECTS = st.sampled_from(["things/a.csv", "things/b.csv"])
_STEPS = st.lists(st.tuples(_OBJECTS, st.one_of(_FILES, st.none())), max_size=6)  # None = unload

_EMPTY = """
TRUNCATE data.things, data.things__deleted, penstock.objects, penstock.loads, penstock.rejects;
UPDATE penstock.datasets SET version = 0, row_count = 0
"""


@dataclass
class Model:
    """What the table must hold: wire bytes, object and version by key; and the tombstones."""

    version: int = 0
    rows: dict[tuple[str, int], tuple[bytes, str, int]] = field(default_factory=dict)
    tombstones: set[tuple[str, int, int]] = field(default_factory=set)

    def load(self, key: str, wires: dict[tuple[str, int], bytes]) -> tuple[int, int, int]:
        """Inserted, updated, unchanged."""
        self.version += 1
        changed = {k: wire for k, wire in wires.items() if k not in self.rows or self.rows[k][0] != wire}
        inserted = sum(k not in self.rows for k in changed)
        self.rows |= {k: (wire, key, self.version) for k, wire in changed.items()}
        return inserted, len(changed) - inserted, len(wires) - len(changed)

    def unload(self, key: str) -> int:
        """Deleted."""
        gone = [k for k, row in self.rows.items() if row[1] == key]
        if gone:
            self.version += 1
        self.tombstones |= {(*k, self.version) for k in gone}
        for k in gone:
            del self.rows[k]
        return len(gone)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, bulk_rows=st.sampled_from([1, 10**9]))
async def test_any_sequence_of_loads_equals_a_fold_over_a_dict(
    lab: Lab, steps: list[tuple[str, list[Thing] | None]], bulk_rows: int
) -> None:
    model, known = Model(), set()
    async with lab.connect("penstock") as owner:
        await owner.execute(_EMPTY)
    async with lab.connect() as connection:
        for key, things in steps:
            if things is None and key not in known:
                continue
            if things is None:
                result = await _unload(lab, connection, key)
                assert result.rows_deleted == model.unload(key)
            else:
                known.add(key)
                limits = MergeLimits(bulk_rows=bulk_rows)
                result = await lab.load(connection, things, lab.version_of(key), limits)
                counts = (result.rows_inserted, result.rows_updated, result.rows_unchanged)
                assert counts == model.load(key, {thing.key: lab.wire(thing) for thing in things})
            assert (result.state, result.dataset_version) == (LoadState.SUCCEEDED, model.version)
        await _assert_equal(lab, connection, model)


async def _unload(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], key: str) -> MergeResult:
    load = await lab.start(connection, ObjectVersion(bucket="lab", key=key), LoadTrigger.UNLOAD)
    return await merging.unload(connection, lab.dataset, load)


async def _assert_equal(lab: Lab, connection: asyncpg.Connection[asyncpg.Record], model: Model) -> None:
    objects = {row["id"]: row["key"] for row in await connection.fetch("SELECT id, key FROM penstock.objects")}
    held = await lab.rows(connection)
    assert {k: (row.wire, objects[row.object_id], row.version) for k, row in held.items()} == model.rows
    assert all(lab.wire(row.thing) == row.wire for row in held.values())
    assert await lab.version(connection) == (model.version, len(model.rows))
    deleted = await connection.fetch('SELECT owner, number, _version FROM data."things__deleted"')
    assert {(row["owner"], int(row["number"]), row["_version"]) for row in deleted} == model.tombstones
