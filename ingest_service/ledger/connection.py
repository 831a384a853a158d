"""The connection that ledger and merge work on: its type, its errors, and text that Postgres can store."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.errors import Unavailable
from shared.postgres.errors import translated

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_P = ParamSpec("_P")
_T = TypeVar("_T")


@contextmanager
def database_errors() -> Iterator[None]:
    """Driver errors leave as PenstockError; a lost connection always as Unavailable, so that a load is tried again.

    A FATAL that arrives between two statements (the server stops, a backend is terminated) leaves asyncpg in a state
    that it reports as an internal error. Nobody shares these connections, so misuse is no other cause of it.
    """
    try:
        with translated():
            yield
    except asyncpg.InternalClientError as exc:
        if "cannot switch to state" not in str(exc):
            raise
        message = "the connection to the database was lost"
        raise Unavailable(message, reason="DATABASE_UNREACHABLE", retry_after_s=1.0) from exc


def translating(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    """The same coroutine function under `database_errors`."""

    @functools.wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with database_errors():
            return await function(*args, **kwargs)

    return call


def storable(text: str) -> str:
    """`text` with what Postgres cannot store (NUL, lone surrogates) replaced: a reject quotes bad rows."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
