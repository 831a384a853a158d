"""Keys that cut the dataset into equal parts: written with the version that they belong to, and renewed as it grows."""

from __future__ import annotations

import json
from typing import Any

from ingest_service.merge.bounds import PARTS
from tests.integration.merge.lab import Lab
from tests.integration.merge.test_unload import A, B, things


async def bounds(connection: Any) -> list[list[Any]]:
    text = await connection.fetchval("SELECT key_bounds FROM penstock.datasets WHERE name = 'things'")
    found: list[list[Any]] = json.loads(text or "[]")
    return found


async def test_a_first_load_cuts_the_dataset_into_equal_parts(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(PARTS * 10)), lab.version_of(A))
        assert await bounds(connection) == [["o", number] for number in range(9, PARTS * 10 - 1, 10)]


async def test_a_small_dataset_has_a_bound_at_every_row_but_the_last(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(4)), lab.version_of(A))
        assert await bounds(connection) == [["o", 0], ["o", 1], ["o", 2]]


async def test_bounds_stay_while_little_changes_and_are_renewed_when_the_dataset_grows(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(8)), lab.version_of(A))
        before = await bounds(connection)
        await lab.load(connection, things(range(8, 10)), lab.version_of(B))
        assert await bounds(connection) == before
        await lab.load(connection, things(range(100, 120)), lab.version_of(B))
        assert len(await bounds(connection)) > len(before)


async def test_a_dataset_from_before_there_were_bounds_gets_them_with_its_next_load(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, things(range(8)), lab.version_of(A))
        await connection.execute("UPDATE penstock.datasets SET key_bounds = NULL")
        await lab.load(connection, things(range(1), "changed"), lab.version_of(B))
        assert len(await bounds(connection)) == 7
