"""How long a Watch may last: to its limit, or until the server stops. Holds nothing but the clocks of running calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import Unavailable


class Watches:
    """The watches of one server. They never end by themselves, so a stop must not wait for them."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._stopping = False

    @asynccontextmanager
    async def bounded(self, longest_s: float) -> AsyncIterator[None]:
        """Ends the block with Unavailable after `longest_s`, or when `stop` is called."""
        limit = asyncio.timeout(0 if self._stopping else longest_s)
        self._limits.add(limit)
        try:
            async with limit:
                yield
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise Unavailable(
                "the watch ends here: call again with the last resume_token", reason="WATCH_ENDED", retry_after_s=0.1
            ) from exc
        finally:
            self._limits.discard(limit)

    def stop(self) -> None:
        """Sends all callers, and those who still come, to another server."""
        self._stopping = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)
