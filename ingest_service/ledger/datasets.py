"""The dataset's row: the lock that puts commits in order, the version, and word of it to the query pods.

Whoever changes rows of a dataset holds its lock until commit; versions are therefore gap-free in commit order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingest_service.ledger.connection import Connection, translating
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition, Unavailable
from shared.postgres.errors import translated

VERSION_CHANNEL = "penstock_version"
# The reason of Unavailable when only `loads.committed_load` can tell whether a transaction was committed.
COMMIT_UNKNOWN = "COMMIT_UNKNOWN"
WORK_MEMORY_MIB = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTimes:
    """How long the lock may be waited for (by its holder, for a row: half of it), and how fast it comes free when the
    holder is gone.

    A holder that hangs between statements is cut off after `idle_s`. Of one whose process is gone even a running
    statement ends within `client_check_s`, of one whose host is gone within `keepalive_s` more: all within 60 s.
    """

    lock_timeout_s: float = 120.0
    idle_s: float = 30.0
    keepalive_s: float = 25.0
    client_check_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedDataset:
    """A dataset's row, read under its lock. `snapshot_object`: the id of the object that is the whole truth;
    `has_key_bounds`: the keys that cut it into parts are known."""

    name: str
    epoch: UUID
    version: int
    row_count: int
    snapshot_object: int | None = None
    has_key_bounds: bool = False


# Settings of this transaction only: they hold behind a transaction pooler too, and leave no trace on the connection.
# Memory is for the anti-join and the sort. JIT costs more than it gives on these plans.
_SETTINGS = """
SELECT set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
       set_config('tcp_keepalives_idle', $3, true), set_config('tcp_keepalives_interval', $4, true),
       set_config('tcp_keepalives_count', '3', true), set_config('tcp_user_timeout', $5, true),
       set_config('client_connection_check_interval', $6, true), set_config('statement_timeout', '0', true),
       set_config('work_mem', $7, true), set_config('jit', 'off', true)
