"""Whether the database answers: what readiness follows, and what keeps the consumer from receiving in vain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from shared.postgres.errors import DRIVER_ERRORS

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
TIMEOUT_S = 3.0


class Readiness:
    """Asks the database with a query of its own; a pool that holds open sockets proves nothing."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._ready: bool | None = None

    async def check(self) -> bool:
        """Whether a statement is answered now. A pool that is merely busy counts as ready: its work goes on."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._pool.execute("SELECT 1")
        except TimeoutError:
            return self._pool.get_idle_size() == 0 and self._pool.get_size() == self._pool.get_max_size()
        except DRIVER_ERRORS as exc:
            if self._ready is not False:
                logger.warning("the database does not answer: %s: %s", type(exc).__name__, exc)
            self._ready = False
            return False
        self._ready = True
        return True

    async def run(self, announce: Callable[[bool], Awaitable[None]]) -> None:
        """Tells `announce` the state now and every `INTERVAL_S`, until cancelled."""
        while True:
            await announce(await self.check())
            await asyncio.sleep(INTERVAL_S)
