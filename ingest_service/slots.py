"""Slots for loads: so many at once, and whoever is in no hurry lets everyone else go first. Pure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Handed over in the order of arrival, patient ones only when nobody else waits."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._hurried: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def hold(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Waits for a slot and keeps it for the length of the block."""
        await self._take(self._patient if patient else self._hurried)
        try:
            yield
        finally:
            self._give()

    async def _take(self, queue: deque[asyncio.Future[None]]) -> None:
        if self._free:  # nobody waits then
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot was ours at that very moment
                self._give()
            elif turn in queue:
                queue.remove(turn)
            raise

    def _give(self) -> None:
        for queue in (self._hurried, self._patient):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
