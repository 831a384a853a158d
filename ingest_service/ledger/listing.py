"""Reading the ledger page by page: keyset only, newest loads first, rejects in file order."""

# ruff: noqa: S608 - the statements are put together from constants of this package; every value is bound.

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.records import Load, LoadState, StoredReject
from ingest_service.ledger.rows import LOAD_COLUMNS, load_of, reject_of
from shared.postgres.errors import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFilter:
    """Which loads; every part that is set must hold. `bucket` and `key` go together."""

    dataset: str | None = None
    states: tuple[LoadState, ...] = ()
    bucket: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCursor:
    """The last load of the page before: `created_at` and `id` of it."""

    created_at: dt.datetime
    id: UUID


# The newest attempt at each of some objects of one dataset, as a whole. Index: loads_by_object, once per object, from
# its end.
_LAST_ATTEMPTS = f"""
SELECT {LOAD_COLUMNS}
FROM unnest($3::text[]) AS wanted (wanted_key) CROSS JOIN LATERAL (
    SELECT * FROM penstock.loads
    WHERE bucket = $2 AND key = wanted_key AND dataset = $1 AND trigger <> 'UNLOAD' AND NOT validate_only
        AND rejects_of IS NULL
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS last
"""

# The rejects of one load after one of them. Index: rejects_pkey.
_REJECTS = """
SELECT ordinal, line, field, rule, message, raw, part FROM penstock.rejects
WHERE load_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3
"""

# The loads of one Populate request, in the order they were started. Index: loads_by_request.
_IDS_OF_REQUEST = "SELECT id FROM penstock.loads WHERE request_id = $1 ORDER BY created_at, id"

# What of it is in work. Index: loads_by_request.
_RUNNING_OF_REQUEST = f"""
SELECT {LOAD_COLUMNS} FROM penstock.loads WHERE request_id = $1 AND state = 'RUNNING' ORDER BY created_at, id
"""

# Index: loads_pkey.
_BY_ID = f"SELECT {LOAD_COLUMNS} FROM penstock.loads WHERE id = ANY ($1::uuid[]) ORDER BY created_at, id"


@translating
async def last_attempts(connection: Connection, dataset: str, bucket: str, keys: Sequence[str]) -> dict[str, Load]:
    """By key the newest attempt to load it into the dataset, where there is one. No unloads, no validations, none
    of rejects alone."""
    return {row["key"]: load_of(row) for row in await connection.fetch(_LAST_ATTEMPTS, dataset, bucket, keys)}


@translating
async def list_loads(connection: Connection, wanted: LoadFilter, *, after: LoadCursor | None, limit: int) -> list[Load]:
    """At most `limit` loads, newest first, beginning after the cursor."""
    statement, values = loads_statement(wanted, after, limit)
    return [load_of(row) for row in await connection.fetch(statement, *values)]


@translating
async def list_rejects(
    connection: Connection, load_id: UUID, *, after_ordinal: int = -1, limit: int
) -> list[StoredReject]:
    """At most `limit` rejects of the load in file order, beginning after that ordinal."""
    return [reject_of(row) for row in await connection.fetch(_REJECTS, load_id, after_ordinal, limit)]


async def all_rejects(
    pool: asyncpg.Pool[asyncpg.Record], load_id: UUID, *, page: int
) -> AsyncIterator[list[StoredReject]]:
    """All rejects of a load in file order, at most `page` at once. Holds no connection between the pages."""
    after = -1
    while True:
        with translated():
            async with pool.acquire() as connection:
                found = await list_rejects(connection, load_id, after_ordinal=after, limit=page)
        if not found:
            return
        yield found
        after = found[-1].ordinal


@translating
async def load_ids_of_request(connection: Connection, request_id: UUID) -> list[UUID]:
    """Every load that the Populate request started, oldest first. Ids only: there may be a quarter of a million."""
    return [row["id"] for row in await connection.fetch(_IDS_OF_REQUEST, request_id)]


@translating
async def running_loads_of_request(connection: Connection, request_id: UUID) -> list[Load]:
    """The loads of the Populate request that are in work now."""
    return [load_of(row) for row in await connection.fetch(_RUNNING_OF_REQUEST, request_id)]


@translating
async def loads_by_id(connection: Connection, ids: Sequence[UUID]) -> list[Load]:
    """Those loads, oldest first."""
    return [load_of(row) for row in await connection.fetch(_BY_ID, ids)]


def loads_statement(wanted: LoadFilter, after: LoadCursor | None, limit: int) -> tuple[str, list[object]]:
    """SQL per filter shape, values bound. Indexes: loads_by_time, _by_dataset, _by_object; with states loads_by_state
    once per state, because one scan over several states would not be in time order."""
    values: list[object] = [limit]
    conditions = _conditions(wanted, after, values)
    order = "ORDER BY created_at DESC, id DESC LIMIT $1"
    if not wanted.states:
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        return f"SELECT {LOAD_COLUMNS} FROM penstock.loads {where}{order}", values
    values.append(sorted(set(wanted.states)))
    conditions.append("state = wanted.name")
    return (
        f"SELECT {LOAD_COLUMNS} FROM unnest(${len(values)}::text[]) AS wanted (name) CROSS JOIN LATERAL "
        f"(SELECT * FROM penstock.loads WHERE {' AND '.join(conditions)} {order}) AS of_state {order}"
    ), values


def _conditions(wanted: LoadFilter, after: LoadCursor | None, values: list[object]) -> list[str]:
    conditions = []
    for column in ("dataset", "bucket", "key"):
        value = getattr(wanted, column)
        if value is not None:
            values.append(value)
            conditions.append(f"{column} = ${len(values)}")
    if after is not None:
        values += [after.created_at, after.id]
        conditions.append(f"(created_at, id) < (${len(values) - 1}, ${len(values)})")
    return conditions
