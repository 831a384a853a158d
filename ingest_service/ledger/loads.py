"""penstock.loads: one row an attempt, RUNNING until its one final state. A final state is never changed again."""

# ruff: noqa: S608 - the statements are put together from constants of this package; every value is bound.

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from ingest_service.ledger.connection import Connection, storable, translating
from ingest_service.ledger.datasets import LockTimes, set_limits
from ingest_service.ledger.records import (
    Load,
    LoadPhase,
    LoadStart,
    LoadState,
    Lost,
    MergeResult,
    ObjectVersion,
    ReadCounts,
)
from ingest_service.ledger.rows import LOAD_COLUMNS, load_of
from shared.errors import Aborted, NotFound

ABANDONED_AFTER_S = 120.0
_MESSAGE_LIMIT = 4000

# A new attempt. Primary key: loads_pkey.
_START = f"""
INSERT INTO penstock.loads (id, dataset, bucket, key, version_id, etag, last_modified, size_bytes, sequencer, trigger,
    state, phase, request_id, force, validate_only, owner, trace_id, fingerprint, rejects_of, heartbeat_at, started_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'RUNNING', $11, $12, $13, $14, $15, $16, $17, $18, now(), now())
RETURNING {LOAD_COLUMNS}
"""

# Sign of life and how far the load has come. Index: loads_pkey.
_HEARTBEAT = """
UPDATE penstock.loads
SET phase = $2, bytes_read = $3, rows_read = $4, rows_rejected = $5, heartbeat_at = now()
WHERE id = $1 AND state = 'RUNNING'
RETURNING true
"""

# What the load found to read, which may be another version than it set out to. No column of an index changes, so that
# no index is written. Index: loads_pkey.
_RETARGET = f"""
UPDATE penstock.loads
SET version_id = $2, etag = $3, last_modified = $4, size_bytes = $5, sequencer = $6, parts_count = $7,
    parts_bytes = $8, parts_digest = $9
WHERE id = $1 AND state = 'RUNNING'
RETURNING {LOAD_COLUMNS}
"""

# The one final state. dataset_version NULL stands for the dataset's current one. Indexes: loads_pkey, datasets_pkey.
_FINISH = f"""
UPDATE penstock.loads
SET state = $2, phase = 'DONE', reason = $3, message = $4, bytes_read = $5, rows_read = $6, rows_rejected = $7,
    rows_duplicate = $8, keys_unreadable = $9, unknown_columns = $10, rows_inserted = $11, rows_updated = $12,
    rows_unchanged = $13, rows_deleted = $14, ended_at = clock_timestamp(), heartbeat_at = clock_timestamp(),
    dataset_version = coalesce($15, (SELECT version FROM penstock.datasets WHERE name = loads.dataset), 0)
WHERE id = $1 AND state = 'RUNNING'
RETURNING {LOAD_COLUMNS}
"""

# What an unload could not restore. Index: loads_pkey.
_NOTE_LOST = "UPDATE penstock.loads SET rows_lost = $2, lost_uris = $3 WHERE id = $1"

# Index: loads_pkey.
_GET = f"SELECT {LOAD_COLUMNS} FROM penstock.loads WHERE id = $1"

# Loads whose process gives no sign of life. A row that its own commit holds right now is not abandoned: SKIP LOCKED.
# Index: loads_running.
_SWEEP = """
UPDATE penstock.loads
SET state = 'ABANDONED', phase = 'DONE', reason = 'OWNER_VANISHED',
    message = 'the process that ran this load went away', ended_at = clock_timestamp(),
    dataset_version = coalesce((SELECT version FROM penstock.datasets WHERE name = loads.dataset), 0)
WHERE id IN (
    SELECT id FROM penstock.loads
    WHERE state = 'RUNNING' AND heartbeat_at < now() - make_interval(secs => $1)
    FOR UPDATE SKIP LOCKED
)
RETURNING id
"""

# Waits for a transaction that may still be committing: it holds this row until it has. Index: datasets_pkey.
_AWAIT_LOCK = "SELECT FROM penstock.datasets WHERE name = $1 FOR SHARE"


@translating
async def start_load(connection: Connection, start: LoadStart, phase: LoadPhase = LoadPhase.QUEUED) -> Load:
    """Writes the RUNNING row of a new attempt."""
    version = start.object
    row = await connection.fetchrow(
        _START,
        start.id,
        start.dataset,
        version.bucket,
        version.key,
        version.version_id,
        version.etag,
        version.last_modified,
        version.size_bytes,
        version.sequencer,
        start.trigger,
        phase,
        start.request_id,
        start.force,
        start.validate_only,
        start.owner,
        start.trace_id,
        start.fingerprint,
        start.rejects_of,
    )
    assert row is not None
    return load_of(row)


