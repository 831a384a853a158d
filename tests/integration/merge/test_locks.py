"""Nobody waits for ever: a busy dataset times out, a vanished holder is cut off, a reader is never disturbed."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from ingest_service.ledger import loads
from ingest_service.ledger.datasets import LockTimes, locked
from ingest_service.ledger.records import LoadState
from ingest_service.merge.merge import MergeLimits
from shared.errors import Unavailable
from tests.integration.merge.lab import Lab, Thing

ROWS = [Thing(owner="o", number=n) for n in range(10)]


async def test_waiting_for_the_dataset_ends_with_unavailable(lab: Lab) -> None:
    limits = MergeLimits(bulk_rows=10**9, lock=LockTimes(lock_timeout_s=0.2))
    async with lab.connect() as holder, lab.connect() as connection:
        async with locked(holder, lab.dataset, LockTimes()):
            with pytest.raises(Unavailable) as refused:
                await lab.load(connection, ROWS, limits=limits)
        assert refused.value.reason == "LOCK_TIMEOUT"
        assert (await lab.load(connection, ROWS, limits=limits)).dataset_version == 1


async def test_dataset_that_is_busy_does_not_hold_up_another(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("INSERT INTO penstock.datasets (name, contract, fingerprint) VALUES ('other', '{}', 'x')")
    async with lab.connect() as holder, lab.connect() as connection, holder.transaction():
        await holder.execute("SELECT FROM penstock.datasets WHERE name = 'other' FOR UPDATE")
        assert (await asyncio.wait_for(lab.load(connection, ROWS), 20)).dataset_version == 1


async def test_holder_that_hangs_between_statements_loses_the_lock(lab: Lab) -> None:
    async with lab.connect() as holder, lab.connect() as connection:
        transaction = locked(holder, lab.dataset, LockTimes(idle_s=0.3))
        await transaction.__aenter__()
        result = await asyncio.wait_for(lab.load(connection, ROWS), 20)
        assert result.state is LoadState.SUCCEEDED
        with pytest.raises(Unavailable):
            await transaction.__aexit__(None, None, None)


async def test_running_statement_of_a_vanished_client_frees_the_lock(lab: Lab) -> None:
    async with lab.connect() as connection:
        holder = await asyncpg.connect(lab.url, server_settings={"role": "penstock_ingest"})
        transaction = locked(holder, lab.dataset, LockTimes(client_check_s=0.2))
        await transaction.__aenter__()
        sleeping = asyncio.create_task(holder.execute("SELECT pg_sleep(600)"))
        await asyncio.sleep(0)
        holder.terminate()
        began = time.monotonic()
        assert (await asyncio.wait_for(lab.load(connection, ROWS), 20)).dataset_version == 1
        assert time.monotonic() - began < 15
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await sleeping


async def test_lock_of_a_vanished_host_is_free_within_a_minute(lab: Lab) -> None:
    async with lab.connect() as connection, locked(connection, lab.dataset, LockTimes()):
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        idle, interval, count, user_ms = [
            int(await connection.fetchval("SELECT setting FROM pg_settings WHERE name = $1", name)) for name in names
        ]
        idle_ms = int(
            await connection.fetchval(
                "SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
            )
        )
    assert 0 < idle + interval * count <= 60
    assert 0 < user_ms <= 60_000
    assert 0 < idle_ms <= 60_000


async def test_outcome_of_a_lost_commit_is_awaited_not_guessed(lab: Lab) -> None:
    """The merge is done and its COMMIT is still to come when its client asks: the answer waits for it."""
    async with lab.connect() as holder, lab.connect() as observer:
        load = await lab.start(holder, lab.version_of())
        async with locked(holder, lab.dataset, LockTimes()):
            await holder.execute("UPDATE penstock.loads SET state = 'SUCCEEDED' WHERE id = $1", load.id)
            asked = asyncio.ensure_future(loads.committed_load(observer, load))
            await _until_waiting(lab, observer.get_server_pid())
            assert not asked.done()
        answer = await asyncio.wait_for(asked, 10)
    assert answer is not None


async def _until_waiting(lab: Lab, pid: int) -> None:
    """Returns when that backend waits for a lock."""
    deadline = time.monotonic() + 10
    async with lab.connect("penstock") as watcher:
        while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", pid):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_snapshot_opened_before_a_load_reads_the_old_rows_to_its_end(lab: Lab) -> None:
    async with lab.connect("penstock_query") as reader, lab.connect() as connection:
        await lab.load(connection, ROWS)
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            assert await reader.fetchval("SELECT version FROM penstock.datasets") == 1
            await lab.load(connection, [Thing(owner="o", number=n, label="new") for n in range(5, 15)])
            rows = await reader.fetch("SELECT label FROM data.things")
            assert [row["label"] for row in rows] == [""] * 10
            assert await reader.fetchval("SELECT version FROM penstock.datasets") == 1
        assert await reader.fetchval("SELECT count(*) FROM data.things WHERE label = 'new'") == 10
