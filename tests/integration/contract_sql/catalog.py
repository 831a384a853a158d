"""What a database holds, as plain values to compare."""

from __future__ import annotations

from typing import Any

import psycopg

COLUMNS = """
SELECT c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.attcollation::regcollation::text, pg_get_expr(d.adbin, d.adrelid), a.attstorage,
    pg_get_userbyid(c.relowner), c.relacl::text
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text IN ('data', 'penstock')
ORDER BY 1, 2
"""
INDEXES = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace::regnamespace::text IN ('data', 'penstock')
ORDER BY 1
"""
CONTRACTS = """SELECT name, fingerprint, contract::text FROM penstock.datasets ORDER BY name"""


def schema(url: str) -> list[Any]:
    """Tables with their columns, owners and rights, indexes and recorded contracts. Column order is left out."""
    with psycopg.connect(url) as connection:
        found = [connection.execute(query).fetchall() for query in (COLUMNS, INDEXES)]
        if connection.execute("SELECT to_regclass('penstock.datasets') IS NOT NULL").fetchone() == (True,):
            found.append(connection.execute(CONTRACTS).fetchall())
    return found


def value(url: str, query: str) -> Any:
    """The first column of the first row."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def execute(url: str, *statements: str) -> None:
    """Runs statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
