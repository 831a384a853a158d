"""Decides what may start: so many events at once, and never two of the same object."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager


class Admission:
    """Counts the messages in hand. One that waits (for a retry, or for an older event of its object) takes no place:
    a poison object must not stall the others. `linger_s`: how long a free place waits for others to become free.
    """

    def __init__(self, *, concurrency: int, in_flight_limit: int, linger_s: float = 0.0) -> None:
        self._concurrency = concurrency
        self._linger_s = linger_s
        self._in_flight_limit = in_flight_limit
        self._places = asyncio.Semaphore(concurrency)
        self._turns = _Turns()
        self._held = 0
        self._waiting = 0
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        """How many more messages can be started now."""
        busy = self._held - self._waiting
        return max(0, min(self._concurrency - busy, self._in_flight_limit - self._held))

    async def until_free(self) -> int:
        """Waits until something can be started; how much. For half of the places it waits a little longer."""
        await self._until_free(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await self._until_free((self._concurrency + 1) // 2)
        return self.free

    async def _until_free(self, places: int) -> None:
        while self.free < places:
            self._changed.clear()
            await self._changed.wait()

    def take(self) -> None:
        """A message was received."""
        self._held += 1

    def give_back(self) -> None:
        """A message left our hands."""
        self._held -= 1
        self._changed.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The message does nothing but wait."""
        self._waiting += 1
        self._changed.set()
        try:
            yield
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def admitted(self, key: Hashable) -> AsyncIterator[None]:
        """Holds the turn of `key`, in order of arrival, and then a place."""
        async with AsyncExitStack() as stack:
            with self.waiting():
                await stack.enter_async_context(self._turns.hold(key))
            await stack.enter_async_context(self._places)
            yield


class _Turns:
    """A lock per key that exists only while somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)
