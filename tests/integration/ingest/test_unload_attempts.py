"""An unload's ledger row says what became of it, however long it took and however it ended."""

from __future__ import annotations

import asyncio

import pytest

from ingest_service.ledger import loads
from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.routing import ObjectUri
from ingest_service.unload import Unloader, UnloadLimits
from shared.errors import NotFound, Unavailable
from tests.integration.ingest.rig import Rig, by_key, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)


def uri(rig: Rig) -> ObjectUri:
    return ObjectUri(bucket=rig.bucket, key="things/a.csv")


async def test_unload_takes_the_rows_back(rig: Rig) -> None:
    await rig.put([ONE])
    await rig.loader().load(rig.job())
    load = await Unloader(pool=rig.pool, owner="here").unload(rig.lab.dataset, uri(rig))
    assert (load.state, load.trigger, load.rows_deleted) == (LoadState.SUCCEEDED, LoadTrigger.UNLOAD, 1)
    assert await rig.table() == {}


async def test_unload_that_waits_long_gives_signs_of_life(rig: Rig) -> None:
    """Without them the sweep takes it for a vanished process after two minutes, and a big one could never succeed."""
    await rig.put([ONE])
    await rig.loader().load(rig.job())
    unloader = Unloader(pool=rig.pool, owner="here", limits=UnloadLimits(heartbeat_s=0.02))
    async with rig.locked_dataset(), rig.lab.connect() as connection:
        unloading = asyncio.create_task(unloader.unload(rig.lab.dataset, uri(rig)))
        await until(lambda: _running(rig))
        await connection.execute("UPDATE penstock.loads SET heartbeat_at = '-infinity' WHERE state = 'RUNNING'")
        beating = "SELECT heartbeat_at > '-infinity' FROM penstock.loads WHERE state = 'RUNNING'"
        await until(lambda: connection.fetchval(beating))
        assert await loads.sweep_abandoned(connection) == []
    assert (await unloading).state is LoadState.SUCCEEDED


async def test_unload_that_its_caller_cancels_is_ended_and_changes_nothing(rig: Rig) -> None:
    await rig.put([ONE])
    await rig.loader().load(rig.job())
    async with rig.locked_dataset():
        unloading = asyncio.create_task(Unloader(pool=rig.pool, owner="here").unload(rig.lab.dataset, uri(rig)))
        await until(lambda: _running(rig))
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
    ended = (await rig.ledger())[-1]
    assert (ended.state, ended.reason) == (LoadState.FAILED, "CANCELLED")
    assert await rig.table() == by_key([ONE])


async def test_unload_of_an_unknown_object_fails_by_name(rig: Rig) -> None:
    with pytest.raises(NotFound):
        await Unloader(pool=rig.pool, owner="here").unload(rig.lab.dataset, uri(rig))
    assert [(load.state, load.reason) for load in await rig.ledger()] == [(LoadState.FAILED, "OBJECT_NOT_LOADED")]


async def test_unload_whose_connection_is_lost_is_ended_over_another_one(rig: Rig) -> None:
    await rig.put([ONE])
    await rig.loader().load(rig.job())
    async with rig.locked_dataset():
        unloading = asyncio.create_task(Unloader(pool=rig.pool, owner="here").unload(rig.lab.dataset, uri(rig)))
        await until(lambda: _running(rig))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: _waiting(rig))
        await rig.execute(kill)
        with pytest.raises(Unavailable):
            await unloading
    assert (await rig.ledger())[-1].state is LoadState.FAILED
    assert await rig.table() == by_key([ONE])


async def test_unloads_that_wait_leave_the_loads_their_connections(rig: Rig) -> None:
    await rig.put([ONE])
    await rig.put([ONE], "things/b.csv")
    await rig.loader().load(rig.job())
    unloader = Unloader(pool=rig.pool, owner="here")
    async with rig.locked_dataset():
        waiting = [asyncio.create_task(unloader.unload(rig.lab.dataset, uri(rig))) for _ in range(20)]
        await until(lambda: _waiting(rig))
        async with asyncio.timeout(5), rig.pool.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    ended = await asyncio.gather(*waiting)
    assert sum(load.rows_deleted for load in ended) == 1


async def _running(rig: Rig) -> bool:
    return (await rig.ledger())[-1].state is LoadState.RUNNING


async def _waiting(rig: Rig) -> bool:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with rig.lab.connect("penstock") as connection:
        return bool(await connection.fetchval(statement))