@translating
async def heartbeat(connection: Connection, load_id: UUID, phase: LoadPhase, read: ReadCounts) -> bool:
    """Progress and sign of life. False when the load is not RUNNING any more (swept, finished)."""
    alive = await connection.fetchval(_HEARTBEAT, load_id, phase, read.bytes_read, read.rows_read, read.rows_rejected)
    return alive is True


@translating
async def retarget(connection: Connection, load_id: UUID, version: ObjectVersion) -> Load:
    """The same attempt, now of another version of its object. Raises Aborted when the load is not RUNNING."""
    parts = version.parts
    row = await connection.fetchrow(
        _RETARGET,
        load_id,
        version.version_id,
        version.etag,
        version.last_modified,
        version.size_bytes,
        version.sequencer,
        *((parts.count, parts.size_bytes, parts.digest) if parts else (None, None, None)),
    )
    if row is None:
        raise _not_running(load_id)
    return load_of(row)


@translating
async def finish(
    connection: Connection, load_id: UUID, state: LoadState, *, reason: str, message: str, read: ReadCounts
) -> Load:
    """Ends a load that changed nothing. Returns the load as the ledger has it: one that was ended before stays so."""
    row = await connection.fetchrow(_FINISH, *_final_values(load_id, state, reason, message, read), 0, 0, 0, 0, None)
    return load_of(row) if row is not None else await get_load(connection, load_id)


@translating
async def finish_merged(connection: Connection, load_id: UUID, result: MergeResult, read: ReadCounts) -> None:
    """Ends a load inside the transaction that merged its rows.

    Raises Aborted when the load is not RUNNING (swept as abandoned): a final state stays, so the merge must not commit.
    """
    await finish_group(connection, [(load_id, result, read)])


@translating
async def finish_group(connection: Connection, ends: Sequence[tuple[UUID, MergeResult, ReadCounts]]) -> list[Load]:
    """The same of several loads in one round trip; as they are when the transaction commits. Raises Aborted when one of
    them is not RUNNING."""
    rows = await connection.fetchmany(_FINISH, [_merged_values(*end) for end in ends])
    ended = {row["id"] for row in rows}
    for load_id, _, _ in ends:
        if load_id not in ended:
            raise _not_running(load_id)
    return [load_of(row) for row in rows]


@translating
async def note_lost(connection: Connection, load_id: UUID, lost: Lost) -> None:
    """Writes down what an unload could not restore, inside its transaction."""
    await connection.execute(_NOTE_LOST, load_id, lost.rows, lost.uris)


@translating
async def get_load(connection: Connection, load_id: UUID) -> Load:
    """One load. Raises NotFound."""
    row = await connection.fetchrow(_GET, load_id)
    if row is None:
        raise NotFound(f"there is no load {load_id}", reason="LOAD_NOT_FOUND", metadata={"load_id": str(load_id)})
    return load_of(row)


@translating
async def sweep_abandoned(connection: Connection, stale_after_s: float = ABANDONED_AFTER_S) -> list[UUID]:
    """Ends the loads whose owner gave no sign of life for `stale_after_s`. Returns their ids.

    Age of the heartbeat is the only proof. Another attempt at the same version is none: two pods may really run one
    event at once, and the lock lets only one of them merge it.
    """
    return [row["id"] for row in await connection.fetch(_SWEEP, stale_after_s)]


@translating
async def committed_load(connection: Connection, load: Load, times: LockTimes | None = None) -> Load | None:
    """The load when its merge was committed, else None. For a connection that was lost while COMMIT was under way.

    Ask on another connection. The ledger row commits with the data, so its state is the answer; but the lost
    transaction may still be committing, or wait for the server to notice that its client is gone. It holds the
    dataset's lock until then, so the lock is awaited first: after it, the answer cannot change any more.
    """
    async with connection.transaction(isolation="read_committed"):
        await set_limits(connection, times or LockTimes())
        await connection.execute(_AWAIT_LOCK, load.dataset)
        now = await get_load(connection, load.id)
    return None if now.state in (LoadState.RUNNING, LoadState.ABANDONED, LoadState.CANCELLED) else now


def _final_values(load_id: UUID, state: LoadState, reason: str, message: str, read: ReadCounts) -> tuple[object, ...]:
    unknown = [storable(name) for name in read.unknown_columns]
    text = storable(message)[:_MESSAGE_LIMIT]
    counts = (read.bytes_read, read.rows_read, read.rows_rejected, read.rows_duplicate, read.keys_unreadable)
    return (load_id, state, reason, text, *counts, unknown)


def _merged_values(load_id: UUID, result: MergeResult, read: ReadCounts) -> tuple[object, ...]:
    values = _final_values(load_id, result.state, result.reason, result.message, read)
    merged = (result.rows_inserted, result.rows_updated, result.rows_unchanged, result.rows_deleted)
    return (*values, *merged, result.dataset_version)


def _not_running(load_id: UUID) -> Aborted:
    return Aborted(f"load {load_id} was ended by somebody else", reason="LOAD_NOT_RUNNING", retry_after_s=1.0)
