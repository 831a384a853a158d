"""Slots that callers share: connections, streams. Whoever waits is served fairly by caller, not by who asked most.

Pure but for asyncio's futures. Remembers only callers that hold or await a slot.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Shares:
    """`size` slots, of which one caller may hold `per_caller`.

    A slot that comes free goes to the waiting caller that holds the fewest, callers with equally many taking turns; so
    a call waits for one slot of each other caller at most, however many calls of theirs wait before it.
    """

    def __init__(self, size: int, per_caller: int | None = None) -> None:
        self.size = size
        self.per_caller = size if per_caller is None else per_caller
        self._free = size
        self._held: dict[str, int] = {}
        # In the order in which callers are served where they hold the same. Never an empty queue.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._held.keys() | self._waiting.keys())

    def try_acquire(self, caller: str) -> bool:
        """A slot without waiting; False where the caller has to wait."""
        # No slot is free while somebody waits who may hold one, so nobody is overtaken here.
        held = self._held.get(caller, 0)
        if self._free == 0 or held >= self.per_caller:
            return False
        self._free -= 1
        self._held[caller] = held + 1
        return True

    async def acquire(self, caller: str, timeout_s: float) -> None:
        """A slot, which has to be given back by `release`; TimeoutError where none comes free in time."""
        if self.try_acquire(caller):
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        # Not asyncio.timeout, which takes seven times as long.
        timer = loop.call_later(timeout_s, _is_over, turn)
        try:
            await turn
        except (asyncio.CancelledError, TimeoutError):
            if _has_slot(turn):  # it came with the cancellation
                self.release(caller)
            else:
                self._forget(caller, turn)
            raise
        finally:
            timer.cancel()

    def release(self, caller: str) -> None:
        """Gives a slot back, to whoever is next."""
        self._free += 1
        left = self._held[caller] - 1
        if left:
            self._held[caller] = left
        else:
            del self._held[caller]
        self._serve()

    def _serve(self) -> None:
        while self._free and (chosen := self._next()) is not None:
            turn = self._first(chosen)
            if not turn.done():
                self._free -= 1
                self._held[chosen] = self._held.get(chosen, 0) + 1
                turn.set_result(None)

    def _next(self) -> str | None:
        held = self._held
        may_hold = [caller for caller in self._waiting if held.get(caller, 0) < self.per_caller]
        return min(may_hold, key=lambda caller: held.get(caller, 0), default=None)

    def _first(self, caller: str) -> asyncio.Future[None]:
        """The caller's first turn, taken out; its other ones go behind those of all others."""
        queue = self._waiting.pop(caller)
        turn = queue.popleft()
        if queue:
            self._waiting[caller] = queue
        return turn

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(caller)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[caller]


def _is_over(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


def _has_slot(turn: asyncio.Future[None]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None
