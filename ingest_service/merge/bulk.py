"""The first load of a big object: load, then index. Only for a dataset that never held a row.

Readers of that dataset wait while it runs; a table that holds rows is never touched this way.
"""

from __future__ import annotations

import asyncpg

from ingest_service.ledger.connection import Connection
from ingest_service.ledger.datasets import LockedDataset
from ingest_service.merge import plan
from ingest_service.merge.staging import Staged, affected
from shared.contract.model import Dataset

# Given up, the savepoint takes the settings back. One sort or index build at a time: each may have the whole memory.
_SETTINGS = """
SELECT set_config('lock_timeout', $1, true), set_config('maintenance_work_mem', $2, true),
       set_config('work_mem', $2, true)
"""

# Somebody holds the table, or something else (a foreign key, a view) hangs on the primary key.
_GIVE_UP = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.DependentObjectsStillExistError)


class _NotForBulkError(Exception):
    """The table holds rows, or an index cannot be dropped without loss."""


class DuplicateKeys(Exception):
    """The stage holds a key twice; nothing has happened (savepoint)."""


def worth_it(held: LockedDataset, staged: Staged, threshold_rows: int) -> bool:
    """Only for a dataset that was never loaded, and only for a stage that pays for rebuilding the indexes."""
    return held.version == 0 and held.row_count == 0 and staged.rows >= threshold_rows


async def write_all(
    connection: Connection,
    dataset: Dataset,
    staged: Staged,
    *,
    object_id: int,
    version: int,
    lock_timeout_s: float,
    maintenance_memory_mib: int,
) -> int | None:
    """Inserts the whole stage and builds the indexes afterwards. None when the plain path has to do it, and then
    nothing has happened (savepoint). Raises DuplicateKeys where nobody has looked for them and the primary key did."""
    try:
        async with connection.transaction():
            await connection.execute(_SETTINGS, f"{round(lock_timeout_s * 1000)}ms", f"{maintenance_memory_mib}MB")
            indexes = await _dropped_indexes(connection, dataset)
            inserted = affected(
                await connection.execute(plan.write_all(dataset, in_key_order=staged.in_key_order), object_id, version)
            )
            for index in indexes:
                await connection.execute(index["create_sql"])
            return inserted
    except asyncpg.UniqueViolationError as exc:
        if staged.distinct:
            raise
        raise DuplicateKeys from exc
    except (_NotForBulkError, *_GIVE_UP):
        return None


async def _dropped_indexes(connection: Connection, dataset: Dataset) -> list[asyncpg.Record]:
    """Locks the table, makes sure that it is empty, drops all indexes; what is returned re-creates them."""
    await connection.execute(plan.lock_table(dataset))
    indexes = await connection.fetch(plan.table_indexes(dataset))
    if any(index["pinned"] for index in indexes) or await connection.fetchval(plan.has_rows(dataset)):
        raise _NotForBulkError
    for index in indexes:
        await connection.execute(index["drop_sql"])
    return indexes
