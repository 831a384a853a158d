"""Old deletions are forgotten, and the dataset says up to which version before the first of them goes."""

from __future__ import annotations

import datetime as dt
from typing import TypeAlias

import asyncpg
import pytest

from ingest_service.ledger import tombstones
from tests.integration.merge.lab import Lab
from tests.integration.merge.test_unload import A, B, things, unload
from tests.integration.merge.test_unload import tombstones as kept

WEEK_S = 7 * 86_400.0
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # generic in its stubs only


async def age(connection: Connection, version: int) -> None:
    """Makes all loads up to that version two weeks old."""
    await connection.execute(
        """UPDATE penstock.loads SET created_at = created_at - $2::interval, ended_at = ended_at - $2::interval
        WHERE dataset_version <= $1""",
        version,
        dt.timedelta(days=14),
    )


async def horizon(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT deleted_horizon FROM penstock.datasets WHERE name = 'things'"))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones, "BATCH", 2)


async def unloaded_twice(lab: Lab, connection: Connection) -> None:
    """Versions 1 and 2 load two objects, 3 and 4 take them away."""
    await lab.load(connection, things(range(5)), lab.version_of(A))
    await lab.load(connection, things(range(10, 13)), lab.version_of(B))
    await unload(lab, connection, A)
    await unload(lab, connection, B)


async def test_only_deletions_older_than_the_retention_are_forgotten(lab: Lab) -> None:
    async with lab.connect() as connection:
        await unloaded_twice(lab, connection)
        assert await tombstones.prune(connection, lab.dataset, WEEK_S) == 0
        await age(connection, 3)
        assert await tombstones.prune(connection, lab.dataset, WEEK_S) == 5
        assert await kept(connection) == [(10, 4), (11, 4), (12, 4)]
        assert await horizon(connection) == 3
        assert await tombstones.prune(connection, lab.dataset, WEEK_S) == 0


async def test_the_horizon_stays_where_nothing_is_forgotten(lab: Lab) -> None:
    async with lab.connect() as connection:
        await unloaded_twice(lab, connection)
        await age(connection, 2)
        await tombstones.prune(connection, lab.dataset, WEEK_S)
        assert await horizon(connection) == 0


async def test_a_load_in_work_is_not_waited_for(lab: Lab) -> None:
    async with lab.connect() as connection, lab.connect() as other:
        await unloaded_twice(lab, connection)
        await age(connection, 3)
        async with other.transaction():
            await other.execute("SELECT FROM penstock.datasets WHERE name = 'things' FOR UPDATE")
            assert await tombstones.prune(connection, lab.dataset, WEEK_S) == 0
        assert await tombstones.prune(connection, lab.dataset, WEEK_S) == 5
