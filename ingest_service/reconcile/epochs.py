"""What a failover or a restore may have lost: after a change of a dataset's epoch its objects of the time for which the
queue keeps messages are compared again, and the service is not ready before that.

The ledger came back together with the rows, so it says truly what is missing of the bucket.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from ingest_service.backoff import Backoff
from ingest_service.consumer import Queue
from ingest_service.failures import is_retryable
from ingest_service.heartbeat import Lost
from ingest_service.ledger import reconciles
from ingest_service.reconcile.comparison import Window
from ingest_service.reconcile.reconciler import Scope
from ingest_service.reconcile.schedule import Claims, summary
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

# A message may be in work for so long after it was received on its last day (SQS's limit on invisibility).
MARGIN_S = 12 * 3600
# What SQS allows at most, where the queue's own setting may not be asked for.
LONGEST_RETENTION_S = 14 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLimits:
    """`poll_s` between two looks for another epoch; `patience_s` with a busy pool; `backoff` after a run that did not
    come to its end."""

    poll_s: float = 5.0
    patience_s: float = 3.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=1, cap_s=60))


class EpochCheck:
    """`run()` around `run_once()`; `passed()` is what readiness waits for, in every process."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        claims: Claims,
        queue: Queue,
        datasets: Iterable[str],
        limits: EpochLimits | None = None,
    ) -> None:
        self._pool = pool
        self._claims = claims
        self._queue = queue
        self._datasets = sorted(datasets)
        self._limits = limits or EpochLimits()
        self._waiting = False

    async def passed(self) -> bool:
        """Whether nothing that a lost load may have left behind waits to be looked for. False too when the database
        fails; of a pool that is merely busy the answer is that of before."""
        try:
            async with asyncio.timeout(self._limits.patience_s):
                with translated():
                    async with self._pool.acquire() as connection:
                        pending = await reconciles.pending(connection, self._datasets)
        except TimeoutError:
            return not self._waiting
        except PenstockError as exc:
            logger.warning("whether an epoch has changed is not known: %s", exc.message)
            return False
        if pending and not self._waiting:
            logger.warning("not ready: the epoch of %s changed, loads may be lost", ", ".join(pending))
        self._waiting = bool(pending)
        return not pending

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                failures = 0 if await self.run_once() else failures + 1
            except PenstockError as exc:
                failures += 1
                logger.warning("the check of epochs is tried again: %s", exc.message)
            except Exception:
                # Loads are in work in this process: a round that met a bug is no reason to end them.
                failures += 1
                logger.exception("the check of epochs failed")
            delay_s = self._limits.backoff.delay_s(failures, random.random) if failures else self._limits.poll_s
            await asyncio.sleep(delay_s)

    async def run_once(self) -> bool:
        """Looks through the window of what has come to another epoch, unless another process is at it. False when that
        has to be done again."""
        claimed = await self._claims.take(self._datasets)
        if not claimed:
            return True
        try:
            return await self._look_through(claimed)
        except Lost:
            return False
        finally:
            await self._claims.give_back(claimed)

    async def _look_through(self, claimed: Mapping[str, UUID]) -> bool:
        since = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=await self._retention_s() + MARGIN_S)
        scope = Scope(datasets=tuple(sorted(claimed)), window=Window(since=since), patient=False)
        logger.warning("the epoch of %s changed: objects since %s are compared", ", ".join(scope.datasets), since)
        report = await self._claims.run(claimed, scope)
        if any(is_retryable(problem) for problem in report.problems):
            logger.warning("looked through, to be done again: %s", summary(report))
            return False
        # What no patience helps against must not keep the service down; it is told, and in the ledger where it can be.
        logger.log(logging.ERROR if report.problems else logging.INFO, "looked through: %s", summary(report))
        with translated():
            async with self._pool.acquire() as connection:
                await reconciles.rechecked(connection, claimed)
        return True

    async def _retention_s(self) -> int:
        """How long the queue keeps a message, and with it the event of what may have been lost."""
        try:
            attributes = await self._queue.attributes()
        except PenstockError as exc:
            logger.warning("how long the queue keeps messages is not known, the longest is taken: %s", exc.message)
            return LONGEST_RETENTION_S
        return int(attributes.get("MessageRetentionPeriod", LONGEST_RETENTION_S))
