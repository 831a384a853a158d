"""The connection type that ledger and merge take, and text that Postgres can store. No behaviour of its own."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


def storable(text: str) -> str:
    """`text` with what Postgres cannot store (NUL, lone surrogates) replaced: a reject quotes bad rows."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
