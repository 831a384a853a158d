"""The asyncpg pool: bounded waits, no reset round trip, errors that say what to set. Never shows a password.

The pool does not reset a connection when it comes back (that costs a round trip, half of a small query's time): an open
transaction is rolled back, nothing else. So whoever uses it sets session state only with SET LOCAL, takes advisory
locks only for a transaction, and LISTENs on a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from shared.errors import ConfigError, PenstockError, Unavailable
from shared.postgres.times import exact_times

_LOG = logging.getLogger(__name__)
_CLOSE_S = 5.0
# A vanished peer is noticed after 20 + 5 * 5 = 45 s, on both ends: the server then frees its locks (within 60 s).
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 20, 5, 5


def session_settings(
    *,
    statement_timeout_s: float | None = None,
    idle_in_transaction_timeout_s: float | None = 60.0,
    lock_timeout_s: float | None = None,
) -> dict[str, str]:
    """The server settings of a connection, for `asyncpg.connect(server_settings=...)` too. None leaves one out."""
    limits = {
        "statement_timeout": statement_timeout_s,
        "idle_in_transaction_session_timeout": idle_in_transaction_timeout_s,
        "lock_timeout": lock_timeout_s,
    }
    return {
        "tcp_keepalives_idle": str(_KEEPALIVE_IDLE_S),
        "tcp_keepalives_interval": str(_KEEPALIVE_INTERVAL_S),
        "tcp_keepalives_count": str(_KEEPALIVE_COUNT),
        "tcp_user_timeout": str(1000 * (_KEEPALIVE_IDLE_S + _KEEPALIVE_INTERVAL_S * _KEEPALIVE_COUNT)),
        **{name: str(max(1, round(limit * 1000))) for name, limit in limits.items() if limit is not None},
    }


@asynccontextmanager
async def open_pool(
    url: str,
    *,
    application_name: str,
    min_size: int = 1,
    max_size: int = 10,
    statement_timeout_s: float | None = None,
    idle_in_transaction_timeout_s: float | None = 60.0,
    lock_timeout_s: float | None = None,
    server_settings: Mapping[str, str] | None = None,
    statement_cache_size: int = 256,
    connect_timeout_s: float = 10.0,
    setting: str = "PENSTOCK_DATABASE_URL",
    first_statement: str = "",
) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    """A pool whose first `min_size` connections work; with 0 it connects when first used.

    `setting` names the variable that holds `url` in messages. `statement_cache_size` 0 means PgBouncer in transaction
    mode, which takes no server settings but the application's name: ALTER ROLE ... SET has to carry the limits then.
    `first_statement` runs once on each new connection.
    Raises ConfigError for a wrong URL, login or database, and Unavailable for a server that cannot be reached.
    """

    async def prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        _keep_alive(connection)
        await exact_times(connection)
        if first_statement:
            await connection.execute(first_statement)

    settings = {"application_name": application_name}
    if statement_cache_size > 0:
        settings |= session_settings(
            statement_timeout_s=statement_timeout_s,
            idle_in_transaction_timeout_s=idle_in_transaction_timeout_s,
            lock_timeout_s=lock_timeout_s,
        )
        settings |= server_settings or {}
    try:
        pool: asyncpg.Pool[asyncpg.Record] = await asyncpg.create_pool(
            url,
            min_size=min(min_size, max_size),
            max_size=max_size,
            init=prepare,
            reset=_no_reset,
            timeout=connect_timeout_s,
            statement_cache_size=statement_cache_size,
            server_settings=settings,
        )
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise connect_error(exc, url, setting) from exc
    try:
        yield pool
    finally:
        await _close(pool)


def connect_error(exc: Exception, url: str, setting: str = "PENSTOCK_DATABASE_URL") -> PenstockError:
    """What a failed connect means, in one line without the password: ConfigError, or Unavailable when it may pass."""
    where = f"{location(url)} ({setting})"
    if isinstance(exc, asyncpg.InvalidAuthorizationSpecificationError):  # also the class of a wrong password
        return _config(f"Postgres at {where} refuses the login: check the user and password of {setting}")
    if isinstance(exc, asyncpg.InvalidCatalogNameError):
        return _config(f"Postgres at {where} has no such database: check the path of {setting}, or create it")
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        return _config(f"Postgres at {where}: the user may not connect to the database: GRANT CONNECT to it")
    if isinstance(exc, (asyncpg.ClientConfigurationError, ValueError)):
        return _config(f"{setting} is not a Postgres URL: write postgresql://user:password@host:5432/database")
    return Unavailable(
        f"cannot reach Postgres at {where}: {_cause(exc)}", reason="DATABASE_UNREACHABLE", retry_after_s=1.0
    )


def _config(message: str) -> ConfigError:
    return ConfigError(message, reason="DATABASE_CONFIG")


def _cause(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return " ".join(str(exc).split()) or type(exc).__name__


def location(url: str) -> str:
    """host:port of a URL; a URL that cannot be split is not quoted, because its parts may be the password's."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        return "an unreadable address"
    return f"{parts.hostname or 'localhost'}:{port}"


async def _no_reset(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """Instead of asyncpg's reset query; asyncpg itself has rolled an open transaction back before it calls this."""


def _keep_alive(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Notice a vanished server: asyncpg has no option for it, and the socket is its transport's."""
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None or raw.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):  # Linux has all three
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _close(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    try:
        await asyncio.wait_for(pool.close(), _CLOSE_S)
    except TimeoutError:
        _LOG.warning("connections were still in use after %s s and were dropped", _CLOSE_S)
        pool.terminate()
