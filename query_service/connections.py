"""Connections that stay out of the pool between calls: asyncpg's pool spends two tasks a call on taking and returning.

Never hands out a connection that is closed, or that a call was interrupted on: a BEGIN that was under way would put the
next call into the snapshot of the one before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from query_service.shares import Shares
from shared.errors import ResourceExhausted
from shared.rpc.identity import CALLER

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"  # generic in its stubs only
# Without it a release may take as long as the call had for its connection, which at a caller's deadline is nothing.
_RELEASE_S = 5.0


class Connections:
    """The pool's connections but one, which is left for readiness checks. The last one used is the next one taken.

    Callers that can be told apart leave one another a connection and take turns; `queue_s` is how long one waits.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, queue_s: float, told_apart: bool) -> None:
        self._pool = pool
        self._idle: list[Connection] = []
        self.size = max(1, pool.get_max_size() - 1)
        self._queue_s = queue_s
        # With two, a caller's stream and a page of its own already are all of them.
        self._shares = Shares(self.size, self.size - 1 if told_apart and self.size > 2 else self.size)

    @asynccontextmanager
    async def take(self, timeout_s: float) -> AsyncIterator[Connection]:
        """A connection for as long as the block lasts; ResourceExhausted where none comes free in time."""
        caller = CALLER.get()
        connection = await self._acquire(caller, timeout_s)
        try:
            yield connection
        except BaseException:
            await self._give_up(caller, connection)
            raise
        await self._put_back(caller, connection)

    async def fetchrow(self, sql: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """The first row of one statement, or None; no block, because every call passes through here."""
        caller = CALLER.get()
        connection = await self._acquire(caller, timeout_s)
        try:
            row = await connection.fetchrow(sql, *arguments, timeout=timeout_s)
        except BaseException:
            await self._give_up(caller, connection)
            raise
        # In no transaction, for plans begin none. If it was closed meanwhile, the next call sees that.
        self._idle.append(connection)
        self._shares.release(caller)
        return row

    async def _acquire(self, caller: str, timeout_s: float) -> Connection:
        """A connection that has to be given back by `_put_back` or `_give_up`."""
        if not self._shares.try_acquire(caller):
            await self._turn(caller, timeout_s)
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
                await self._pool.release(connection)
            return await self._pool.acquire(timeout=timeout_s)
        except BaseException:
            self._shares.release(caller)
            raise

    async def _turn(self, caller: str, timeout_s: float) -> None:
        try:
            await self._shares.acquire(caller, min(timeout_s, self._queue_s))
        except TimeoutError as exc:
            raise ResourceExhausted(
                f"no database connection came free within {self._queue_s:g} s: ask again, or for less at once",
                reason="NO_FREE_CONNECTION",
                metadata={"identity": caller},
                retry_after_s=1.0,
            ) from exc

    async def _put_back(self, caller: str, connection: Connection) -> None:
        """For the next call, where it is as this one found it."""
        try:
            if not connection.is_closed() and not connection.is_in_transaction():
                self._idle.append(connection)
            else:
                await self._pool.release(connection, timeout=_RELEASE_S)
        finally:
            self._shares.release(caller)

    async def _give_up(self, caller: str, connection: Connection) -> None:
        """After an interruption: the pool waits for a cancelled statement to end, and rolls back what it has begun."""
        try:
            await self._pool.release(connection, timeout=_RELEASE_S)
        finally:
            self._shares.release(caller)

    async def close(self) -> None:
        """Returns all idle connections to the pool; call it when nothing runs any more."""
        while self._idle:
            await self._pool.release(self._idle.pop())
