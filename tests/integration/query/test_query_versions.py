"""Versions: heard by notification, found without one, believed when they go back, not current while nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from ingest_service.ledger.datasets import VERSION_CHANNEL
from query_service.app import versions_pool
from query_service.settings import QueryLimits, QuerySettings
from query_service.versions import CHANNEL, Versions
from shared.local.postgres import EmbeddedPostgres
from shared.settings import DatabaseSettings, RpcSettings
from tests.integration.query.lab import Lab

NEVER_S = 3600.0
COMMIT = """WITH changed AS (UPDATE penstock.datasets SET version = version + 1 WHERE name = 'readings' RETURNING name)
SELECT pg_notify('penstock_version', name) FROM changed"""


@asynccontextmanager
async def listening(lab: Lab, poll_s: float = NEVER_S) -> AsyncIterator[Versions]:
    """Versions that have looked once."""
    settings = QuerySettings(
        contracts=None, rpc=RpcSettings(), database=DatabaseSettings(url=lab.url), limits=QueryLimits()
    )
    async with versions_pool(settings) as pool:
        versions = Versions(pool, poll_s=poll_s)
        running = asyncio.create_task(versions.run())
        try:
            assert await versions.changed("readings", beyond=-1, timeout_s=20)
            yield versions
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.fixture
async def versions(lab: Lab) -> AsyncIterator[Versions]:
    async with listening(lab) as heard:
        yield heard


async def until_lost(versions: Versions) -> None:
    async with asyncio.timeout(20):
        while versions.current("readings") is not None:  # noqa: ASYNC110  the loss of a connection rings nobody's bell
            await asyncio.sleep(0.01)


def test_queries_listen_where_loads_notify() -> None:
    assert CHANNEL == VERSION_CHANNEL


async def test_a_commit_is_heard_at_once(lab: Lab, versions: Versions) -> None:
    waiting = [asyncio.create_task(versions.changed("readings", beyond=0, timeout_s=20)) for _ in range(3)]
    await lab.execute(COMMIT)
    standings = await asyncio.gather(*waiting)
    assert [standing.version for standing in standings if standing] == [1, 1, 1]
    assert versions.current("readings") == standings[0]


async def test_a_version_that_was_reached_before_is_not_waited_for(lab: Lab, versions: Versions) -> None:
    await lab.execute(COMMIT)
    await versions.changed("readings", beyond=0, timeout_s=20)
    standing = await versions.changed("readings", beyond=0, timeout_s=NEVER_S)
    assert standing is not None
    assert standing.version == 1


async def test_without_a_change_the_wait_ends_with_what_is_known(versions: Versions) -> None:
    assert await versions.changed("readings", beyond=0, timeout_s=0.01) == versions.current("readings")


async def test_a_version_without_a_word_is_found_by_looking(lab: Lab) -> None:
    async with listening(lab, poll_s=0.05) as versions:
        await lab.execute("UPDATE penstock.datasets SET version = 5")
        standing = await versions.changed("readings", beyond=4, timeout_s=20)
        assert standing is not None
        assert standing.version == 5


async def test_another_epoch_is_news_whatever_its_version(lab: Lab, versions: Versions) -> None:
    await lab.execute(COMMIT)
    before = await versions.changed("readings", beyond=0, timeout_s=20)
    waiting = asyncio.create_task(versions.changed("readings", beyond=100, timeout_s=20))
    await lab.execute("UPDATE penstock.datasets SET epoch = gen_random_uuid(), version = 0")
    await lab.execute("SELECT pg_notify('penstock_version', '')")
    after = await waiting
    assert before is not None
    assert after is not None
    assert after.version == 0
    assert after.epoch != before.epoch


async def test_nothing_is_current_while_nobody_listens(
    lab: Lab, versions: Versions, postgres: EmbeddedPostgres
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as outside:
        outside.execute(f"ALTER DATABASE {lab.database} ALLOW_CONNECTIONS false".encode())
        outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [lab.database])
        await until_lost(versions)
        outside.execute(f"ALTER DATABASE {lab.database} ALLOW_CONNECTIONS true".encode())


async def test_what_was_committed_meanwhile_is_known_once_somebody_listens_again(lab: Lab) -> None:
    async with listening(lab, poll_s=0.05) as versions:
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock-query-versions'"
        )
        async with lab.session() as session, session.transaction():
            await session.execute("UPDATE penstock.datasets SET version = 2")
            await session.execute(f"{end} AND datname = current_database()")
        assert await versions.changed("readings", beyond=1, timeout_s=20)
        assert versions.current("readings") is not None


async def test_a_version_that_went_back_is_believed(lab: Lab) -> None:
    async with listening(lab, poll_s=0.05) as versions:
        await lab.execute("UPDATE penstock.datasets SET version = 7")
        await versions.changed("readings", beyond=6, timeout_s=20)
        await lab.execute("UPDATE penstock.datasets SET version = 6")
        async with asyncio.timeout(20):
            while (standing := versions.current("readings")) is None or standing.version != 6:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
