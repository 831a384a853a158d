"""Keys of deleted rows are kept for Watch for a while, then forgotten; the dataset says up to which version they are.

The horizon is committed before the first of them goes: whoever misses one also sees that he does.
"""

# ruff: noqa: S608 - names come from the contract through `quote_ident`, every value is bound.

from __future__ import annotations

from ingest_service.ledger.connection import Connection, translating
from shared.contract.ddl import deleted_table
from shared.contract.model import Dataset

BATCH = 10_000


def move_horizon(dataset: Dataset) -> str:
    """To the version of a load that ended more than $2 seconds ago, where deletions of it or before it are kept. Never
    waits for a load in work. Indexes: loads_by_dataset, the primary keys."""
    return f"""
UPDATE penstock.datasets AS d SET deleted_horizon = past.dataset_version
FROM (
    SELECT dataset_version FROM penstock.loads
    WHERE dataset = $1 AND state = 'SUCCEEDED' AND created_at < now() - make_interval(secs => $2)
        AND ended_at < now() - make_interval(secs => $2)
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS past
WHERE d.name = (SELECT name FROM penstock.datasets WHERE name = $1 FOR UPDATE SKIP LOCKED)
    AND past.dataset_version > d.deleted_horizon
    AND EXISTS (SELECT FROM {deleted_table(dataset)} WHERE "_version" <= past.dataset_version)
"""


def forget_deletions(dataset: Dataset) -> str:
    """Some of the deletions up to the horizon, $2 at most. Index: the primary key, which begins with _version."""
    return f"""
DELETE FROM {deleted_table(dataset)} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {deleted_table(dataset)}
    WHERE "_version" <= (SELECT deleted_horizon FROM penstock.datasets WHERE name = $1) LIMIT $2
))
"""


@translating
async def prune(connection: Connection, dataset: Dataset, retention_s: float) -> int:
    """Forgets deletions that are older; returns how many. A later call goes on where this one is interrupted."""
    await connection.execute(move_horizon(dataset), dataset.name, retention_s)
    pruned = 0
    while True:
        status = await connection.execute(forget_deletions(dataset), dataset.name, BATCH)
        count = int(status.rpartition(" ")[2])
        pruned += count
        if count < BATCH:
            return pruned
