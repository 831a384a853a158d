"""The pool against a real Postgres: what it sets, what it undoes, and what its errors say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from shared.errors import ConfigError, DeadlineExceeded, FailedPrecondition, Unavailable
from shared.postgres.errors import translate, translated
from shared.postgres.pool import open_pool, session_settings


def changed(url: str, *, user: str | None = None, port: int | None = None, path: str | None = None) -> str:
    """The URL with another login, port or database."""
    parts = urlsplit(url)
    login = user or f"{parts.username}:{parts.password}"
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port or parts.port}", path=path or parts.path))


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    """A pool of one connection, so that the next user gets what the last one left."""
    async with open_pool(postgres_url, application_name="pool-test", max_size=1) as opened:
        yield opened


async def test_connection_has_name_timeouts_and_keepalives(postgres_url: str) -> None:
    async with open_pool(
        postgres_url, application_name="pool-test", statement_timeout_s=7, lock_timeout_s=0.5, max_size=1
    ) as pool:
        rows = await pool.fetch("SELECT name, setting FROM pg_settings")
    settings = {row["name"]: row["setting"] for row in rows}
    expected = {
        "application_name": "pool-test",
        "statement_timeout": "7000",
        "lock_timeout": "500",
        "idle_in_transaction_session_timeout": "60000",
        "tcp_keepalives_idle": "20",
        "tcp_user_timeout": "45000",
    }
    assert expected.items() <= settings.items()


async def test_our_end_notices_a_vanished_server_too(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    async with pool.acquire() as connection:
        raw = connection._con._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20


async def test_release_costs_no_round_trip(pool: asyncpg.Pool[asyncpg.Record], postgres_url: str) -> None:
    async with pool.acquire() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    observer = await asyncpg.connect(postgres_url)
    try:
        last = await observer.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
    finally:
        await observer.close()
    assert last == "SELECT pg_backend_pid()"


async def test_transaction_left_open_is_rolled_back_before_the_next_user(
    pool: asyncpg.Pool[asyncpg.Record],
) -> None:
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context["message"]))
    async with pool.acquire() as connection:
        await connection.execute("CREATE TABLE t (n int)")
        await connection.execute("BEGIN; INSERT INTO t VALUES (1)")
    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT count(*) FROM t") == 0
    assert any("active transaction" in report for report in reports)


async def test_cancelled_query_leaves_the_connection_usable(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await pool.execute("SELECT pg_sleep(30)")
    async with asyncio.timeout(5):
        assert await pool.fetchval("SELECT 1") == 1


async def test_unreachable_server_says_where_and_which_setting(postgres_url: str) -> None:
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: refuses for as long as it is held
        port = bound.getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            async with open_pool(changed(postgres_url, port=port), application_name="t"):
                pass
    assert caught.value.message.startswith(f"cannot reach Postgres at 127.0.0.1:{port} (PENSTOCK_DATABASE_URL): ")
    assert "\n" not in caught.value.message


async def test_server_that_does_not_answer_is_given_up(postgres_url: str) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = changed(postgres_url, port=silent.getsockname()[1])
        with pytest.raises(Unavailable, match="no answer in time"):
            async with open_pool(url, application_name="t", connect_timeout_s=0.3):
                pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": "nobody:s3cret"}, "refuses the login"),
        ({"path": "/no_such_database"}, "no such database"),
    ],
)
async def test_wrong_login_and_database_are_config_errors_without_the_password(
    postgres_url: str, change: dict[str, str], words: str
) -> None:
    password = urlsplit(postgres_url).password or "?"
    with pytest.raises(ConfigError, match=words) as caught:
        async with open_pool(changed(postgres_url, **change), application_name="t"):  # type: ignore[arg-type]
            pass
    assert "PENSTOCK_DATABASE_URL" in caught.value.message
    assert "s3cret" not in caught.value.message
    assert password not in caught.value.message


async def test_url_that_is_none_is_a_config_error_that_quotes_nothing() -> None:
    for url in ("postgresql://u:s3/cret@h:x/db", "http://u:s3cret@h/db"):
        with pytest.raises(ConfigError, match="is not a Postgres URL") as caught:
            async with open_pool(url, application_name="t"):
                pass
        assert "s3" not in caught.value.message


async def test_lazy_pool_opens_while_the_server_is_away() -> None:
    async with open_pool("postgresql://u:p@127.0.0.1:1/db", application_name="t", min_size=0) as pool:
        with pytest.raises(Unavailable), translated():
            await pool.fetchval("SELECT 1")


async def test_pooler_mode_caches_no_statements_and_sends_only_its_name(postgres_url: str) -> None:
    async with open_pool(
        postgres_url, application_name="t", statement_cache_size=0, statement_timeout_s=7, max_size=1
    ) as pool:
        assert await pool.fetchval("SHOW statement_timeout") == "0"
        assert await pool.fetchval("SELECT count(*) FROM pg_prepared_statements") <= 1


@pytest.mark.parametrize(
    ("sql", "kind", "reason"),
    [
        ("SELECT * FROM nowhere", FailedPrecondition, "SCHEMA_MISMATCH"),
        ("SET LOCAL statement_timeout = 20; SELECT pg_sleep(10)", DeadlineExceeded, "STATEMENT_TIMEOUT"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '57P01'; END $$", Unavailable, "DATABASE_RESTARTING"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '40001'; END $$", Unavailable, "SERIALIZATION_FAILURE"),
        ("DO $$ BEGIN RAISE 'conflict with recovery' USING ERRCODE = '40001'; END $$", Unavailable, "REPLICA_CONFLICT"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '55P03'; END $$", Unavailable, "LOCK_TIMEOUT"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '53200'; END $$", Unavailable, "DATABASE_BUSY"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '25006'; END $$", Unavailable, "DATABASE_READ_ONLY"),
        ("DO $$ BEGIN RAISE 'x' USING ERRCODE = '42501'; END $$", FailedPrecondition, "DATABASE_PERMISSION"),
    ],
)
async def test_driver_errors_are_translated_by_sqlstate(
    pool: asyncpg.Pool[asyncpg.Record], sql: str, kind: type[Any], reason: str
) -> None:
    with pytest.raises(kind) as caught, translated():
        await pool.execute(sql)
    assert caught.value.reason == reason
    assert isinstance(caught.value.__cause__, (asyncpg.PostgresError, asyncpg.InterfaceError))


async def test_lost_connection_is_unavailable_and_the_pool_recovers(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    async with pool.acquire() as connection:
        connection.terminate()
        with pytest.raises(Unavailable), translated():
            await connection.fetchval("SELECT 1")
    assert await pool.fetchval("SELECT 1") == 1


async def test_backend_that_is_shot_down_is_unavailable_and_the_pool_recovers(
    pool: asyncpg.Pool[asyncpg.Record], postgres_url: str
) -> None:
    async with pool.acquire() as connection:
        pid = connection.get_server_pid()
        sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(30)"))
        killer = await asyncpg.connect(postgres_url)
        try:
            asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1"
            async with asyncio.timeout(10):
                while not await killer.fetchval(asleep, pid):
                    pass
            await killer.execute("SELECT pg_terminate_backend($1)", pid)
        finally:
            await killer.close()
        with pytest.raises(Unavailable), translated():
            await sleeping
    assert await pool.fetchval("SELECT 1") == 1


async def test_bugs_are_not_dressed_up(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError), translated():
        await pool.execute("SELEC 1")
    bug = KeyError("x")
    assert translate(bug) is bug


def test_session_settings_are_milliseconds_and_never_zero_which_means_no_limit() -> None:
    settings = session_settings(statement_timeout_s=0.0001, idle_in_transaction_timeout_s=None)
    assert settings["statement_timeout"] == "1"
    assert "idle_in_transaction_session_timeout" not in settings
