"""Ends a load from outside, wherever it runs: its process learns of it by its next sign of life, or at its commit."""

# ruff: noqa: S608 - the statements are put together from constants of this package; every value is bound.

from __future__ import annotations

from uuid import UUID

from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.loads import get_load
from ingest_service.ledger.records import Load, LoadState
from ingest_service.ledger.rows import LOAD_COLUMNS, load_of
from shared.errors import FailedPrecondition

# A load that is committing holds its row, so this waits for it and then finds it ended; a row that this ended makes
# the load's own transaction fail. Indexes: loads_pkey, datasets_pkey.
_CANCEL = f"""
UPDATE penstock.loads
SET state = 'CANCELLED', phase = 'DONE', reason = 'CANCELLED', message = 'the load was cancelled; nothing was changed',
    ended_at = clock_timestamp(), heartbeat_at = clock_timestamp(),
    dataset_version = coalesce((SELECT version FROM penstock.datasets WHERE name = loads.dataset), 0)
WHERE id = $1 AND state = 'RUNNING'
RETURNING {LOAD_COLUMNS}
"""

# The cancelled load of the same event: its process died before it deleted the message. Index: loads_by_object.
_CANCELLED_TWIN = """
SELECT id FROM penstock.loads
WHERE bucket = $1 AND key = $2 AND dataset = $3 AND sequencer = $4 AND state = 'CANCELLED' AND trigger = 'EVENT'
LIMIT 1
"""


@translating
async def cancel_load(connection: Connection, load_id: UUID) -> Load:
    """The load, CANCELLED now or before. Raises NotFound, or FailedPrecondition when it has ended otherwise."""
    row = await connection.fetchrow(_CANCEL, load_id)
    load = load_of(row) if row is not None else await get_load(connection, load_id)
    if load.state is not LoadState.CANCELLED:
        raise FailedPrecondition(
            f"load {load_id} has ended as {load.state} already; Unload takes back what it loaded",
            reason="LOAD_ENDED",
            metadata={"load_id": str(load_id), "state": load.state},
        )
    return load


@translating
async def cancelled_twin(connection: Connection, load: Load) -> UUID | None:
    """The load of the very same event that was cancelled, if there is one."""
    version = load.object
    found: UUID | None = await connection.fetchval(
        _CANCELLED_TWIN, version.bucket, version.key, load.dataset, version.sequencer
    )
    return found