"""

# Index: datasets_pkey.
_EXISTS = "SELECT EXISTS (SELECT FROM penstock.datasets WHERE name = $1)"

# Index: datasets_pkey.
_NEVER_LOADED = "SELECT version = 0 AND row_count = 0 FROM penstock.datasets WHERE name = $1"

# Takes the lock of the dataset; loads of one dataset commit one after the other. Who has it waits for the lock of a row
# for less than those behind him wait for him, else a row that somebody holds would fail them too. Index: datasets_pkey.
_LOCK = """
WITH held AS MATERIALIZED (
    SELECT name, epoch, version, row_count, snapshot_object, key_bounds IS NOT NULL AS has_key_bounds, fingerprint,
           contract ->> 'file_policy' AS file_policy
    FROM penstock.datasets WHERE name = $1 FOR UPDATE
)
SELECT held.*, set_config('lock_timeout', $2, true) FROM held
"""

# From this commit on that object is the whole truth. Index: datasets_pkey.
_SET_SNAPSHOT = "UPDATE penstock.datasets SET snapshot_object = $2 WHERE name = $1"

# The version that this transaction commits, and word of it, heard by the query pods when, and only when, it does. One
# statement: for every round trip under the lock all other loads of the dataset wait. After a promotion or a restore,
# which begin another timeline or another cluster, versions that were lost come again with other rows: the first of them
# begins an epoch. Index: datasets_pkey.
_BUMP = """
WITH bumped AS (
    UPDATE penstock.datasets AS d
    SET version = $2, row_count = d.row_count + $3, loaded_at = clock_timestamp(), updated_at = clock_timestamp(),
        epoch = CASE WHEN d.history <> present.history THEN gen_random_uuid() ELSE d.epoch END,
        history = present.history
    FROM (
        SELECT format('%s/%s', system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)) AS history
        FROM pg_control_system()
    ) AS present
    WHERE d.name = $1
    RETURNING d.name, d.epoch, d.version
)
SELECT pg_notify($4, format('%s %s %s', name, epoch, version)) FROM bumped
"""


@translating
async def is_migrated(connection: Connection, name: str) -> bool:
    """Whether the database has the dataset, whatever contracts this process was started with."""
    return bool(await connection.fetchval(_EXISTS, name))


async def never_loaded(connection: Connection, name: str) -> bool:
    """Whether no load of the dataset has committed yet: a hint, as long as its lock is not held."""
    return bool(await connection.fetchval(_NEVER_LOADED, name))


@asynccontextmanager
async def locked(
    connection: Connection,
    dataset: Dataset,
    times: LockTimes,
    *,
    work_memory_mib: int = WORK_MEMORY_MIB,
    before: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[LockedDataset]:
    """One READ COMMITTED transaction that holds the dataset's lock, committed at the end of the block.

    READ COMMITTED, because what the holder before committed must be seen by every statement after the lock. `before` is
    awaited in the transaction before the lock is asked for: others need not wait for that.
    Raises FailedPrecondition when the dataset is not in the database or was migrated to another contract; Unavailable
    with COMMIT_UNKNOWN when the connection was lost during COMMIT, and with another reason when nothing was committed.
    """
    committing = False
    try:
        with translated():
            async with connection.transaction(isolation="read_committed"):
                await set_limits(connection, times, work_memory_mib)
                if before is not None:
                    await before()
                row = await connection.fetchrow(_LOCK, dataset.name, f"{round(times.lock_timeout_s * 500)}ms")
                yield _checked(row, dataset)
                committing = True
    except Unavailable as exc:
        if not committing:
            raise
        message = "the connection to the database was lost during COMMIT: the ledger knows the outcome"
        raise Unavailable(message, reason=COMMIT_UNKNOWN, retry_after_s=1.0) from exc


def _checked(row: asyncpg.Record | None, dataset: Dataset) -> LockedDataset:
    if row is None:
        raise FailedPrecondition(
            f"dataset {dataset.name} is not in the database: apply its migration (penstock migrate)",
            reason="DATASET_NOT_MIGRATED",
            metadata={"dataset": dataset.name},
        )
    # The policy too: while it changes, a process of before must not load by the old one.
    if (row["fingerprint"], row["file_policy"]) != (dataset.fingerprint, dataset.file_policy.value):
        raise FailedPrecondition(
            f"dataset {dataset.name} has another contract in the database than this service has",
            reason="CONTRACT_MISMATCH",
            metadata={"dataset": dataset.name},
        )
    return LockedDataset(
        name=row["name"],
        epoch=row["epoch"],
        version=row["version"],
        row_count=row["row_count"],
        snapshot_object=row["snapshot_object"],
        has_key_bounds=row["has_key_bounds"],
    )


async def set_limits(connection: Connection, times: LockTimes, work_memory_mib: int = WORK_MEMORY_MIB) -> None:
    """Bounds for the open transaction, so that nobody holds or awaits a lock for ever, and memory for its plans."""
    probe_s = max(1, round(times.keepalive_s / 5))
    await connection.execute(
        _SETTINGS,
        f"{round(times.lock_timeout_s * 1000)}ms",
        f"{round(times.idle_s * 1000)}ms",
        str(probe_s * 2),
        str(probe_s),
        f"{round(times.keepalive_s * 1000)}ms",
        f"{round(times.client_check_s * 1000)}ms",
        f"{work_memory_mib}MB",
    )


async def set_snapshot(connection: Connection, held: LockedDataset, object_id: int | None) -> None:
    """Makes that object the snapshot that later ones are compared with; None: whatever comes next is taken."""
    await connection.execute(_SET_SNAPSHOT, held.name, object_id)


async def bump(connection: Connection, held: LockedDataset, *, row_delta: int, versions: int = 1) -> int:
    """Writes the next version, or that of the last of so many loads, and announces it at commit. Returns it."""
    version = held.version + versions
    await connection.execute(_BUMP, held.name, version, row_delta, VERSION_CHANNEL)
    return version
