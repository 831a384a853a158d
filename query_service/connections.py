"""Connections that stay out of the pool between calls: asyncpg's pool spends two tasks a call on taking and returning.

Never hands out a connection that is closed, or that a call was interrupted on: a BEGIN that was under way would put the
next call into the snapshot of the one before.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
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

    def take(self, timeout_s: float) -> AbstractAsyncContextManager[Connection]:
        """A connection for as long as the block lasts; TimeoutError where none comes free in time."""
        return _Taken(self, timeout_s)

    async def acquire(self, timeout_s: float) -> Connection:
        """A connection that has to be given back by `put_back` or `give_up`."""
        if self._free.locked():
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        else:
            await self._free.acquire()
        try:
            return await self._open(timeout_s)
        except BaseException:
            self._free.release()
            raise

    async def put_back(self, connection: Connection) -> None:
        """For the next call, where it is as this one found it."""
        try:
            if not connection.is_closed() and not connection.is_in_transaction():
                self._idle.append(connection)
            else:
                await self._pool.release(connection, timeout=_RELEASE_S)
        finally:
            self._free.release()

    async def give_up(self, connection: Connection) -> None:
        """After an interruption: the pool waits for a cancelled statement to end, and rolls back what it has begun."""
        try:
            await self._pool.release(connection, timeout=_RELEASE_S)
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


class _Taken:
    """`Connections.take`; no generator, because every call passes through here."""

    def __init__(self, connections: Connections, timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Connection:
        self._connection = await self._connections.acquire(self._timeout_s)
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if exc is None:
            await self._connections.put_back(self._connection)
        else:
            await self._connections.give_up(self._connection)
