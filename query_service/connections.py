"""Connections that stay out of the pool between calls: asyncpg's pool spends two tasks a call on taking and returning.

Never hands out a connection that is closed, or that a call was interrupted on: a BEGIN that was under way would put the
next call into the snapshot of the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"  # generic in its stubs only
# Without it a release may take as long as the call had for its connection, which at a caller's deadline is nothing.
_RELEASE_S = 5.0


class Connections:
    """The pool's connections but one, which is left for readiness checks. The last one used is the next one taken."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._idle: list[Connection] = []
        self.size = max(1, pool.get_max_size() - 1)
        self._free = asyncio.Semaphore(self.size)

    @asynccontextmanager
    async def take(self, timeout_s: float) -> AsyncIterator[Connection]:
        """A connection for as long as the block lasts; TimeoutError where none comes free in time."""
        if self._free.locked():
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        else:
            await self._free.acquire()
        try:
            connection = await self._open(timeout_s)
            try:
                yield connection
            except BaseException:
                # The pool waits for a cancelled statement to end, and rolls back what it has begun.
                await self._pool.release(connection, timeout=_RELEASE_S)
                raise
            await self._put_back(connection)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Returns all idle connections to the pool; call it when nothing runs any more."""
        while self._idle:
            await self._pool.release(self._idle.pop())

    async def _open(self, timeout_s: float) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            await self._pool.release(connection)
        return await self._pool.acquire(timeout=timeout_s)

    async def _put_back(self, connection: Connection) -> None:
        if not connection.is_closed() and not connection.is_in_transaction():
            self._idle.append(connection)
            return
        await self._pool.release(connection, timeout=_RELEASE_S)
