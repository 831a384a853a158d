"""Ends a load from outside, wherever it runs: its process learns of it by its next sign of life, or at its commit."""

# ruff: noqa: S608 - the statements are put together from constants of this package; every value is bound.

from __future__ import annotations

import logging
from uuid import UUID

from ingest_service.ledger.connection import Connection, storable, translating
from ingest_service.ledger.loads import get_load
from ingest_service.ledger.records import Load, LoadState, LoadTrigger
from ingest_service.ledger.rows import LOAD_COLUMNS, load_of
from shared.errors import FailedPrecondition

logger = logging.getLogger(__name__)

# A load that is committing holds its row, so this waits for it and then finds it ended; a row that this ended makes
# the load's own transaction fail. Indexes: loads_pkey, datasets_pkey.
_CANCEL = f"""
UPDATE penstock.loads
SET state = 'CANCELLED', phase = 'DONE', reason = 'CANCELLED',
    message = 'the load was cancelled by ' || $2::text || '; nothing was changed',
    ended_at = clock_timestamp(), heartbeat_at = clock_timestamp(),
    dataset_version = coalesce((SELECT version FROM penstock.datasets WHERE name = loads.dataset), 0)
WHERE id = $1 AND state = 'RUNNING'
RETURNING {LOAD_COLUMNS}
"""

# Advice for a load that has ended already. A FAILED or ABANDONED one changed nothing: an Unload would take back what an
# earlier version of the object loaded.
_NO_ADVICE = "there is nothing to cancel"
_ATTEMPTS = "it changed nothing; where WatchLoads of its object tells another attempt, cancel that one"
_ADVICE = {
    LoadState.SUCCEEDED: "Unload takes back what it loaded",
    LoadState.FAILED: _ATTEMPTS,
    LoadState.ABANDONED: _ATTEMPTS,
}

# The cancelled load of the same event: its process died before it deleted the message. Index: loads_by_object.
_CANCELLED_TWIN = """
SELECT id FROM penstock.loads
WHERE bucket = $1 AND key = $2 AND dataset = $3 AND sequencer = $4 AND state = 'CANCELLED' AND trigger = 'EVENT'
LIMIT 1
"""

# The cancelled load of the same object by the same Populate, which another process took over. Index: loads_by_request.
_CANCELLED_OF_REQUEST = """
SELECT id FROM penstock.loads
WHERE request_id = $1 AND bucket = $2 AND key = $3 AND dataset = $4 AND state = 'CANCELLED'
LIMIT 1
"""


@translating
async def cancel_load(connection: Connection, load_id: UUID, by: str) -> Load:
    """The load, CANCELLED now or before; `by` names the caller in its message. Raises NotFound, or FailedPrecondition
    when it has ended otherwise."""
    row = await connection.fetchrow(_CANCEL, load_id, storable(by))
    if row is not None:
        logger.info("load %s was cancelled by %s", load_id, by)
        return load_of(row)
    load = await get_load(connection, load_id)
    if load.state is not LoadState.CANCELLED:
        raise _ended(load)
    return load


@translating
async def cancelled_twin(connection: Connection, load: Load) -> UUID | None:
    """The load of the very same event, or of the object in the very same Populate, that was cancelled."""
    version, found = load.object, None
    of_object = (version.bucket, version.key, load.dataset)
    if load.request_id is not None:
        found = await connection.fetchval(_CANCELLED_OF_REQUEST, load.request_id, *of_object)
    elif load.trigger is LoadTrigger.EVENT and version.sequencer is not None:
        found = await connection.fetchval(_CANCELLED_TWIN, *of_object, version.sequencer)
    return found


def _ended(load: Load) -> FailedPrecondition:
    advice = _NO_ADVICE if load.trigger is LoadTrigger.UNLOAD else _ADVICE.get(load.state, _NO_ADVICE)
    return FailedPrecondition(
        f"load {load.id} has ended as {load.state} already; {advice}",
        reason="LOAD_ENDED",
        metadata={"load_id": str(load.id), "state": load.state},
    )
