"""Keys that cut a dataset into parts of about one size, kept with its version: all who read it cut alike.

Never written but in the transaction that bumps the version, so that one version has one set of bounds.
"""

# ruff: noqa: S608 - names come from the contract through `quote_ident`, every value is bound.

from __future__ import annotations

from ingest_service.ledger.connection import Connection
from shared.contract.ddl import column_names, table
from shared.contract.model import Dataset

PARTS = 256
# Of 1 M rows of 250 bytes that is 2 % of the pages: 15 ms, and parts that differ by a few percent in size.
SAMPLE_ROWS = 20_000


def set_key_bounds(dataset: Dataset) -> str:
    """At most PARTS - 1 keys of a sample, at equal distances in key order, as a JSON array of arrays; nothing changes
    where there are some and `renew` is false. $1 = dataset, $2 = renew, $3 = percent of the pages. SYSTEM takes whole
    pages: of a heap in key order their rows are neighbours, and each page counts as one."""
    keys = column_names(dataset.key)
    return f"""
UPDATE penstock.datasets SET key_bounds = (
    SELECT jsonb_agg(jsonb_build_array({keys}) ORDER BY place) FROM (
        SELECT {keys}, row_number() OVER (ORDER BY {keys}) AS place, count(*) OVER () AS total
        FROM {table(dataset)} TABLESAMPLE SYSTEM ($3)
    ) AS sample
    WHERE place < total AND place * {PARTS} / total > (place - 1) * {PARTS} / total
)
WHERE name = $1 AND ($2 OR key_bounds IS NULL)
"""


async def renew_key_bounds(connection: Connection, dataset: Dataset, *, rows: int, changed: bool) -> None:
    """New bounds where the rows have `changed` much, or where there are none yet. The caller holds the dataset's lock
    and bumps its version."""
    percent = min(100.0, 100.0 * SAMPLE_ROWS / max(1, rows))
    await connection.execute(set_key_bounds(dataset), dataset.name, changed, percent)
