"""The connection that ledger and merge work on: its type, its errors, and text that Postgres can store."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.postgres.errors import translated

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_P = ParamSpec("_P")
_T = TypeVar("_T")


def translating(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    """The same coroutine function under `translated`."""

    @functools.wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with translated():
            return await function(*args, **kwargs)

    return call


def storable(text: str) -> str:
    """`text` with what Postgres cannot store (NUL, lone surrogates) replaced: a reject quotes bad rows."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
