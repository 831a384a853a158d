"""What no single load can do for itself: end the loads of vanished processes, take over their Populate requests, forget
old deletions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from uuid import UUID

import asyncpg
from google.protobuf.message import DecodeError
from penstock.ingest.v1 import ingest_pb2

from ingest_service.ledger import loads, populates, tombstones
from ingest_service.populate import Populates, check_request
from ingest_service.sources import Sources
from shared.contract.model import Dataset
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0
WATCH_RETENTION_S = 7 * 86_400.0


class Maintenance:
    """`run()` around `run_once()`. Every pod runs it; the ledger's row locks keep them from doing things twice."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        populates: Populates,
        datasets: Mapping[str, Dataset],
        sources: Sources,
        watch_retention_s: float = WATCH_RETENTION_S,
    ) -> None:
        self._pool = pool
        self._populates = populates
        self._datasets = datasets
        self._sources = sources
        self._watch_retention_s = watch_retention_s

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.run_once()
            except PenstockError as exc:
                logger.warning("maintenance skipped: %s", exc.message)
            except Exception:
                # Loads are in work in this process: a round that met a bug is no reason to end them.
                logger.exception("maintenance failed")
            await asyncio.sleep(INTERVAL_S)

    async def run_once(self) -> None:
        """One round."""
        with translated():
            async with self._pool.acquire() as connection:
                for load_id in await loads.sweep_abandoned(connection):
                    logger.warning("load %s was abandoned by its process", load_id)
                stale = await populates.list_stale(connection)
        for request_id, wire in stale:
            await self._take_over(request_id, wire)
        with translated():
            async with self._pool.acquire() as connection:
                for dataset in self._datasets.values():
                    await tombstones.prune(connection, dataset, self._watch_retention_s)

    async def _take_over(self, request_id: UUID, wire: bytes) -> None:
        """One that cannot be taken over must not keep the others from it."""
        try:
            message = ingest_pb2.PopulateRequest.FromString(wire)
            request = check_request(message, request_id, self._datasets, self._sources)
            if await self._populates.take_over(request):
                logger.info("took over Populate %s", request_id)
        except (PenstockError, DecodeError) as exc:
            logger.warning("Populate %s cannot be taken over: %s", request_id, exc)
