"""penstock.reconciles: one row a dataset. Who reconciles it, what the last reconcile found, and for which epoch.

A claim is a row with a fresh heartbeat, not an advisory lock: those of a session may not be taken through the pool, and
a transaction would have to stay open for as long as a bucket is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from ingest_service.ledger.connection import Connection, translating

STALE_AFTER_S = 60.0

# Datasets that no process has reconciled yet. Of what was before nobody knows: their epoch is taken as it is.
# Primary keys: datasets_pkey, reconciles_pkey.
_REGISTER = """
INSERT INTO penstock.reconciles (dataset, epoch)
SELECT name, epoch FROM penstock.datasets WHERE name = ANY ($1::text[])
ON CONFLICT (dataset) DO NOTHING
"""

# Takes what is due and nobody is at: where the epoch is another one, or where the last reconcile ended long enough ago.
# What another process is just claiming is left to it. Indexes: reconciles_pkey, datasets_pkey.
_CLAIM = """
UPDATE penstock.reconciles AS mine SET owner = $2, heartbeat_at = now()
FROM (
    SELECT held.dataset, datasets.epoch
    FROM penstock.reconciles AS held JOIN penstock.datasets ON datasets.name = held.dataset
    WHERE held.dataset = ANY ($1::text[])
        AND (held.heartbeat_at IS NULL OR held.heartbeat_at < now() - make_interval(secs => $3))
        AND CASE WHEN $4::float8 IS NULL THEN held.epoch <> datasets.epoch
            ELSE held.epoch = datasets.epoch AND coalesce(held.ended_at < now() - make_interval(secs => $4), true) END
    ORDER BY held.dataset FOR UPDATE OF held SKIP LOCKED
) AS due
WHERE mine.dataset = due.dataset
RETURNING mine.dataset, due.epoch
"""

# Sign of life: how many are still ours, and of the epoch that was claimed. Indexes: reconciles_pkey, datasets_pkey.
_HEARTBEAT = """
WITH alive AS (
    UPDATE penstock.reconciles AS mine SET heartbeat_at = now()
    FROM unnest($1::text[], $2::uuid[]) AS claimed (dataset, epoch)
    JOIN penstock.datasets ON datasets.name = claimed.dataset AND datasets.epoch = claimed.epoch
    WHERE mine.dataset = claimed.dataset AND mine.owner = $3 AND mine.heartbeat_at IS NOT NULL
    RETURNING 1
)
SELECT count(*) FROM alive
"""

# Gives a claim back, whatever came of it. Index: reconciles_pkey.
_RELEASE = """
UPDATE penstock.reconciles SET heartbeat_at = NULL WHERE dataset = ANY ($1::text[]) AND owner = $2
"""

# What a reconcile of the whole dataset found. Index: reconciles_pkey.
_RECORD = """
UPDATE penstock.reconciles SET ended_at = now(), missing = $2, outdated = $3, gone = $4, failed = $5 WHERE dataset = $1
"""

# The window was looked through for this epoch. Index: reconciles_pkey.
_RECHECKED = """
UPDATE penstock.reconciles SET epoch = checked.epoch
FROM unnest($1::text[], $2::uuid[]) AS checked (dataset, epoch)
WHERE reconciles.dataset = checked.dataset
"""

# Indexes: reconciles_pkey, datasets_pkey.
_PENDING = """
SELECT held.dataset FROM penstock.reconciles AS held JOIN penstock.datasets ON datasets.name = held.dataset
WHERE held.dataset = ANY ($1::text[]) AND held.epoch <> datasets.epoch
ORDER BY held.dataset
"""

# Index: reconciles_pkey.
_GAPS = """
SELECT dataset, missing AS "MISSING", outdated AS "OUTDATED", gone AS "GONE", failed AS "FAILED"
FROM penstock.reconciles WHERE dataset = ANY ($1::text[]) AND ended_at IS NOT NULL
"""


@translating
async def register(connection: Connection, datasets: Sequence[str]) -> None:
    """Makes the rows of datasets that have none."""
    await connection.execute(_REGISTER, datasets)


@translating
async def claim(
    connection: Connection,
    datasets: Sequence[str],
    owner: str,
    *,
    ended_before_s: float | None = None,
    stale_after_s: float = STALE_AFTER_S,
) -> dict[str, UUID]:
    """The datasets that the owner is to reconcile now, with their epochs; never two owners at once.

    `ended_before_s`: those whose last reconcile ended so long ago. None: those whose epoch was not checked yet.
    """
    rows = await connection.fetch(_CLAIM, datasets, owner, stale_after_s, ended_before_s)
    return {row["dataset"]: row["epoch"] for row in rows}


@translating
async def heartbeat(connection: Connection, claimed: Mapping[str, UUID], owner: str) -> bool:
    """Sign of life. False when one of the datasets is somebody else's by now, or has come to another epoch."""
    alive = await connection.fetchval(_HEARTBEAT, list(claimed), list(claimed.values()), owner)
    return bool(alive == len(claimed))


@translating
async def release(connection: Connection, claimed: Mapping[str, UUID], owner: str) -> None:
    """Whoever comes next may claim them at once."""
    await connection.execute(_RELEASE, list(claimed), owner)


@translating
async def record(connection: Connection, dataset: str, gaps: Mapping[str, int]) -> None:
    """The end of a reconcile of the whole dataset, and the gaps that it found, by kind."""
    kinds = ("MISSING", "OUTDATED", "GONE", "FAILED")
    await connection.execute(_RECORD, dataset, *(gaps[kind] for kind in kinds))


@translating
async def rechecked(connection: Connection, claimed: Mapping[str, UUID]) -> None:
    """What a lost load of these epochs could have left is mended."""
    await connection.execute(_RECHECKED, list(claimed), list(claimed.values()))


@translating
async def pending(connection: Connection, datasets: Sequence[str]) -> list[str]:
    """The datasets that have come to an epoch for which nobody has looked through the queue's window yet."""
    return [row["dataset"] for row in await connection.fetch(_PENDING, datasets)]


@translating
async def gaps(connection: Connection, datasets: Sequence[str]) -> dict[str, dict[str, int]]:
    """By dataset and kind what the last reconcile found, in whichever process."""
    rows = await connection.fetch(_GAPS, datasets)
    return {row["dataset"]: {kind: row[kind] for kind in row.keys() if kind != "dataset"} for row in rows}  # noqa: SIM118
