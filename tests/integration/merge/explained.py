"""A large table, and the plans of statements on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg

from tests.integration.merge.lab import Lab

LARGE = 60_000

_FILL = f"""
INSERT INTO data.things (owner, number, label, rank, tags, _wire, _object, _version)
SELECT 'o', n, 'label', n % 100, '{{}}', convert_to(repeat(md5(n::text), 6), 'UTF8'), 1 + n % 500, 1
FROM generate_series(1, {LARGE}) AS n
"""


async def fill(lab: Lab) -> None:
    """Puts LARGE rows into the table."""
    async with lab.connect("penstock") as owner:
        indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'data.things'::regclass"
        for name in [row[0] for row in await owner.fetch(f"{indexes} AND NOT indisprimary")]:
            if "__object_" not in name:
                await owner.execute(f"DROP INDEX {name}")
        await owner.execute(_FILL)
        await owner.execute("ANALYZE data.things")


async def explain(connection: asyncpg.Connection[asyncpg.Record], statement: str, *values: int) -> dict[str, Any]:
    """The plan, without running it."""
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
    root: dict[str, Any] = json.loads(found)[0]["Plan"]
    return root


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The node and all below it."""
    yield node
    for child in node.get("Plans", []):
        yield from nodes(child)


def seq_scans(root: dict[str, Any]) -> set[str]:
    """The tables that are scanned."""
    return {node["Relation Name"] for node in nodes(root) if node["Node Type"] == "Seq Scan"}
