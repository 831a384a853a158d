"""Whether the database was migrated for a set of contracts. Reads `penstock.datasets`, never changes it."""

from __future__ import annotations

import asyncpg

from shared.contract import snapshot
from shared.contract.model import ContractSet
from shared.postgres.errors import translated


async def check_applied(pool: asyncpg.Pool[asyncpg.Record], contracts: ContractSet) -> None:
    """Raises ConfigError for contracts that the database was not migrated for: their stored bytes would lie."""
    with translated():
        rows = await pool.fetch(snapshot.APPLIED_SQL)
    snapshot.check_applied([(row["name"], row["fingerprint"], row["contract"]) for row in rows], contracts)
